"""A file played again and again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from encoded_clips import plain, write_avi

from tsm_edge.errors import VideoError
from tsm_edge.video.file_source import FileSource
from tsm_edge.video.loop import LoopedSource
from tsm_edge.video.source import open_source


@pytest.fixture
def looped(tmp_path: Path) -> LoopedSource:
    source = open_source(write_avi(tmp_path / "clip.avi", [plain(20 * level) for level in range(5)], fps=100.0))
    assert isinstance(source, FileSource)
    return LoopedSource(source)


def test_rounds_follow_each_other_in_time_and_number(looped: LoopedSource) -> None:
    with looped:
        frames = [frame for _ in range(12) if (frame := looped.read())]
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.discontinuity for frame in frames] == ["start", *[""] * 4, "seek", *[""] * 4, "seek", ""]
    assert [round(frame.time_s, 3) for frame in frames] == [round(0.01 * index, 3) for index in range(12)]
    assert abs(float(frames[6].image.mean()) - 20) < 2  # the second frame of the second round


def test_it_keeps_the_files_pace(looped: LoopedSource) -> None:
    with looped:
        looped.read()
        began_s = time.monotonic()
        for _ in range(20):
            looped.read()
        assert time.monotonic() - began_s > 0.19
        assert looped.info.live


def test_a_reader_that_is_slow_gets_every_frame(looped: LoopedSource) -> None:
    with looped:
        looped.read()
        time.sleep(0.08)
        began_s = time.monotonic()
        assert [frame.index for _ in range(3) if (frame := looped.read())] == [1, 2, 3]
        assert time.monotonic() - began_s > 0.015  # it does not hurry to make up for it
        assert looped.dropped == 0


def test_closed_it_ends(looped: LoopedSource) -> None:
    looped.close()
    assert looped.read() is None
    assert looped.ended == "closed"


def test_a_file_that_cannot_go_back_is_refused(looped: LoopedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looped._file._capture, "seek", lambda _: False)
    with looped:
        for _ in range(5):
            looped.read()
        with pytest.raises(VideoError, match="cannot seek"):
            looped.read()
