"""How long frames took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """A figure that is not given, and why.

    Attributes
    ----------
    key : str
        Of the table this stands in.
    reason : str
    """

    key: str
    reason: str


@dataclass(frozen=True)
class Latency:
    """A summary of samples, milliseconds.

    Attributes
    ----------
    count : int
        Samples.
    p50, p50_low, p50_high : float or None
        Median, and its 99 % interval from order statistics.
    p90, p99 : float or None
        MLPerf's early-stopping estimates: with 99 % confidence, so many percent of all frames are no slower.
    p90_observed, p99_observed : float or None
        The same percentiles of the samples themselves. None where the estimate is refused.
    min, mean, max : float or None
    std : float or None
        Standard deviation.
    cv_percent : float or None
        Coefficient of variation: standard deviation over mean.
    refused : tuple of Refused
        What is None, and why.
    """

    count: int
    p50: float | None = None
    p50_low: float | None = None
    p50_high: float | None = None
    p90: float | None = None
    p99: float | None = None
    p90_observed: float | None = None
    p99_observed: float | None = None
    min: float | None = None
    mean: float | None = None
    max: float | None = None
    std: float | None = None
    cv_percent: float | None = None
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Every measured frame, in order.

    Attributes
    ----------
    start_s : tuple of float
        When its step began, since the first one did; on the device's clock.
    step_ms : tuple of float
        How long it took.
    """

    start_s: tuple[float, ...]
    step_ms: tuple[float, ...]


@dataclass(frozen=True)
class Yardstick:
    """How fast the machine was at a pause between frames, whatever the model: what fixed work took, in one thread.

    Attributes
    ----------
    at_s : float
        Seconds since the first measured frame began; negative: before.
    arithmetic_ms : float
        Multiply-adds over 256 KiB, which a second-level cache holds.
    memory_ms : float
        A pass over 4 MiB.
    """

    at_s: float
    arithmetic_ms: float
    memory_ms: float


@dataclass(frozen=True)
class Startup:
    """What happens once, milliseconds; None: not measured, or not to be seen over this way.

    Attributes
    ----------
    load_ms : float or None
        Reading, checking and loading ``model.so``, threads and memory included.
    first_frame_ms : float or None
        The first step.
    first_label_ms : float or None
        From nothing to the first label: both together.
    upload_ms : float or None
        Sending the model over the network.
    """

    load_ms: float | None = None
    first_frame_ms: float | None = None
    first_label_ms: float | None = None
    upload_ms: float | None = None


@dataclass(frozen=True)
class Deadlines:
    """Of a paced run.

    Attributes
    ----------
    period_ms : float
    frames, missed : int
        A frame misses its deadline when it is not done before the next is due.
    late_start_ms : float
        Longest time a frame began after it was due.
    """

    period_ms: float
    frames: int
    missed: int
    late_start_ms: float


@dataclass(frozen=True)
class CameraToLabel:
    """Of a video: where the time from a coded frame to its label goes.

    Attributes
    ----------
    decode_ms, preprocess_ms, step_ms, total_ms : Latency
    """

    decode_ms: Latency
    preprocess_ms: Latency
    step_ms: Latency
    total_ms: Latency
