"""What a run gives: the prediction on each frame, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tsm_edge.video.base import Break

Floats = npt.NDArray[np.float32]
Reset = Break | Literal["new connection"]


@dataclass(frozen=True)
class FrameResult:
    """The prediction on one frame.

    Attributes
    ----------
    index : int
        Of the frame in its source, from 0.
    time_s : float
        Of the frame in its source, seconds.
    label : str
        Of the class shown.
    class_index : int
        The class shown: with smoothing it may differ from the largest of ``logits``.
    probability : float
        0..1, softmax of the logits, or what the model made of them itself; of a smoothed label over the window
        (:class:`tsm_edge.live.smoothing.Shown`).
    decode_ms, preprocess_ms, step_ms : float
        Decoding and conversion to RGB; resizing and normalising; the network with its caches. Milliseconds.
    latency_ms : float
        From the arrival of the frame to its label, milliseconds; of a live source with the time it waited.
    reset : str
        Empty, or why the caches were reset before this frame: ``start``, ``seek``, ``gap``, ``new size``,
        ``new stream``, or ``new connection`` to the device they are on.
    logits : ndarray
        float32 ``[classes]``: the model's output on this frame alone.
    """

    index: int
    time_s: float
    label: str
    class_index: int
    probability: float
    decode_ms: float
    preprocess_ms: float
    step_ms: float
    latency_ms: float
    reset: Reset
    logits: Floats = field(repr=False, compare=False)


@dataclass(frozen=True)
class Timing:
    """Median and 90th percentile of the latest predictions (up to 108 000), milliseconds."""

    median_ms: float
    p90_ms: float


@dataclass(frozen=True)
class CacheReset:
    """Caches were reset before frame ``index`` because of ``reason``."""

    index: int
    reason: Reset


@dataclass(frozen=True)
class RunSummary:
    """What a run came to.

    Attributes
    ----------
    source : str
        What was run on.
    frames, predictions, dropped : int
        Frames read; frames predicted; frames a live source passed over to stay up to date.
    frames_stated : int or None
        Frames the file says it has: a hint, often wrong.
    resets : int
        Times the caches were reset in the middle; ``reset_log`` tells of the first 1000.
    reset_log : tuple of CacheReset
        Where and why.
    wall_s, frames_per_s : float
        Time of the whole loop, with everything the caller did in it, and frames read over it.
    decode, preprocess, step, latency : Timing or None
        As in :class:`FrameResult`; None without a prediction.
    ended : str
        How it ended, in words.
    complete : bool
        False when fewer frames could be decoded than the file says it has, or the source or the session's device was
        lost.
    random_weights : bool
        Predictions mean nothing.
    out : Path or None
        The annotated video, if one was written.
    """

    source: str
    frames: int
    predictions: int
    dropped: int
    frames_stated: int | None
    resets: int
    reset_log: tuple[CacheReset, ...]
    wall_s: float
    frames_per_s: float
    decode: Timing | None
    preprocess: Timing | None
    step: Timing | None
    latency: Timing | None
    ended: str
    complete: bool
    random_weights: bool
    out: Path | None
