"""How long a measurement is, and in what way frames come."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.bench.result import Settings
from tsm_edge.bench.statistics import fewest_samples
from tsm_edge.errors import BenchError

DEFAULT_S = 10.0
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes
    ----------
    frames : int or None
    duration_s : float or None
        Where both are given, both are reached. Neither: :data:`DEFAULT_S`, and as many frames as a p90 needs.
    warmup_s, warmup_frames : float, int
        Both are reached before the first sample.
    fps : float or None
        As a camera of so many frames a second gives them; None: one after the other.
    power : str
        A sensor, ``auto`` or ``none``.
    idle_s : float
        Idling before and after, where power is measured; longer for a slow sensor.
    peak : bool
        Measure the machine's arithmetic, too, where the compiler is installed.
    different_frames : int
    video : str or None
        Also time frames of this video from decoding to the label.

    Raises
    ------
    BenchError
        That is nothing, or too much.
    """

    frames: int | None = None
    duration_s: float | None = None
    warmup_s: float = 1.0
    warmup_frames: int = 10
    fps: float | None = None
    power: str = "auto"
    idle_s: float = 3.0
    peak: bool = True
    different_frames: int = 16
    video: str | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and not 1 <= self.frames <= _MOST_FRAMES:
            raise BenchError(f"{self.frames} frames, expected 1 to {_MOST_FRAMES}", "662 are enough for a p99")
        if self.fps is not None and not 0.01 <= self.fps <= 10_000:
            raise BenchError(f"{self.fps:g} frames a second, expected 0.01 to 10000", "cameras give --fps 30")

    def is_done(self, frames: int, seconds: float) -> bool:
        """Whether so many frames in so many seconds are enough."""
        if self.frames is None and self.duration_s is None:
            return frames >= fewest_samples(90) and seconds >= DEFAULT_S
        return frames >= (self.frames or 1) and seconds >= (self.duration_s or 0.0)

    def share_done(self, frames: int, seconds: float) -> float:
        """How much of it that is, 0 to 1."""
        if self.frames is None and self.duration_s is None:
            return min(1.0, frames / fewest_samples(90), seconds / DEFAULT_S)
        return min(1.0, frames / (self.frames or 1), seconds / self.duration_s if self.duration_s else 1.0)

    def frames_left(self, frames: int, seconds: float, step_s: float) -> int:
        """How many more frames it will take, as far as that can be told."""
        wanted, wanted_s = self.frames, self.duration_s
        if wanted is None and wanted_s is None:
            wanted, wanted_s = fewest_samples(90), DEFAULT_S
        by_time = int(max(0.0, (wanted_s or 0.0) - seconds) / max(step_s, 1e-9)) + 1 if wanted_s else 0
        return max(1, (wanted or 0) - frames, by_time)

    @property
    def period_ns(self) -> int:
        """Between two frames of the camera; 0: there is none."""
        return 0 if self.fps is None else round(1e9 / self.fps)

    def settings(self, threads: int | None) -> Settings:
        """As a result has it."""
        asked = self.frames is None and self.duration_s is None
        return Settings(
            frames=self.frames,
            duration_s=DEFAULT_S if asked else self.duration_s,
            warmup_s=self.warmup_s,
            warmup_frames=self.warmup_frames,
            threads=threads,
            fps=self.fps,
            different_frames=self.different_frames,
            power=self.power,
            video=self.video,
        )
