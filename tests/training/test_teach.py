"""Teaching: clips of people's own, found and split; and four motions the shipped model does not know."""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import threading
import time
import unicodedata
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from mjpeg_server import MjpegServer, Send, serving, wait_until

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.cards import load_model
from tsm_edge.cli.main import entry_point
from tsm_edge.errors import TsmEdgeError, VideoError
from tsm_edge.training.clips import bank, draw_scene
from tsm_edge.training.data import UNSEEN, Frames
from tsm_edge.training.evaluate import EvaluateRequest, evaluate
from tsm_edge.training.loop import Diverged
from tsm_edge.training.motions import Path as ObjectPath
from tsm_edge.training.recipe import Recipe
from tsm_edge.training.render import draw_camera, render
from tsm_edge.training.teach import TeachRequest, record, slower, teach
from tsm_edge.training.train import TrainRequest, train
from tsm_edge.training.videos import Clip, Held, VideoData, find_clips, read_clip
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.camera import OpenCvCapture
from tsm_edge.video.writer import VideoFile

CARD = load_model("motion")
TAUGHT = ("circle", "zigzag", "figure eight", "bounce")


def write(path: Path, frames: Iterable[Frames], fps: float = 12.0) -> Path:
    images = list(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    info = SourceInfo("", False, images[0].shape[1], images[0].shape[0], fps, len(images))
    with closing(VideoFile(path, info)) as file:
        for index, image in enumerate(images):
            file.write(image[..., ::-1], index / fps)
    return path


def path_of(label: str, random: np.random.Generator, frames: int = 28) -> ObjectPath:
    """Where the object is: each motion takes 7 to 11 frames for a turn."""
    phase = 2 * math.pi * np.arange(frames) / random.uniform(7, 11) + random.uniform(0, 6)
    reach, (x, y) = random.uniform(0.14, 0.22), random.uniform(0.42, 0.58, 2)
    if label == "circle":
        dx, dy = np.cos(phase), np.sin(phase)
    elif label == "zigzag":
        dx, dy = 2 * np.abs((phase / math.pi / 4) % 2 - 1) - 1, 2 * np.abs((phase / math.pi) % 2 - 1) - 1
    elif label == "figure eight":
        dx, dy = np.sin(phase), np.sin(2 * phase) * 0.6
    else:
        dx, dy = np.zeros(frames), 1 - 2 * np.abs(np.sin(phase / 2))
    rest = np.zeros(frames, np.float32)
    return ObjectPath(
        (x + reach * dx).astype(np.float32), (y + reach * dy).astype(np.float32), rest - 0.2, rest, rest + 1
    )


def draw(folder: Path, label: str, count: int, seed: int, frames: int = 28) -> None:
    for number in range(count):
        random = np.random.default_rng([seed, TAUGHT.index(label), number])
        scene = draw_scene(bank("validation", 1), random)
        images = render(scene, path_of(label, random, frames), draw_camera(frames, random), 96, 128, random)
        write(folder / label / f"{number:02d}.mp4", images)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three clips."""
    folder = tmp_path_factory.mktemp("clips")
    for label in TAUGHT[:2]:
        draw(folder, label, 3, 0, frames=14)
    return folder


def test_a_folder_is_split_by_class_and_always_alike(small: Path) -> None:
    data, again = (VideoData.of(small, CARD, 3) for _ in range(2))
    assert data == again
    assert data.labels == ("circle", "zigzag")
    assert [len(part) for part in data.splits] == [2, 2, 2]
    assert len({clip.path for part in data.splits for clip in part}) == 6


def test_pieces_have_the_networks_size_and_labels(small: Path) -> None:
    data = VideoData.of(small, CARD, 0)
    frames, labels = data.train().training_batch(0, range(2))
    assert frames.shape == (2, CARD.network.frames, 48, 48, 3)
    assert sorted(labels[:, -1].tolist()) == [0, 1]
    assert (labels[:, 0] == UNSEEN).all()
    held = data.test()
    assert (held.batch([0])[0] == Held(data, data.splits[2]).batch([0])[0]).all()


def test_a_network_that_is_not_online_gets_a_frame_of_each_segment(tmp_path: Path) -> None:
    for label in "ab":
        for number in range(3):
            shades = (np.full((48, 64, 3), 5 * index, np.uint8) for index in range(48))
            write(tmp_path / label / f"{number}.mp4", shades)
    network = dataclasses.replace(CARD.network, temporal_mode="offline", frames=4)
    data = VideoData.of(tmp_path, dataclasses.replace(CARD, network=network), 0)
    held = data.test().batch([0])[0][0].mean((1, 2, 3))
    assert held == pytest.approx([30, 90, 150, 210], abs=8), "the middles of four times twelve frames"
    for piece in data.train().training_batch(0, range(2))[0]:
        shade = piece.mean((1, 2, 3))
        assert (np.diff(shade) > 0).all()
        assert shade[-1] - shade[0] > 80, "four frames that follow each other differ by 20 at most"


def test_a_table_gives_parts_of_videos(tmp_path: Path) -> None:
    shades = [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(12)]
    write(tmp_path / "film.mp4", shades)
    rows = [f"film.mp4,{label},{start},{start + 0.25}" for label in "ab" for start in (0, 0.25, 0.5)]
    (tmp_path / "parts.csv").write_text("path,label,start,end\n" + "\n".join(rows) + "\n")
    clips = find_clips(tmp_path / "parts.csv")
    assert len(clips) == 6
    part = read_clip(clips[1], CARD.preprocess, 12)
    assert part.shape == (3, 48, 48, 3)
    assert part.mean((1, 2, 3)) == pytest.approx([60, 80, 100], abs=8)
    assert len(read_clip(clips[1], CARD.preprocess, 4)) == 1
    with pytest.raises(VideoError, match=r"film\.mp4: no frames from 9 s on"):
        read_clip(Clip(tmp_path / "film.mp4", "a", 9.0), CARD.preprocess, 12)


class Waving:
    """Stands for OpenCV's camera: 20 frames a second of a square that goes to the right, over and over."""

    def __init__(self) -> None:
        self._shown = 0

    def grab(self) -> bool:
        time.sleep(0.05)
        self._shown += 1
        return True

    def retrieve(self, image: object = None) -> tuple[bool, Frames]:
        picture = np.full((48, 64, 3), 40, np.uint8)
        left = 4 * self._shown % 48
        picture[16:32, left : left + 16] = 220
        return True, picture

    def get(self, prop: int) -> float:
        return 20.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Nothing is held."""


def test_a_camera_is_recorded_clip_by_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each clip is asked for, has its length, and can be learned from; clips that are there stay."""
    monkeypatch.setattr("tsm_edge.video.source.open_camera", lambda *_arguments: OpenCvCapture(Waving()))
    asked: list[tuple[str, int]] = []
    for clips in (2, 1):
        record(0, tmp_path, ("wave", "rest"), clips, 0.4, lambda label, number: asked.append((label, number)))
    assert asked == [("wave", 1), ("wave", 2), ("rest", 1), ("rest", 2), ("wave", 1), ("rest", 1)]
    found = find_clips(tmp_path)
    assert [clip.path.name for clip in found if clip.label == "wave"] == ["000.mp4", "001.mp4", "002.mp4"]
    for clip in found:
        frames = read_clip(clip, CARD.preprocess, 0)
        assert 3 <= len(frames) <= 9
        assert frames.max() > 180
        assert not (frames[0] == frames[-1]).all()


def test_a_clip_is_recorded_beside_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed the second of three: no other one is replaced."""
    monkeypatch.setattr("tsm_edge.video.source.open_camera", lambda *_arguments: OpenCvCapture(Waving()))
    (tmp_path / "wave").mkdir()
    for name in ("000.mp4", "002.mp4"):
        (tmp_path / "wave" / name).write_text("mine")
    record(0, tmp_path, ("wave",), 2, 0.2, lambda *_asked: None)
    assert sorted(path.name for path in (tmp_path / "wave").iterdir()) == [f"00{number}.mp4" for number in range(4)]
    assert {(tmp_path / "wave" / name).read_text() for name in ("000.mp4", "002.mp4")} == {"mine"}


def endless(server: MjpegServer, send: Send) -> None:
    """Something moves, for as long as anybody looks."""
    while not server.stopping.is_set():
        picture = np.full((48, 64, 3), 40, np.uint8)
        left = server.sent % 48
        picture[16:32, left : left + 16] = 220
        send(picture)
        server.pause(0.02)


def test_of_a_clip_that_breaks_off_nothing_is_kept(tmp_path: Path) -> None:
    """The camera is lost in the second clip: the first one stays."""
    lost = threading.Event()

    def script(server: MjpegServer, send: Send) -> None:
        while not server.stopping.is_set() and not lost.is_set():
            send(server.sent % 256)
            server.pause(0.02)

    def ask(_label: str, number: int) -> None:
        if number == 2:
            arrived = server.sent
            wait_until(lambda: server.sent > arrived + 2)
            lost.set()

    with serving(script) as server, pytest.raises(VideoError, match="the sender closed the stream"):
        record(server.url, tmp_path, ("wave",), 2, 1.5, ask)  # on a busy machine the end takes a while to arrive
    assert [path.name for path in (tmp_path / "wave").iterdir()] == ["000.mp4"]


def test_ctrl_c_in_a_clip_leaves_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: VideoFile, *_arguments: object) -> None:
        file._written = 1
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoFile, "write", write)
    with serving(endless) as server, pytest.raises(KeyboardInterrupt):
        record(server.url, tmp_path, ("wave",), 1, 60, lambda *_asked: None)
    assert list((tmp_path / "wave").iterdir()) == []


def test_classes_are_recorded_from_a_stream_taught_and_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``teach --camera`` from the first question to the command that runs the model; with few steps of training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tsm_edge.training.teach._STEPS", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n" * 6))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with serving(endless) as server:
        words = ["--camera", server.url, "--labels", "wave,rest", "--each", "3", "--seconds", "0.5"]
        assert entry_point(["teach", "mine", *words]) == 0
        address = server.url
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("verified")]
    assert ("press Enter" in out, err.count("press Enter")) == (False, 6)  # with --json, out is JSON
    assert err.splitlines()[-1] == f"next: tsm-edge run out/mine/native --camera {address} --every 2 --smooth"
    clips = find_clips(tmp_path / "out" / "mine" / "clips")
    assert [(clip.label, clip.path.name) for clip in clips] == [
        (label, f"00{number}.mp4") for label in ("rest", "wave") for number in range(3)
    ]
    for clip in clips:
        assert read_clip(clip, CARD.preprocess, 0).max() > 180
    assert load_artifact(tmp_path / "out" / "mine" / "native").manifest.labels == ("rest", "wave")


def test_a_file_is_no_camera_to_record_with(small: Path, tmp_path: Path) -> None:
    video = next(small.glob("*/*.mp4"))
    with pytest.raises(VideoError, match=r"is no camera; teach from files with: --clips DIR"):
        record(str(video), tmp_path, ("wave",), 1, 1.0, lambda *_asked: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("table", [False, True])
def test_a_network_is_trained_on_peoples_clips(small: Path, tmp_path: Path, table: bool) -> None:
    """A step on a folder and on a CSV file of its clips."""
    place = small
    if table:
        place = tmp_path / "clips.csv"
        rows = [f"{path},{path.parent.name},," for path in sorted(small.glob("*/*.mp4"))]
        place.write_text("path,label,start,end\n" + "\n".join(rows) + "\n")
    network = dataclasses.replace(CARD.network, width=0.1, frame_size=32, frames=6)
    card = dataclasses.replace(
        CARD, network=network, preprocess=dataclasses.replace(CARD.preprocess, short_side=32, crop=32)
    )
    request = TrainRequest(card, VideoData.of(place, card, 0), tmp_path / "run", Recipe(epochs=1, batch=2))
    result = train(request)
    assert result.test.overall.clips == 2
    written = load_model(result.card)
    assert written.labels == ("circle", "zigzag")
    assert written.description == f"run: 2 classes, trained on {place.name}"
    report = result.report.read_text()
    for clip in request.data.splits[2]:  # what is wrong there can be found
        assert report.count(str(clip.path)) == 1


def test_what_cannot_be_taught_is_told_before_the_camera_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "other" / "native").mkdir(parents=True)
    (tmp_path / "other" / "native" / "notes.txt").touch()
    monkeypatch.setattr("tsm_edge.training.teach.record", lambda *_arguments: pytest.fail("recorded"))
    for labels, more, message in (
        ("wave,wave", (), "at least two classes, each once"),
        (f"wave,{'x' * 201}", (), "at least two classes, each once, not long"),
        (f"wave,{'ä' * 128}", (), "at least two classes, each once, not long"),
        ("wave,rest", ("--model", "mobilenetv2-jester"), "has no online weights to begin from"),
        ("wave,rest", ("--freeze", "99"), "freeze is 99, expected -1 to 19 parts"),
        ("wave,rest", ("-o", "file"), "file: cannot be written"),
        (
            "wave,rest",
            ("-o", "other"),
            "other/native: exists and is not a compiled artifact; choose another",
        ),
        ("wave,rest", ("--seed", str(2**63)), "is not in the range"),
    ):
        assert entry_point(["teach", "mine", "--camera", "0", "--labels", labels, *more]) == 2
        assert message in capsys.readouterr().err
    assert entry_point(["teach", "a/b", "--camera", "0", "--labels", "wave,rest"]) == 2
    assert (
        "no leading '.' or '-', at most 100 bytes; name the new model: tsm-edge teach NAME" in capsys.readouterr().err
    )


def test_hints_name_what_the_command_has(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``teach`` has no --rate and no --data."""

    def diverge(*_arguments: object) -> None:
        raise Diverged("training diverged: the loss is no number any more", "try a smaller rate: --rate R")

    monkeypatch.setattr("tsm_edge.training.teach.train", diverge)
    assert entry_point(["teach", "mine", "--clips", str(small), "-o", str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "tsm-edge: error: training diverged: the loss is no number any more; train more slowly: "
        f"tsm-edge train --data {small} --init motion --rate 0.0003 -o DIR"
    )
    own = dataclasses.replace(load_model("motion"), weights_file="my/weights.safetensors")
    assert slower(TeachRequest("mine", Path("clips"), tmp_path, "my/own.toml"), own) == (
        "train more slowly: tsm-edge train --data clips --model my/own.toml --init my/weights.safetensors "
        "--rate 0.0003 -o DIR"
    )
    assert entry_point(["teach", "mine", "--clips", "nowhere", "-o", str(tmp_path / "mine")]) == 2
    assert "--data" not in capsys.readouterr().err
    assert entry_point(["train", "--data", str(small), "--init", "nowhere", "-o", str(tmp_path / "mine")]) == 2
    assert "nowhere: cannot be read (No such file or directory); check the path" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_model_is_not_written_among_the_clips(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder would be a class the next time."""
    before = sorted(small.rglob("*"))
    for command in (
        ["teach", "mine", "--clips", str(small), "-o", str(small / "mine")],
        ["teach", "mine", "--clips", str(small), "-o", str(small)],
        ["train", "--data", str(small), "-o", str(small / "mine")],
    ):
        assert entry_point(command) == 2
        assert (
            f"is in {small}, where each folder is a class of clips; choose another: -o DIR" in capsys.readouterr().err
        )
    assert sorted(small.rglob("*")) == before


def test_clips_of_one_video_are_of_one_split(small: Path, tmp_path: Path) -> None:
    """Parts of a video look alike, whatever they are called: what is learned from is not what is tested on."""
    videos = sorted(small.glob("*/*.mp4"))
    rows = [f"{path},{label},{start},{start + 0.5}" for path in videos for label in "ab" for start in (0, 0.5)]
    (tmp_path / "parts.csv").write_text("path,label,start,end\n" + "\n".join(rows) + "\n")
    data = VideoData.of(tmp_path / "parts.csv", CARD, 1)
    places = [{clip.path for clip in part} for part in data.splits]
    assert [len(place) for place in places] == [4, 1, 1]
    assert sum(map(len, data.splits)) == 24
    assert not data.mixed
    # Of one video for all, no class has clips in every split: they are mixed, and that is said.
    (tmp_path / "one.csv").write_text("path,label,start,end\n" + "\n".join(rows[:4] * 3) + "\n")
    mixed = VideoData.of(tmp_path / "one.csv", CARD, 1)
    assert mixed.mixed
    assert "clips of one video are learned from and tested on" in mixed.origin


def test_a_broken_video_is_found_before_the_training(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "clips")
    for broken in VideoData.of(tmp_path / "clips", CARD, 0).splits[2]:
        kept = broken.path.read_bytes()
        broken.path.write_bytes(b"")
        with pytest.raises(VideoError, match=broken.path.name):
            VideoData.of(tmp_path / "clips", CARD, 0)
        broken.path.write_bytes(kept)


def test_all_broken_videos_are_named_at_once(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "clips")
    for number in range(7):
        (tmp_path / "clips" / "circle" / f"x{number}.mp4").write_bytes(b"")
    with pytest.raises(VideoError) as caught:
        VideoData.of(tmp_path / "clips", CARD, 0)
    found = str(caught.value).replace(f"{tmp_path}/clips/circle/", "")
    assert found == (
        "video x0.mp4: is empty (0 bytes) (nor can be used: x1.mp4, x2.mp4, x3.mp4, x4.mp4 and 2 more); "
        "expected a video file such as an .mp4"
    )


def test_names_of_classes_are_those_that_people_read(small: Path, tmp_path: Path) -> None:
    """macOS writes two characters for one; a name of several lines is none."""
    shutil.copytree(small / "circle", tmp_path / "clips" / unicodedata.normalize("NFD", "Kreis über"))
    shutil.copytree(small / "zigzag", tmp_path / "clips" / "zigzag")
    assert {clip.label for clip in find_clips(tmp_path / "clips")} == {"Kreis über", "zigzag"}
    for name in ("two\nlines", "x" * 201):
        (tmp_path / "clips" / name).mkdir()
        with pytest.raises(TsmEdgeError, match="expected 1 to 200 characters and no control characters; rename it"):
            find_clips(tmp_path / "clips")
        (tmp_path / "clips" / name).rmdir()


def test_a_part_behind_the_end_is_found_before_the_training(small: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},{90 if path.name[:2] == '02' else 0}" for path in small.glob("*/*.mp4")]
    (tmp_path / "t.csv").write_text("path,label,start\n" + "\n".join(rows) + "\n")
    with pytest.raises(VideoError, match=r"02\.mp4: no frames from 90 s on"):
        VideoData.of(tmp_path / "t.csv", CARD, 0)


def test_clips_that_are_kept_have_a_limit(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = VideoData.of(small, CARD, 0)
    monkeypatch.setattr("tsm_edge.training.videos._KEPT_BYTES", 1 << 17)  # of one piece
    held = Held(data, data.splits[2] + data.splits[1])
    first, _ = held.batch(range(4))
    assert (held.batch(range(4))[0] == first).all()
    assert held._kept.bytes <= 1 << 17


def test_mistakes_name_the_next_step(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    for text, message in [
        ("file,class\n", "its first line is 'file,class', expected the columns path,label,start,end"),
        ("path,label,start,end\na.mp4,x,nan,\n", "line 2: start and end are seconds"),
        ("path,label,start,end\n\na.mp4,x,1,5,2\n", "line 3: has more values than the first line has columns"),
        ("path,label,start,end\na.mp4,x,-1,1\n", "an end after its start, which is not negative"),
        ('path,label\na.mp4,"x\ny"\n', "the label has several lines"),
        (f"path,label\n{'a' * 200_000},x\n", "line 2: field larger than field limit"),
        ("path,label\na.mp4,x\nb.mp4, x\n", "has 1 classes of videos, expected at least 2"),
        ("path,label,start,end\na.mp4,x,soon,\n", "line 2: start and end are seconds"),
        ("path,label,start,end\na.mp4,x,2,1\n", "line 2: expected a path, a label, and an end after its start"),
        ("path,label\na.mp4,x\n", "has 1 classes of videos, expected at least 2"),
        ("path,label\na.mp4,x\nb.mp4,y\n", "too few clips (x 1, y 1), expected at least 3 a class"),
    ]:
        table.write_text(text)
        with pytest.raises(TsmEdgeError) as caught:
            find_clips(table)
        assert message in str(caught.value)
    video = next(small.glob("*/*.mp4"))
    with pytest.raises(
        TsmEdgeError, match=r"\.mp4: is a video, expected a folder of videos for each class; put videos into"
    ):
        find_clips(video)
    assert entry_point(["teach", "mine"]) == 2
    assert entry_point(["teach", "mine", "--camera", "0", "--labels", "one"]) == 2
    assert entry_point(["teach", "mine", "--clips", str(tmp_path / "none")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ["expected either --clips DIR or --camera N|URL" in lines[0], "at least two classes" in lines[1]] == [
        True,
        True,
    ]
    assert "no such folder or CSV file" in lines[-1]
    assert not (Path("out") / "mine").exists()


def test_folders_are_read_as_phones_and_macs_leave_them(small: Path, tmp_path: Path) -> None:
    """Hidden files are no clips, an empty folder is a class without any, and the old phone's videos count."""
    shutil.copytree(small, tmp_path / "clips")
    (tmp_path / "clips" / "circle" / "._00.mp4").write_bytes(b"of macOS")
    (tmp_path / "clips" / "zigzag" / ".thumbnails").mkdir()
    (tmp_path / "clips" / "zigzag" / "02.mp4").rename(tmp_path / "clips" / "zigzag" / "02.3GP")
    names = [clip.path.name for clip in find_clips(tmp_path / "clips")]
    assert names == ["00.mp4", "01.mp4", "02.mp4", "00.mp4", "01.mp4", "02.3GP"]
    (tmp_path / "clips" / "bounce").mkdir()
    with pytest.raises(TsmEdgeError, match=r"too few clips \(bounce 0\), expected at least 3 a class"):
        find_clips(tmp_path / "clips")


@pytest.mark.real_time
@pytest.mark.slow
def test_four_motions_are_taught_in_three_minutes(tmp_path: Path) -> None:
    """12 clips each; measured on 10 more of each that teach never saw, beside those it holds out itself."""
    for label in TAUGHT:
        draw(tmp_path / "clips", label, 12, 0)
        draw(tmp_path / "more", label, 10, 1)
    began_s = time.process_time()
    result = teach(TeachRequest("figures", tmp_path / "clips", tmp_path / "out"))
    seconds = (time.process_time() - began_s) / 2  # of two cores with nothing else to do
    assert result.verify.passed
    found = evaluate(EvaluateRequest(result.artifact, str(tmp_path / "more"), frames=20)).measures
    print(f"{seconds:.0f} s, {found.overall}")
    assert found.overall.share >= 0.9
    assert seconds < 180
