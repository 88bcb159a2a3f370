"""A profile as a bench result, so that both have one page."""

from __future__ import annotations

import shlex
from datetime import datetime, timezone

from tsm_edge import __version__
from tsm_edge.bench.profile import WARM_UP, KernelTime, Profile
from tsm_edge.bench.result import (
    SCHEMA,
    Document,
    KernelFigures,
    Model,
    Result,
    Samples,
    Settings,
    StageFigures,
    Startup,
)
from tsm_edge.bench.statistics import summary


def document_of(profile: Profile) -> Document:
    """The figures of a profile. Nothing else of the machine was looked at, and nothing is judged."""
    manifest = profile.manifest
    steps_ms = tuple(1e3 * seconds for _, seconds in profile.plain_s)
    settings = Settings(profile.frames, None, 0.0, WARM_UP, profile.threads, None, 1, "none")
    command = [
        "tsm-edge",
        "profile",
        str(profile.path),
        "--threads",
        str(profile.threads),
        "--frames",
        str(profile.frames),
    ]
    result = Result(
        name=manifest.model,
        route="local",
        address=None,
        server=None,
        started=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=shlex.join(command),
        clock="time.perf_counter",
        model=Model(
            name=manifest.model,
            target=manifest.target.name,
            precision=manifest.precision,
            path=str(profile.path),
            sha256="",
            frame_shape=tuple(manifest.frame_shape),
            flops=sum(kernel.info.flops for kernel in profile.kernels),
            bytes=sum(kernel.info.bytes for kernel in profile.kernels),
            device=manifest.target.device,
        ),
        settings=settings,
        startup=Startup(),
        latency_ms=summary(steps_ms),
        fps=None,
        samples=Samples(tuple(start for start, _ in profile.plain_s), steps_ms),
        kernels=tuple(map(_figures, profile.kernels)),
        peak_gflops=profile.peak_gflops,
    )
    return Document(SCHEMA, __version__, (result,))


def _figures(kernel: KernelTime) -> KernelFigures:
    info = kernel.info
    return KernelFigures(
        layer=info.layer,
        rule=info.rule,
        tile=info.tile,
        time_us=kernel.microseconds,
        fastest_us=kernel.fastest,
        flops=info.flops,
        bytes=info.bytes,
        of_peak_percent=None if kernel.of_peak is None else 100 * kernel.of_peak,
        stages=tuple(StageFigures(stage.name, stage.microseconds, stage.flops) for stage in kernel.stages),
    )
