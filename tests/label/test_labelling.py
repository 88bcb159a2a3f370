"""Videos to labels: which frames networks are shown, how their scores are averaged, and what happens to bad files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clip_session import CLASSES, ClipManifest, ClipSession
from encoded_clips import clip, cut_off, encode, index_first, plain, repeated, write_avi

from tsm_edge.artifact.manifest import CacheInfo
from tsm_edge.errors import ArtifactError, TsmEdgeError, VideoError
from tsm_edge.label.decoding import Clip, NotLabelled, Part, PartEnded, Sliding, VideoEnded
from tsm_edge.label.labelling import SectionLabel, SectionsEnded, VideoLabel, label_sections, label_videos
from tsm_edge.label.listing import find_videos
from tsm_edge.label.members import Seeing, ensemble
from tsm_edge.label.overlap import ahead
from tsm_edge.video.sampling import Sampling


def steps_of_light(path: Path, levels: list[int], each: int = 8) -> Path:
    """A video that shows each level, 0 to 9 of 10, for so many frames, at 25 frames/s."""
    return write_avi(path, [plain(round(25.5 * level + 12.75)) for level in levels for _ in range(each)])


def label(
    session: ClipSession, path: Path, sampling: Sampling | None = None, seeing: Seeing | None = None
) -> VideoLabel:
    (found,) = label_videos(ensemble([session], [1.0], seeing=seeing), [path], sampling or Sampling())
    assert isinstance(found, VideoLabel)
    return found


def shown(session: ClipSession) -> list[list[int]]:
    """The levels that each clip's frames had."""
    return [[int(light * 10) for light in clip] for clip in session.seen]


def test_the_label_is_that_of_the_whole_video(tmp_path: Path) -> None:
    session = ClipSession()
    found = label(session, steps_of_light(tmp_path / "x.avi", [2, 4, 6, 8]))
    assert shown(session) == [[2, 4, 6, 8]]
    assert (found.top[0].label, found.top[0].class_index) == ("level 5", 5)
    logits = session.step(np.full((4, 3, 32, 32), (25.5 * 5 + 12.75) / 255, np.float32))
    # The levels are rounded to bytes on the way.
    expected = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1][:5]
    np.testing.assert_allclose([guess.probability for guess in found.top], expected, atol=5e-3)
    assert (found.video.frames, found.spent.clips, found.video.trouble) == (32, 1, "")
    assert found.video.duration_s == pytest.approx(31 / 25)


def test_two_clips_are_averaged(tmp_path: Path) -> None:
    session = ClipSession()
    path = write_avi(tmp_path / "x.avi", [plain(level) for level in (10, 110, 10, 110, 10, 110, 10, 110)])
    found = label(session, path, Sampling("uniform", 2))
    # Of segments of two frames the middle is the second one, the beginning the first.
    assert shown(session) == [[4, 4, 4, 4], [0, 0, 0, 0]] or shown(session) == [[0, 0, 0, 0], [4, 4, 4, 4]]
    one = [session.step(np.full((4, 3, 32, 32), level / 255, np.float32)) for level in (10, 110)]
    mean = np.mean(one, axis=0)
    assert found.top[0].class_index == int(np.argmax(mean))
    assert found.spent.clips == 2


def test_dense_clips_and_three_crops(tmp_path: Path) -> None:
    session = ClipSession()
    path = steps_of_light(tmp_path / "x.avi", list(range(10)), each=20)
    found = label(session, path, Sampling("dense", 10), Seeing(crops=3))
    # 64 x 48 pixels become 53 x 40: (53 - 32) // 4 = 5, so three places.
    assert found.spent.clips == 30
    assert shown(session)[0] == [0, 0, 1, 2]
    assert shown(session)[-1] == [6, 7, 8, 9]


def test_a_network_of_single_frames_is_shown_them_one_by_one(tmp_path: Path) -> None:
    session = ClipSession(ClipManifest(frames=1))
    found = label(session, steps_of_light(tmp_path / "x.avi", [1, 3, 5, 7]), seeing=Seeing(frames=4))
    assert shown(session) == [[1], [3], [5], [7]]
    assert found.top[0].class_index in (3, 4)


