"""Where the time of a frame goes: every kernel of a compiled model, timed in place.

Profiled steps (a clock read around each kernel) and plain steps alternate, so that their difference, the clocks, shows;
the machine's arithmetic peak, where the compiler is installed, is measured between the frames of the same run. A fused
kernel's time is shared out over its stages, the layers it computes, by steps of their own with a clock between stages.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.manifest import KernelInfo, Manifest, StageInfo
from tsm_edge.bench.peak import PeakMeter
from tsm_edge.bench.rates import RuleTime, giga_per_second, rule_times
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession

WARM_UP = 3
# Frames between two looks at the machine's peak, few as clocks change; the first frame after one is not counted.
BLOCK = 2


@dataclass(frozen=True)
class StageTime:
    """A stage of a fused kernel.

    Attributes
    ----------
    name : str
    flops : int
    microseconds : float
        Its part of the kernel's median time, as the clocks between the stages share it out (median over the frames).
    of_peak : float or None
        As the kernel's.
    """

    name: str
    flops: int
    microseconds: float
    of_peak: float | None = None

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return giga_per_second(self.flops, self.microseconds)


@dataclass(frozen=True)
class KernelTime:
    """One kernel call of a frame.

    Attributes
    ----------
    info : KernelInfo
    microseconds, fastest : float
        Median and minimum over the frames.
    of_peak : float or None
        Share of the machine's peak, 0 to 1: median over the frames, each against the peak measured before and after
        it, so that both know the same clock and the same neighbours. None: not measured, or no arithmetic.
    stages : tuple of StageTime
        Of a fused kernel.
    """

    info: KernelInfo
    microseconds: float
    fastest: float
    of_peak: float | None = None
    stages: tuple[StageTime, ...] = ()

    @property
    def gflops(self) -> float:
        """GFLOP/s at the median time; 0 for a kernel without arithmetic."""
        return giga_per_second(self.info.flops, self.microseconds)

    @property
    def gigabytes(self) -> float:
        """GB/s at the median time: inputs, weights and outputs, each moved once, from whichever cache they lie in."""
        return giga_per_second(self.info.bytes, self.microseconds)


@dataclass(frozen=True)
class Profile:
    """A measured frame.

    Attributes
    ----------
    path : Path
        The artifact.
    manifest : Manifest
    threads, frames : int
        Frames timed each way.
    kernels : tuple of KernelTime
        In execution order.
    step_ms, fastest_ms : float
        Median and minimum time of a whole plain step, milliseconds.
    profiled_step_ms : float
        Median time of a step with a clock around each kernel, milliseconds.
    peak_gflops : float or None
        What this machine did, with as many threads, between the frames (median); None where it was not measured.
    plain_s : tuple of (float, float)
        Of each plain step: when it began, since the first one did, and how long it took; seconds.
    """

    path: Path
    manifest: Manifest
    threads: int
    frames: int
    kernels: tuple[KernelTime, ...]
    step_ms: float
    fastest_ms: float
    profiled_step_ms: float
    peak_gflops: float | None
    plain_s: tuple[tuple[float, float], ...] = ()

    @property
    def kernels_ms(self) -> float:
        """Sum of the kernels' median times, milliseconds."""
        return sum(kernel.microseconds for kernel in self.kernels) / 1e3

    @property
    def gflops(self) -> float:
        """GFLOP/s of the whole plain step."""
        return giga_per_second(sum(kernel.info.flops for kernel in self.kernels), self.step_ms * 1e3)

    def share(self, item: KernelTime | RuleTime) -> float:
        """Part of the kernels' time, 0 to 1."""
        return item.microseconds / (self.kernels_ms * 1e3) if self.kernels_ms else 0.0

    def fused(self) -> tuple[KernelTime, ...]:
        """The kernels that have stages."""
        return tuple(kernel for kernel in self.kernels if kernel.stages)

    def rules(self) -> tuple[RuleTime, ...]:
        """Time by schedule rule, the largest first."""
        return rule_times((item.info.rule, item.microseconds, item.info.flops) for item in self.kernels)


