"""Annotated frames and the video file they go to."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from encoded_clips import case, plain, write_avi

from tsm_edge.errors import TsmEdgeError, VideoError
from tsm_edge.live.annotate import annotate
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.source import open_source
from tsm_edge.video.writer import VideoFile


def info(width: int = 64, height: int = 48, fps: float = 10.0, live: bool = False) -> SourceInfo:
    return SourceInfo("test", live, width, height, fps, None)


def levels(path: Path) -> list[int]:
    """Brightness of each frame of a file, to the nearest ten (the codec is lossy)."""
    with open_source(path) as source:
        return [int(round(float(frame.image.mean()), -1)) for frame in source]


def test_a_file_has_the_sources_rate_and_size_and_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    file = VideoFile(path, info())
    for index, level in enumerate((0, 100, 200)):
        file.write(plain(level), index / 10)
    assert not path.exists()  # nothing under its name before it is finished
    file.close()
    file.close()
    assert file.saved
    assert levels(path) == [0, 100, 200]
    with open_source(path) as source:
        assert (source.info.width, source.info.height, source.info.fps) == (64, 48, 10.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_odd_sizes_grow_by_one_pixel_and_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    file = VideoFile(path, info(101, 75))
    image = plain(50, 101, 75)
    image[:, 100], image[74] = 250, 250
    file.write(image, 0.0)
    file.close()
    with open_source(path) as source:
        frame = source.read()
    assert frame is not None
    assert frame.image.shape == (76, 102, 3)
    assert frame.image[:, 100:].mean() > 200
    assert frame.image[74:].mean() > 200


def test_frames_of_another_size_are_fitted_in(tmp_path: Path) -> None:
    path = tmp_path / "mixed.mp4"
    file = VideoFile(path, info())
    file.write(plain(200), 0.0)
    file.write(plain(200, 48, 64), 0.1)
    file.close()
    with open_source(path) as source:
        _, second = source
    assert second.image.shape == (48, 64, 3)
    assert second.image[:, :30].mean() > 180
    assert second.image[:, 44:].mean() < 20


def written(path: Path, times_s: Sequence[float], **source: Any) -> tuple[list[float], float]:
    """Write frames of these times; return the times and the duration that are then in the file, seconds."""
    file = VideoFile(path, info(**source))
    for index, time_s in enumerate(times_s):
        file.write(plain(20 * index), time_s)
    file.close()
    return times(path)


def write_all(file: VideoFile, images: Sequence[np.ndarray]) -> None:
    for index, image in enumerate(images):
        file.write(image, index / 10)


def times(path: Path) -> tuple[list[float], float]:
    """Presentation times and duration of a file, seconds."""
    with av.open(str(path)) as container, open_source(path) as source:
        assert container.duration is not None
        return [frame.time_s for frame in source], container.duration / 1e6


@pytest.mark.parametrize("name", ["variable_rate.webm", "one_frame_in_5_s.mp4", "edit_list.mp4"])
def test_the_speed_of_a_file_is_kept(tmp_path: Path, name: str) -> None:
    with open_source(case(name)) as source:
        file = VideoFile(tmp_path / "out.mp4", source.info)
        expected = []
        for frame in source:
            file.write(frame.image, frame.time_s)
            expected.append(frame.time_s)
        file.close()
    found, duration_s = times(tmp_path / "out.mp4")
    assert found == pytest.approx(expected, abs=1e-3)
    assert 0 < duration_s - expected[-1] <= 1 / source.info.fps + 1e-3


@pytest.mark.parametrize("fps", [480.0, 240.0, 60000 / 1001, 24000 / 1001, 0.2, 0.0])
def test_every_rate_is_kept(tmp_path: Path, fps: float) -> None:
    step_s = 1 / (fps or 25)
    expected = [index * step_s for index in range(6)]
    found, duration_s = written(tmp_path / "out.mp4", expected, fps=fps)
    assert found == pytest.approx(expected, abs=2e-5)
    assert duration_s == pytest.approx(6 * step_s, abs=2e-3)


def test_a_live_recording_keeps_step_with_the_clock(tmp_path: Path) -> None:
    expected = [0.0, 0.03, 0.31, 0.52]
    assert written(tmp_path / "live.mp4", expected, live=True)[0] == pytest.approx(expected, abs=2e-5)


def test_a_long_standstill_of_a_live_source_is_shortened(tmp_path: Path) -> None:
    found, _ = written(tmp_path / "live.mp4", [0.0, 3600.0, 3600.1], live=True)
    assert found == pytest.approx([0.0, 10.0, 10.1], abs=2e-5)


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([5.0, 5.1, 5.2], [0.0, 0.1, 0.2]),  # a file that begins late
        ([0.0, 0.1, 0.1, 0.2], [0.0, 0.1, 0.1, 0.2]),
        ([0.0, 0.2, 0.15, 0.3], [0.0, 0.2, 0.2, 0.3]),
        ([0.0, 0.1, 30.0, 30.1], [0.0, 0.1, 30.0, 30.1]),
        ([30.0, 30.1, 2.0, 2.1], [0.0, 0.1, 0.2, 0.3]),  # a seek back
        ([0.0, 100_000.0, 100_000.1], [0.0, 3600.0, 3600.1]),  # more than the codec can say
    ],
)
def test_times_that_repeat_waver_or_jump(tmp_path: Path, times_s: list[float], expected: list[float]) -> None:
    found, _ = written(tmp_path / "out.mp4", times_s)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found == sorted(set(found))


@pytest.mark.parametrize("room", [30_000, 0], ids=["in the middle", "from the start"])
def test_a_disk_that_is_full_ends_it_in_one_line(room: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = VideoFile(tmp_path / "out.mp4", info())
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(VideoError, match=r"out\.mp4: cannot be written \(.*; check: ls -ld .*; df "):
            write_all(file, [noise] * 1000)
        file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not file.saved
    assert not list(tmp_path.iterdir())


def test_without_a_frame_there_is_no_file_and_an_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("old")
    file = VideoFile(path, info())
    file.close()
    assert not file.saved
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"out\.avi: expected a name that ends in \.mp4"):
        VideoFile(tmp_path / "out.avi", info())
    with pytest.raises(VideoError, match="does not exist; try: mkdir"):
        VideoFile(tmp_path / "missing" / "out.mp4", info())
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    with pytest.raises(VideoError, match="is a folder"):
        VideoFile(folder, info())
    clip = write_avi(tmp_path / "clip.avi", [plain(1)]).rename(tmp_path / "clip.mp4")
    with (
        open_source(clip) as source,
        pytest.raises(TsmEdgeError, match=r"clip\.mp4: is also read, expected another"),
    ):
        VideoFile(clip, source.info)


def test_a_file_that_was_not_written_whole_is_an_error(tmp_path: Path) -> None:
    file = VideoFile(tmp_path / "out.mp4", info())
    file.write(plain(1), 0.0)
    file.write(plain(1), 0.1)
    for partial in tmp_path.iterdir():
        partial.unlink()
    with pytest.raises(VideoError, match="could not be finished"):
        file.close()
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("width", "height"), [(640, 272), (176, 144), (48, 64), (17, 9)])
def test_the_bar_is_drawn_at_the_bottom_and_the_picture_above_is_untouched(width: int, height: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[...] = (200, 150, 100)
    before = rgb.copy()
    canvas = annotate(rgb, "Swiping Left  83 %", "7.4 ms")
    assert np.array_equal(rgb, before)
    assert canvas.shape == rgb.shape
    bar = max(height // 10, min(16, height))
    assert (canvas[: height - bar] == (100, 150, 200)).all()  # BGR
    assert (canvas[height - bar :].astype(int).sum(axis=2) < 450).mean() > 0.5
    assert canvas[height - bar :].max() > 100  # there is text in it


def test_a_long_label_is_made_smaller_not_cut() -> None:
    canvas = annotate(np.zeros((200, 320, 3), np.uint8), "W" * 80, "7.4 ms")
    columns = np.flatnonzero(canvas.max(axis=(0, 2)) > 60)
    assert columns[0] > 0
    assert columns[-1] < 319


def test_accents_do_not_become_question_marks_and_other_letters_do_not_vanish() -> None:
    image = np.zeros((200, 320, 3), np.uint8)
    assert np.array_equal(annotate(image, "é", ""), annotate(image, "e", ""))
    assert np.array_equal(annotate(image, "左へ  83 %", ""), annotate(image, "??  83 %", ""))
