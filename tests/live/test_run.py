"""The run: from frames to labels, resets, timings and the annotated video."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from encoded_clips import clip, cut_off, index_first, plain, write_avi
from fake_session import FakeSession
from mjpeg_server import MjpegServer, Send, serving, steady

from tsm_edge.cards import Smoothing
from tsm_edge.errors import RpcError, TsmEdgeError, VideoError
from tsm_edge.live.annotate import annotate
from tsm_edge.live.result import FrameResult, RunSummary
from tsm_edge.live.run import Run, RunRequest, run
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.file_source import FileSource
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.source import open_source


def run_all(
    place: str | Path, request: RunRequest | None = None, session: FakeSession | None = None
) -> tuple[list[FrameResult], RunSummary]:
    with open_source(place) as source, run(session or FakeSession(), source, request) as results:
        frames = list(results)
    return frames, results.summary()


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Twelve frames whose right classes are 0 1 2 … 9 9 0."""
    order = [*range(10), 9, 0]
    return write_avi(tmp_path / "steps.avi", [plain(round(25.5 * level + 12)) for level in order])


STEPS = [*range(10), 9, 0]


def test_one_prediction_a_frame_of_a_real_clip_equal_to_the_session_by_hand() -> None:
    session = FakeSession()
    frames, summary = run_all(clip("bikes.mp4"), session=session)
    by_hand = FakeSession()
    preprocess = Preprocessor(by_hand.manifest.preprocess)
    with open_source(clip("bikes.mp4")) as source:
        for frame, result in zip(source, frames, strict=True):
            logits = by_hand.step(preprocess(frame.image))[0]
            assert np.array_equal(result.logits, logits)
            assert result.class_index == int(np.argmax(logits))
            assert result.probability == pytest.approx(float(np.exp(logits).max() / np.exp(logits).sum()), rel=1e-5)
            assert (result.index, result.time_s) == (frame.index, frame.time_s)
    assert summary.frames == summary.predictions == summary.frames_stated == 250
    assert (summary.dropped, summary.resets, summary.complete) == (0, 0, True)
    assert summary.ended == "end of the video"


def test_labels_and_classes(steps: Path) -> None:
    frames, _ = run_all(steps)
    assert [frame.class_index for frame in frames] == STEPS
    assert [frame.label for frame in frames] == [f"level {index}" for index in STEPS]


def test_logits_of_each_result_are_its_own(steps: Path) -> None:
    frames, _ = run_all(steps)
    assert [int(np.argmax(frame.logits)) for frame in frames] == STEPS


@pytest.mark.real_time
def test_timings_of_every_part(steps: Path) -> None:
    frames, summary = run_all(steps, session=FakeSession(slow_s=0.01))
    for frame in frames:
        assert frame.step_ms >= 10
        assert frame.decode_ms > 0
        assert frame.preprocess_ms > 0
        parts = frame.decode_ms + frame.preprocess_ms + frame.step_ms
        assert parts <= frame.latency_ms < parts + 500
    assert summary.step is not None
    assert summary.step.median_ms == pytest.approx(float(np.median([frame.step_ms for frame in frames])))
    assert summary.step.p90_ms == pytest.approx(float(np.percentile([frame.step_ms for frame in frames], 90)))
    assert summary.wall_s >= 0.12
    assert summary.frames_per_s == pytest.approx(12 / summary.wall_s)


def test_every_kth_frame(steps: Path) -> None:
    frames, summary = run_all(steps, RunRequest(every=5))
    assert [frame.index for frame in frames] == [0, 5, 10]
    assert [frame.class_index for frame in frames] == [0, 5, 9]
    assert (summary.frames, summary.predictions) == (12, 3)


def test_limit_counts_frames(steps: Path) -> None:
    frames, summary = run_all(steps, RunRequest(limit=4, every=2))
    assert [frame.index for frame in frames] == [0, 2]
    assert summary.frames == 4
    assert summary.ended == "limit of 4 frames reached"


@pytest.mark.parametrize("wrong", [{"every": 0}, {"limit": 0}])
def test_impossible_requests_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(TsmEdgeError, match="expected at least 1 frame"):
        RunRequest(**wrong)