def test_networks_together(tmp_path: Path) -> None:
    """8 and 16 frames, the second with twice the weight: logits are averaged, or probabilities."""
    path = steps_of_light(tmp_path / "x.avi", [1, 3, 5, 7])
    first, second = ClipSession(ClipManifest(frames=4)), ClipSession(ClipManifest(frames=2))
    (logits,) = label_videos(ensemble([first, second], [1.0, 2.0]), [path], Sampling())
    (softmax,) = label_videos(ensemble([first, second], [1.0, 2.0], "softmax"), [path], Sampling())
    assert isinstance(logits, VideoLabel)
    assert isinstance(softmax, VideoLabel)
    lights = [np.float32(np.mean(session.seen[0])) for session in (first, second)]
    scores = np.stack([-np.abs(np.arange(CLASSES) + 0.5 - 10 * light) for light in lights]).astype(np.float64)

    def probabilities(values: np.ndarray) -> np.ndarray:
        each = np.exp(values)
        return each / each.sum(-1, keepdims=True)

    weights = np.array([1 / 3, 2 / 3])
    for found, expected in ((logits, probabilities(weights @ scores)), (softmax, weights @ probabilities(scores))):
        for guess in found.top:
            assert guess.probability == pytest.approx(expected[guess.class_index], abs=1e-4)
    assert len(second.seen[0]) == 2


def test_weights_as_large_as_floats_are_shares_too(tmp_path: Path) -> None:
    members = ensemble([ClipSession(), ClipSession()], [1e308, 1.7e308])
    (found,) = label_videos(members, [steps_of_light(tmp_path / "x.avi", [3])], Sampling())
    assert isinstance(found, VideoLabel)
    assert (found.top[0].class_index, found.top[0].probability > 0.3) == (3, True)


def test_two_streams(tmp_path: Path) -> None:
    flow = ClipManifest(channels=10)
    path = encode(tmp_path / "x.mp4", [plain(100, 96, 96)] * 30, "libx264")
    members = ensemble([ClipSession(), ClipSession(flow)], [1.0, 1.5], seeing=Seeing(flow="dis"))
    assert members.flow == "DIS"
    (found,) = label_videos(members, [path], Sampling())
    assert isinstance(found, VideoLabel)
    assert found.spent.clips == 2


def test_a_label_over_time(tmp_path: Path) -> None:
    session = ClipSession()
    path = steps_of_light(tmp_path / "x.avi", [1, 3, 5, 7], each=25)
    *sections, end = label_sections(ensemble([session], [1.0]), path, Sliding(1.0))
    assert isinstance(end, SectionsEnded)
    assert (end.video.frames, end.spent.clips) == (100, 7)
    found = [each for each in sections if isinstance(each, SectionLabel)]
    assert [each.start_s for each in found] == pytest.approx([0.5 * n for n in range(7)])
    assert [each.end_s for each in found] == pytest.approx([0.5 * n + 1 for n in range(7)])
    assert [shown(session)[n] for n in (0, 1, 6)] == [[1, 1, 1, 1], [1, 1, 3, 3], [7, 7, 7, 7]]
    assert [found[n].top[0].class_index for n in (0, 2, 4, 6)] == [1, 3, 5, 7]


def test_a_video_shorter_than_a_section_is_one(tmp_path: Path) -> None:
    session = ClipSession()
    path = steps_of_light(tmp_path / "x.avi", [6], each=3)
    *sections, _ = label_sections(ensemble([session], [1.0]), path, Sliding(10))
    assert len(sections) == 1
    assert shown(session) == [[6, 6, 6, 6]]