def profile_artifact(
    artifact: str | Path | Artifact, threads: int = 1, frames: int = 50, measure_peak: bool = False
) -> Profile:
    """Time every kernel of a compiled model on random frames.

    Parameters
    ----------
    artifact : str, Path or Artifact
    threads : int
        CPU threads of the model.
    frames : int
        Frames timed with, and as many without, a clock around each kernel.
    measure_peak : bool
        Also measure the machine's arithmetic peak (needs the compiler: ``bench.peak.can_measure_peak``).

    Raises
    ------
    ArtifactError
        The artifact cannot be loaded here.
    CompileError
        ``measure_peak`` without the compiler.
    """
    library = Library(artifact)
    manifest = library.manifest
    frame = np.random.default_rng(0).standard_normal(manifest.frame_shape, np.float32)
    # A GPU's launch is timed as a whole: nothing reads a clock inside it.
    fused = manifest.target.device == "cpu" and any(kernel.stages for kernel in manifest.kernels)
    nanoseconds: list[NDArray[np.uint64]] = []
    staged: list[NDArray[np.uint64]] = []
    plain: list[tuple[float, float]] = []
    profiled: list[float] = []
    peaks: list[float] = []
    with OnlineSession(library, threads) as session:
        # A GPU's peak is not what this CPU can do.
        meter = PeakMeter(manifest.target, threads) if measure_peak and manifest.target.device == "cpu" else None
        for _ in range(WARM_UP):
            session.step(frame)
        for index in range(frames):
            if meter is not None and index % BLOCK == 0:
                peaks.append(meter.measure())
                session.step(frame)
            started = perf_counter()
            session.step(frame)
            between = perf_counter()
            nanoseconds.append(session.step_profiled(frame)[1])
            profiled.append(perf_counter() - between)
            plain.append((started, between - started))
            if fused:
                staged.append(session.step_staged(frame)[1])
        if meter is not None:
            peaks.append(meter.measure())
    times = _kernel_times(manifest.kernels, nanoseconds, peaks)
    return Profile(
        path=library.artifact.path,
        manifest=manifest,
        threads=threads,
        frames=frames,
        kernels=_with_stages(times, staged) if fused else times,
        step_ms=statistics.median(seconds for _, seconds in plain) * 1e3,
        fastest_ms=min(seconds for _, seconds in plain) * 1e3,
        profiled_step_ms=statistics.median(profiled) * 1e3,
        peak_gflops=statistics.median(peaks) if peaks else None,
        plain_s=tuple((start - plain[0][0], seconds) for start, seconds in plain),
    )


def _kernel_times(
    infos: Sequence[KernelInfo], samples: Sequence[NDArray[np.uint64]], peaks: Sequence[float]
) -> tuple[KernelTime, ...]:
    """``peaks``: GFLOP/s before each block of frames and after the last; empty if it was not measured."""
    table = np.array(samples, np.float64).reshape(len(samples), len(infos)) / 1e3
    beside = [(peaks[i // BLOCK] + peaks[i // BLOCK + 1]) / 2 for i in range(len(samples))] if peaks else []

    def of_peak(info: KernelInfo, times: NDArray[np.float64]) -> float | None:
        if not beside or not info.flops:
            return None
        return float(np.median(info.flops / 1e3 / np.maximum(times, 1e-3) / beside))

    return tuple(
        KernelTime(info, float(np.median(times)), float(np.min(times)), of_peak(info, times))
        for info, times in zip(infos, table.T, strict=True)
    )


def _with_stages(kernels: Sequence[KernelTime], samples: Sequence[NDArray[np.uint64]]) -> tuple[KernelTime, ...]:
    """``samples``: nanoseconds of all stages of all kernels in one thread, by frames."""
    table, first, found = np.array(samples, np.float64), 0, []
    for kernel in kernels:
        infos = kernel.info.stages
        if infos:
            part = table[:, first : first + len(infos)]
            timed = part[part.sum(axis=1) > 0]  # in the others other threads did all of it
            shares = np.median(timed / timed.sum(axis=1, keepdims=True), axis=0) if len(timed) else part[0]
            stages = tuple(_stage(kernel, info, share) for info, share in zip(infos, shares, strict=True))
            kernel = replace(kernel, stages=stages)
        first += len(infos)
        found.append(kernel)
    return tuple(found)


def _stage(kernel: KernelTime, info: StageInfo, share: float) -> StageTime:
    """A stage that takes ``share`` of the kernel's time."""
    of_peak = None
    if kernel.of_peak is not None and share:
        of_peak = float(kernel.of_peak * info.flops / (kernel.info.flops * share))
    return StageTime(info.name, info.flops, float(share * kernel.microseconds), of_peak)