def test_smoothing_is_the_cards_and_only_when_asked_for(steps: Path) -> None:
    session = FakeSession()
    object.__setattr__(session.manifest, "smoothing", Smoothing(agree=2))
    raw, _ = run_all(steps, RunRequest(smooth=False), session)
    smooth, _ = run_all(steps, RunRequest(smooth=True), session)
    assert [frame.class_index for frame in raw] == STEPS
    # Only the two 9s in a row agree.
    assert [frame.class_index for frame in smooth] == [0] * 10 + [9, 9]


def test_the_caches_are_reset_at_the_start_and_on_a_seek(steps: Path) -> None:
    session = FakeSession()
    with open_source(steps) as source, run(session, source) as results:
        assert isinstance(source, FileSource)
        taken = []
        for frame in results:
            taken.append((frame.index, frame.reset))
            if frame.index == 2 and len(taken) == 3:
                source.seek(0.32)
    assert taken[:5] == [(0, "start"), (1, ""), (2, ""), (8, "seek"), (9, "")]
    steps_before = session.events.index("8")
    assert session.events[steps_before - 1] == "reset"
    summary = results.summary()
    assert summary.resets == 1
    assert [(entry.index, entry.reason) for entry in summary.reset_log] == [(8, "seek")]


def test_a_break_on_a_frame_that_is_not_predicted_still_resets(steps: Path) -> None:
    session = FakeSession()
    with open_source(steps) as source, run(session, source, RunRequest(every=2)) as results:
        assert isinstance(source, FileSource)
        iterator = iter(results)
        assert next(iterator).index == 0
        source.seek(0.2)  # frame 5 comes second, and is passed over
        following = next(iterator)
    assert (following.index, following.reset) == (6, "seek")
    assert session.events[-2:] == ["reset", "6"]


def test_a_gap_in_a_live_stream_resets_the_caches() -> None:
    def script(server: MjpegServer, send: Send) -> None:
        for pause_s in (1.0, 0.0):
            for _ in range(20):
                send(100)
                server.pause(0.01)
            server.pause(pause_s)

    session = FakeSession()
    options = SourceOptions(gap_s=0.6, read_timeout_s=3.0)
    with serving(script) as server, open_source(server.url, options) as source, run(session, source) as results:
        frames = list(results)
    assert [frame.reset for frame in frames if frame.reset] == ["start", "gap"]
    assert results.summary().resets == 1
    assert results.summary().ended == "the sender closed the stream"


@pytest.mark.real_time
def test_a_slow_network_on_a_live_stream_stays_up_to_date() -> None:
    session = FakeSession(slow_s=0.1)
    with serving(steady(100, interval_s=0.01)) as server, open_source(server.url) as source:
        with run(session, source) as results:
            frames = list(results)
        summary = results.summary()
    assert summary.dropped == 100 - len(frames)
    assert summary.dropped > 60
    # A label is hardly older than one step; a queue would be seconds behind at the end.
    assert frames[-1].latency_ms < 1000


def test_a_lost_live_source_keeps_what_was_done(tmp_path: Path) -> None:
    def script(server: MjpegServer, send: Send) -> None:
        steady(20, interval_s=0.01)(server, send)
        server.pause(20)

    out = tmp_path / "out.mp4"
    options = SourceOptions(read_timeout_s=0.5)
    seen = []
    with serving(script) as server, open_source(server.url, options) as source:
        results = run(FakeSession(), source, RunRequest(out=out))
        with pytest.raises(VideoError, match="no frame for"), results:
            seen.extend(results)
    summary = results.summary()
    assert summary.predictions == len(seen) > 0
    assert not summary.complete
    assert "no frame for" in summary.ended
    assert summary.out == out
    with open_source(out) as written:
        assert sum(1 for _ in written) > 0


