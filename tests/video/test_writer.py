"""Annotated frames and the video file they go to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import plain, write_avi

from tsm_edge.errors import VideoError
from tsm_edge.video.annotate import annotate
from tsm_edge.video.source import SourceInfo, open_source
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
    for level in (0, 100, 200):
        file.write(plain(level), 0.0)
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


def test_a_live_recording_keeps_step_with_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    file = VideoFile(path, info(live=True))  # 10 frames/s
    for level, time_s in ((10, 0.0), (50, 0.03), (100, 0.31), (200, 0.52)):
        file.write(plain(level), time_s)
    file.close()
    # Slots of 0.1 s; the frame at 0.03 s came within the first one and is what is seen until 0.31 s.
    assert levels(path) == [10, 50, 50, 100, 100, 200]


def test_a_long_standstill_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    file = VideoFile(path, info(live=True))
    for time_s in (0.0, 3600.0, 3600.1):
        file.write(plain(100), time_s)
    file.close()
    assert len(levels(path)) == 103  # 10 s of it, and the three


@pytest.mark.parametrize("fps", [0.0, 1000.0])
def test_an_impossible_rate_becomes_an_ordinary_one(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "out.mp4"
    file = VideoFile(path, info(fps=fps))
    file.write(plain(1), 0.0)
    file.close()
    with open_source(path) as source:
        assert source.info.fps == 25.0


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
    with open_source(clip) as source, pytest.raises(VideoError, match="is the video being read"):
        VideoFile(clip, source.info)


def test_a_file_that_was_not_written_whole_is_an_error(tmp_path: Path) -> None:
    file = VideoFile(tmp_path / "out.mp4", info())
    file.write(plain(1), 0.0)
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


def test_accents_do_not_become_question_marks() -> None:
    image = np.zeros((200, 320, 3), np.uint8)
    assert np.array_equal(annotate(image, "é", ""), annotate(image, "e", ""))
