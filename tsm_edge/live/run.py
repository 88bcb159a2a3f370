"""The main job: frames from a source, through a session, to labels; with timings, and caches reset where they must be.

``with run(session, source, request) as results: for result in results: …; results.summary()``
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsm_edge.cards import Smoothing
from tsm_edge.errors import TsmEdgeError
from tsm_edge.live.annotate import annotate
from tsm_edge.live.observer import Observer, Snapshot, Totals
from tsm_edge.live.result import CacheReset, FrameResult, Reset, RunSummary, Timing
from tsm_edge.live.smoothing import Smoother
from tsm_edge.live.window import Window
from tsm_edge.session.base import Session
from tsm_edge.video.base import Break, Frame, VideoSource
from tsm_edge.video.capture import Image
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.writer import VideoFile, check_place

# Statistics cover this many latest predictions, so that a run of weeks does not fill the memory (an hour at 30/s).
_KEPT_TIMINGS = 108_000
_KEPT_RESETS = 1_000


@dataclass(frozen=True)
class RunRequest:
    """How to run.

    Attributes
    ----------
    every : int
        Predict on each ``every``-th frame, from the first.
    smooth : bool
        Steady the shown label by the model card's rules; else each prediction stands for itself.
    limit : int or None
        Stop after this many frames of the source.
    out : Path or None
        Write the annotated video to this ``.mp4`` file.
    show : bool
        Show the annotated video in a window.
    native_logs : bool
        Let OpenCV and FFmpeg write to stderr.
    """

    every: int = 1
    smooth: bool = False
    limit: int | None = None
    out: Path | None = None
    show: bool = False
    native_logs: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise TsmEdgeError(f"every is {self.every}, expected at least 1 frame", "1 is every frame")
        if self.limit is not None and self.limit < 1:
            raise TsmEdgeError(f"limit is {self.limit}, expected at least 1 frame", "None is no limit")
        if self.out is not None:
            check_place(self.out)


class _Sink(Protocol):
    """Takes annotated frames, uint8 BGR ``[H, W, 3]``."""

    def write(self, image: Image, time_s: float) -> None:
        """Take a frame."""

    def close(self) -> None:
        """Finish."""


class Run:
    """A run in progress: a context manager and an iterator of :class:`FrameResult`. Made by :func:`run`.

    Leaving the context finishes the annotated video, whatever the reason: the end, an error, Ctrl-C.
    """

    def __init__(
        self, session: Session, source: VideoSource, request: RunRequest, observers: Sequence[Observer] = ()
    ) -> None:
        manifest = session.manifest
        self._session = session
        self._source = source
        self._request = request
        self._observers = tuple(observers)
        source.on_wait = self._idle
        self._labels = manifest.labels
        self._random_weights = manifest.random_weights
        self._preprocess = Preprocessor(manifest.preprocess)
        rules = manifest.smoothing if request.smooth else Smoothing()
        self._smoother = Smoother(rules, manifest.classes, manifest.activation)
        self._frames = self._predictions = self._resets = 0
        self._reset_log: list[CacheReset] = []
        self._reconnections = session.reconnections
        self._pending: Break = ""
        # All of it at once, and written to (zeros are not there until then): months need no more memory than a minute.
        self._timings = np.full((_KEPT_TIMINGS, 4), np.nan, np.float32)
        self._began_s = self._ended_s = 0.0
        self._ended = ""
        self._lost = False
        self._window = Window() if request.show else None
        self._file = VideoFile(request.out, source.info, request.native_logs) if request.out else None
        self._sinks: Sequence[_Sink] = [sink for sink in (self._window, self._file) if sink is not None]

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._ended = str(error) or "interrupted"
        self.close()

    def __iter__(self) -> Iterator[FrameResult]:
        """Yield the prediction on each frame, or on each ``every``-th.

        Raises
        ------
        TsmEdgeError
            A live source or the session's device was lost; everything up to there has been yielded.
        """
        try:
            yield from self._results()
        except Exception as error:
            self._ended = error.problem if isinstance(error, TsmEdgeError) else f"{type(error).__name__}: {error}"
            self._lost = True
            raise

    def _results(self) -> Iterator[FrameResult]:
        self._began_s = self._ended_s = time.perf_counter()
        self._session.reset()
        result: FrameResult | None = None
        while not self._is_over() and (frame := self._source.read()) is not None:
            self._pending = frame.discontinuity or self._pending
            due = self._frames % self._request.every == 0
            self._frames += 1
            if due:
                result = self._predict(frame)
                self._tell(frame, result)
            self._show(frame, result)
            self._ended_s = time.perf_counter()
            if due and result is not None:
                yield result
        self._ended = self._ended or self._source.ended

    def close(self) -> None:
        """Finish the annotated video and close the window. May be called twice.

        Raises
        ------
        VideoError
            The annotated video could not be finished.
        """
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
        self._sinks = ()

    def summary(self) -> RunSummary:
        """Return the figures so far."""
        columns = self._timings[: self._predictions].astype(np.float64).T
        decode, preprocess, step, latency = (_timing(column) for column in columns)
        wall_s = self._ended_s - self._began_s
        info = self._source.info
        return RunSummary(
            source=info.name,
            frames=self._frames,
            predictions=self._predictions,
            dropped=self._source.dropped,
            frames_stated=info.frame_count,
            resets=self._resets,
            reset_log=tuple(self._reset_log),
            wall_s=wall_s,
            frames_per_s=self._frames / wall_s if wall_s > 0 else 0.0,
            decode=decode,
            preprocess=preprocess,
            step=step,
            latency=latency,
            ended=self._ended or "stopped by the caller",
            complete=self._source.complete and not self._lost,
            random_weights=self._random_weights,
            out=self._request.out if self._file is not None and self._file.saved else None,
        )

    def _is_over(self) -> bool:
        if self._request.limit is not None and self._frames >= self._request.limit:
            self._ended = f"limit of {self._request.limit} frames reached"
        elif self._window is not None and self._window.closed:
            self._ended = "the window was closed"
        return bool(self._ended)

    def _predict(self, frame: Frame) -> FrameResult:
        reset: Reset
        reset, self._pending = self._pending, ""
        if reset:
            self._session.reset()
            self._note_reset(frame.index, reset)
        began_s = time.perf_counter()
        network_input = self._preprocess(frame.image)
        ready_s = time.perf_counter()
        logits = self._session.step(network_input).reshape(-1)
        done_s = time.perf_counter()
        if self._is_reconnected():
            reset = "new connection"
            self._note_reset(frame.index, reset)
        shown = self._smoother.update(logits)
        preprocess_ms, step_ms = (ready_s - began_s) * 1e3, (done_s - ready_s) * 1e3
        latency_ms = (time.perf_counter() - frame.arrived_s) * 1e3
        self._timings[self._predictions % _KEPT_TIMINGS] = frame.decode_ms, preprocess_ms, step_ms, latency_ms
        self._predictions += 1
        return FrameResult(
            index=frame.index,
            time_s=frame.time_s,
            label=self._labels[shown.class_index] if self._labels else f"class {shown.class_index}",
            class_index=shown.class_index,
            probability=shown.probability,
            decode_ms=frame.decode_ms,
            preprocess_ms=preprocess_ms,
            step_ms=step_ms,
            latency_ms=latency_ms,
            reset=reset,
            logits=logits,
        )

    def _is_reconnected(self) -> bool:
        """Whether the last step found its device lost and began again on it, without the caches."""
        before, self._reconnections = self._reconnections, self._session.reconnections
        return self._reconnections > before

    def _note_reset(self, index: int, reason: Reset) -> None:
        self._smoother.reset()
        if reason == "start":
            return
        self._resets += 1
        if len(self._reset_log) < _KEPT_RESETS:
            self._reset_log.append(CacheReset(index, reason))

    def _tell(self, frame: Frame, result: FrameResult) -> None:
        if not self._observers:
            return
        totals = Totals(self._frames, self._predictions, self._source.dropped, self._resets)
        snapshot = Snapshot(frame.image, result, totals, time.time(), time.monotonic())
        for observer in self._observers:
            observer.see(snapshot)

    def _idle(self) -> None:
        for observer in self._observers:
            observer.idle()

    def _show(self, frame: Frame, result: FrameResult | None) -> None:
        if not self._sinks:
            return
        image = annotate(frame.image, *_caption(result, self._random_weights))
        for sink in self._sinks:
            sink.write(image, frame.time_s)


def run(
    session: Session, source: VideoSource, request: RunRequest | None = None, observers: Sequence[Observer] = ()
) -> Run:
    """Predict on a source.

    Parameters
    ----------
    session : Session
        From :func:`tsm_edge.session.open.open_session`; stays open. Its caches are reset at the start and where the
        source says that a frame does not continue the one before.
    source : VideoSource
        From :func:`tsm_edge.video.source.open_source`; stays open.
    request : RunRequest, optional
        Which frames, smoothing, and where annotated frames go.
    observers : sequence of Observer, optional
        Who is shown each prediction; they stay open.

    Returns
    -------
    Run
        Use it as a context manager and iterate over it once; then ask for its ``summary()``.

    Raises
    ------
    VideoError
        The annotated video cannot be written where asked, or there is no screen for a window.
    """
    return Run(session, source, request or RunRequest(), observers)


def _caption(result: FrameResult | None, random_weights: bool) -> tuple[str, str]:
    """What is written at the left and at the right of an annotated frame."""
    if result is None:
        return "", ""
    warning = "random weights: " if random_weights else ""
    return f"{warning}{result.label}  {100 * result.probability:.0f} %", f"{result.latency_ms:.1f} ms"


def _timing(values: npt.NDArray[np.float64]) -> Timing | None:
    if values.size == 0:
        return None
    return Timing(float(np.percentile(values, 50)), float(np.percentile(values, 90)))