def test_a_device_that_is_lost_in_the_middle_is_in_the_summary(steps: Path, tmp_path: Path) -> None:
    class Lost(FakeSession):
        def step(self, frame: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            if len(self.events) > 4:
                raise RpcError("device:9090 closed the connection", "look at the server's output")
            return super().step(frame)

    out = tmp_path / "out.mp4"
    with open_source(steps) as source:
        results = run(Lost(), source, RunRequest(out=out))
        with pytest.raises(RpcError), results:
            list(results)
    summary = results.summary()
    assert (summary.complete, summary.ended) == (False, "device:9090 closed the connection")
    assert (summary.predictions, summary.out) == (3, out)
    with open_source(out) as written:
        assert sum(1 for _ in written) == 3


def test_a_device_that_was_lost_and_found_again_has_lost_the_caches(steps: Path) -> None:
    class Found(FakeSession):
        reconnections = 0

        def step(self, frame: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            self.reconnections += len(self.events) == 5
            return super().step(frame)

    frames, summary = run_all(steps, session=Found())
    assert [(frame.index, frame.reset) for frame in frames if frame.reset] == [(0, "start"), (3, "new connection")]
    assert (summary.resets, summary.complete) == (1, True)
    assert [(entry.index, entry.reason) for entry in summary.reset_log] == [(3, "new connection")]


def test_a_caller_that_stops_is_told_apart_from_a_loss(steps: Path) -> None:
    with open_source(steps) as source, run(FakeSession(), source) as results:
        for _ in results:
            break
    assert (results.summary().ended, results.summary().complete) == ("stopped by the caller", True)


def test_the_source_is_named_without_its_password() -> None:
    with serving(steady(3, interval_s=0.01)) as server:
        address = server.url.replace("http://", "http://admin:s3cret@")
        with open_source(address) as source, run(FakeSession(), source) as results:
            list(results)
    assert "admin:***@" in results.summary().source
    address = "http://admin:s3cret@127.0.0.1:9/x"
    with pytest.raises(VideoError, match=r"stream http://admin:\*\*\*@127\.0\.0\.1:9/x: no video") as caught:
        open_source(address)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_cut_off_file_says_so_in_the_summary(tmp_path: Path) -> None:
    whole = index_first(tmp_path / "whole.mp4", clip("bikes.mp4"))
    frames, summary = run_all(cut_off(tmp_path / "cut.mp4", whole, 0.5))
    assert summary.predictions == len(frames) < 250
    assert not summary.complete
    assert summary.ended == f"decoded {len(frames)} of 250 frames: the rest is cut off"


def test_the_annotated_video_has_every_frame_with_a_bar(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    _, summary = run_all(clip("carphone_pristine.mp4"), RunRequest(out=out, every=3))
    assert summary.out == out
    with open_source(out) as written, open_source(clip("carphone_pristine.mp4")) as original:
        pairs = list(zip(written, original, strict=True))
        assert written.info.fps == pytest.approx(original.info.fps, rel=1e-3)
    assert len(pairs) == 120
    for new, old in pairs[::20]:
        above = np.abs(new.image[:120].astype(int) - old.image[:120]).mean()
        bar = np.abs(new.image[-14:].astype(int) - old.image[-14:]).mean()
        assert above < 8
        assert bar > 20


def test_every_annotated_frame_says_that_weights_are_random(steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def noted(image: npt.NDArray[np.uint8], left: str, right: str) -> npt.NDArray[np.uint8]:
        texts.append(left)
        return annotate(image, left, right)

    monkeypatch.setattr("tsm_edge.live.run.annotate", noted)
    for name in ("trained", "random"):
        run_all(steps, RunRequest(out=steps.with_suffix(".mp4"), every=5), FakeSession(name))
    assert [text.partition("  ")[0] for text in texts[:6]] == ["level 0"] * 5 + ["level 5"]
    assert all(text.startswith("random weights: level ") for text in texts[12:])
    assert len(texts) == 24


def test_an_interrupted_run_keeps_the_video_and_says_so(tmp_path: Path) -> None:
    def interrupt_at_30(results: Run) -> None:
        with results:
            for frame in results:
                if frame.index == 30:
                    raise KeyboardInterrupt

    out = tmp_path / "out.mp4"
    with open_source(clip("bikes.mp4")) as source:
        results = run(FakeSession(), source, RunRequest(out=out))
        with pytest.raises(KeyboardInterrupt):
            interrupt_at_30(results)
    summary = results.summary()
    assert (summary.ended, summary.frames, summary.out) == ("interrupted", 31, out)
    with open_source(out) as written:
        assert sum(1 for _ in written) == 31


def test_a_window_needs_an_opencv_that_has_them(steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with open_source(steps) as source, pytest.raises(VideoError, match=r"--show needs a (window|screen)"):
        run(FakeSession(), source, RunRequest(show=True))
