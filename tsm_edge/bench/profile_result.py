"""A profile as a bench result, so that both have one page."""

from __future__ import annotations

import shlex
from datetime import datetime, timezone

from tsm_edge import __version__
from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.profile import WARM_UP, KernelTime, Profile
from tsm_edge.bench.result import (
    SCHEMA,
    Document,
    KernelFigures,
    Result,
    Samples,
    Settings,
    StageFigures,
    Startup,
)
from tsm_edge.bench.statistics import summary
from tsm_edge.bench.subject import model_of


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
        model=model_of(Artifact(profile.path, manifest)),
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