def test_a_bad_file_is_told_and_passed_over(tmp_path: Path) -> None:
    good = steps_of_light(tmp_path / "good.avi", [2])
    (tmp_path / "bad.mp4").write_text("no video")
    cut = cut_off(tmp_path / "cut.mp4", index_first(tmp_path / "whole.mp4", clip("bikes.mp4")), 0.4)
    found = list(label_videos(ensemble([ClipSession()], [1.0]), [good, tmp_path / "bad.mp4", cut, good], Sampling()))
    assert [type(each) for each in found] == [VideoLabel, NotLabelled, VideoLabel, VideoLabel]
    assert isinstance(found[1], NotLabelled)
    assert "is not a video file" in str(found[1].error)
    assert isinstance(found[2], VideoLabel)
    assert "the rest is cut off" in found[2].video.trouble


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_a_batch_goes_on_over_the_end_of_a_video(batch: int, tmp_path: Path) -> None:
    videos = [steps_of_light(tmp_path / f"{level}.avi", [level, level + 2]) for level in (1, 4, 7)]
    (tmp_path / "bad.mp4").write_text("no video")
    videos.insert(1, tmp_path / "bad.mp4")

    def labelled(session: ClipSession) -> list[VideoLabel | NotLabelled]:
        return list(label_videos(ensemble([session], [1.0]), videos, Sampling("uniform", 2)))

    one, several = ClipSession(), ClipSession(ClipManifest(clips=batch))
    for alone, together in zip(labelled(one), labelled(several), strict=True):
        if isinstance(alone, NotLabelled):
            assert str(together) == str(alone)
            continue
        assert isinstance(together, VideoLabel)
        assert (together.video.video, together.spent.clips) == (alone.video.video, 2)
        for ours, theirs in zip(together.top, alone.top, strict=True):
            assert (ours.label, ours.probability) == (theirs.label, pytest.approx(theirs.probability))
    assert len(one.seen) == 6
    assert len(several.seen) == -(-6 // batch) * batch


def test_a_video_that_breaks_off_leaves_nothing_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def clip_of(part: Part, level: int) -> Clip:
        return Clip(part, 0, np.full((4, 3, 32, 32), (level + 0.5) / 10, np.float32))

    broken, good = (Part(0.0, end_s, (((0, 1, 2, 3),),)) for end_s in (1.0, 2.0))
    events = [
        clip_of(broken, 9),
        NotLabelled("broken", VideoError("cut off", "fetch it again")),
        clip_of(good, 2),
        PartEnded(good),
        VideoEnded("good", 4, 2.0, 0.0, ""),
    ]
    monkeypatch.setattr("tsm_edge.label.labelling.decoded", lambda *_: (event for event in events))
    session = ClipSession(ClipManifest(clips=3))
    first, second = label_videos(ensemble([session], [1.0]), [], Sampling())
    assert isinstance(first, NotLabelled)
    assert isinstance(second, VideoLabel)
    assert (second.top[0].class_index, second.spent.clips) == (2, 1)
    assert shown(session) == [[2, 2, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_network_that_fails_ends_it(tmp_path: Path) -> None:
    class Failing(ClipSession):
        def step(self, clip: np.ndarray) -> np.ndarray:
            raise ArtifactError("broken", "mend it")

    before = threading.active_count()
    with pytest.raises(ArtifactError, match="broken"):
        list(label_videos(ensemble([Failing()], [1.0]), [clip("bikes.mp4")] * 50, Sampling()))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("sessions", "weights", "problem"),
    [
        ([ClipManifest(), ClipManifest(labels=("x",) * CLASSES)], [1, 1], "knows other classes"),
        ([ClipManifest(), ClipManifest(classes=7, labels=())], [1, 1], r"other classes \(7\) than levels-4f \(10\)"),
        ([ClipManifest()], [1, 1], "2 weights 1, 1 for 1 networks, expected a positive one for each"),
        ([ClipManifest(), ClipManifest()], [1, 0], "expected a positive one for each"),
        ([ClipManifest(channels=4)], [1], r"takes 4 channels, expected 3 \(RGB\) or 10 \(optical flow\)"),
        (
            [ClipManifest(), ClipManifest(activation="sigmoid")],
            [1, 1],
            "one ends in a sigmoid and one does not: their scores cannot be averaged",
        ),
        (
            [ClipManifest(frames=1, caches=(CacheInfo("a", "b", (1, 1, 1, 1)),))],
            [1],
            "is an online model, which takes one frame after another: expected one of clips",
        ),
    ],
)
def test_networks_that_do_not_go_together(sessions: list[ClipManifest], weights: list[float], problem: str) -> None:
    with pytest.raises(TsmEdgeError, match=problem):
        ensemble([ClipSession(manifest) for manifest in sessions], weights)


def test_frames_of_a_compiled_clip_cannot_be_chosen() -> None:
    with pytest.raises(ArtifactError, match="was compiled for 4 frames, not 8; leave out --frames"):
        ensemble([ClipSession()], [1.0], seeing=Seeing(frames=8))


def test_videos_are_found(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "a.MOV", "b/1.webm", "b/notes.txt", "c/frames/1.jpg", "c/frames/2.jpg", ".hidden/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.MOV", "b/1.webm", "b/2.mp4", "c/frames"]
    assert find_videos([tmp_path]) == [tmp_path / name for name in names]
    assert find_videos([tmp_path / "b/notes.txt", tmp_path / "b", tmp_path / "b/2.mp4"]) == [
        tmp_path / name for name in ("b/notes.txt", "b/1.webm", "b/2.mp4")
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty: has no videos, nor folders of pictures"):
        find_videos([tmp_path / "empty"])
    with pytest.raises(VideoError, match="missing: no such file or folder"):
        find_videos([tmp_path / "missing"])


def test_links_are_followed_and_nothing_counts_twice(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.mp4").touch()
    (tmp_path / "videos/a").mkdir(parents=True)
    (tmp_path / "videos/a/2.mp4").touch()
    (tmp_path / "videos/b").symlink_to("../elsewhere")
    (tmp_path / "videos/c").symlink_to("../elsewhere")
    (tmp_path / "videos/a/up").symlink_to("..")
    found = [tmp_path / "videos/a/2.mp4", tmp_path / "videos/b/1.mp4"]
    assert find_videos([tmp_path / "videos"]) == found


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos/secret").mkdir(parents=True)
    good = steps_of_light(tmp_path / "videos/good.avi", [2])

    def refused(path: Path) -> list[str]:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.listdir(path)

    monkeypatch.setattr("tsm_edge.label.listing.os", SimpleNamespace(listdir=refused, path=os.path))
    assert find_videos([tmp_path / "videos"]) == [good, tmp_path / "videos/secret"]


def test_names_that_are_no_paths_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file or folder"):
        find_videos([tmp_path / ("x" * 300)])


def test_a_gap_of_years_has_no_sections(tmp_path: Path) -> None:
    """Damage can send times so far that their sections could not be counted one by one."""
    session = ClipSession()
    path = encode(
        tmp_path / "x.mkv", [plain(round(25.5 * level + 12.75)) for level in (2, 2, 7, 7)], "ffv1",
        times_s=[0.0, 0.04, 2e9, 2e9 + 0.04],
    )  # fmt: skip
    *sections, end = label_sections(ensemble([session], [1.0]), path, Sliding(0.1))
    assert isinstance(end, SectionsEnded)
    assert [section.top[0].class_index for section in sections if isinstance(section, SectionLabel)] == [2, 7]


def test_working_ahead_goes_only_so_far() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = ahead((number for number in source()), 3)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 6  # one taken, three that wait, one in the thread's hands, one it is at
    items.close()
    assert len(made) <= 6


def test_an_error_comes_after_what_came_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise VideoError("broken", "mend it")

    items = ahead((number for number in source()), 3)
    assert next(items) == 1
    with pytest.raises(VideoError, match="broken"):
        next(items)


MEMORY = """
import resource, sys
from pathlib import Path
from clip_session import ClipManifest, ClipSession
from tsm_edge.label.labelling import label_videos
from tsm_edge.label.members import Seeing, ensemble
from tsm_edge.video.sampling import Sampling
members = ensemble([ClipSession(ClipManifest(frames=16))], [1.0], seeing=Seeing(crops=3))
(found,) = label_videos(members, [Path(sys.argv[1])], Sampling("dense", 10))
print(found.video.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_memory_does_not_grow_with_the_video(tmp_path: Path, program_environment: dict[str, str]) -> None:
    """Ten minutes need no more than ten seconds."""
    tests = Path(__file__).resolve().parents[1]
    environment = {**program_environment, "PYTHONPATH": f"{program_environment['PYTHONPATH']}:{tests}"}
    peaks = []
    for times in (1, 60):
        path = repeated(tmp_path / f"{times}.mp4", clip("bikes.mp4"), times)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, path],
            capture_output=True, text=True, timeout=60, check=True, env=environment,
        )  # fmt: skip
        frames, kib = map(int, done.stdout.split())
        assert frames == 250 * times
        peaks.append(kib / 1024)
    assert peaks[1] < peaks[0] + 40
