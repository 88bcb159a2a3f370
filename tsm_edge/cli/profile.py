"""``tsm-edge profile``: the measured time of every kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.artifact.folder import files_of_artifact
from tsm_edge.cli.artifacts import artifact_argument, chosen_artifact, threads_option
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, to_plain
from tsm_edge.cli.report import check_report, not_writable

if TYPE_CHECKING:
    from tsm_edge.bench.profile import KernelTime, Profile


@click.command("profile")
@artifact_argument
@threads_option
@click.option(
    "--frames",
    metavar="N",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Frames, or clips, to time.",
)
@click.option("--no-peak", is_flag=True, help="Do not measure the machine's peak (which needs the compiler).")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a report to look at.",
)
@json_option
def command(artifact: Path | None, threads: int, frames: int, no_peak: bool, html: Path | None, as_json: bool) -> None:
    """Time every kernel of the compiled model in DIR, on random frames.

    DIR: by default the artifact compiled last below ./out. Times are medians over the frames. Where the compiler is
    installed, each kernel is also given as a share of what this machine can do at most. The time of a fused kernel is
    shared out over the layers it computes.
    """
    from tsm_edge.bench.peak import can_measure_peak
    from tsm_edge.bench.profile import profile_artifact

    path = chosen_artifact(artifact)
    if html is not None:
        check_report(html, files_of_artifact(path))
    measure_peak = not no_peak and can_measure_peak()
    with status(f"profiling {path}"):
        profile = profile_artifact(path, threads, frames, measure_peak)
    if as_json:
        print_json(_as_json(profile))
    else:
        _print(profile)
        if not no_peak and not measure_peak:
            note("the machine's peak was not measured: the compiler (tvm, ziglang) is not installed here")
    if html is not None:
        _write_report(html, profile)


def _taken(profile: Profile) -> str:
    """What so many of were timed, for people."""
    manifest = profile.manifest
    return "frames" if not manifest.clip else "clips" if manifest.clips == 1 else f"times {manifest.clips} clips"


def _write_report(path: Path, profile: Profile) -> None:
    from tsm_edge.bench.page import write_page
    from tsm_edge.bench.profile_result import document_of

    try:
        write_page(document_of(profile), path)
    except OSError as error:
        raise not_writable(path, error) from None
    note(f"report: {path}")


def _print(profile: Profile) -> None:
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    print_table(
        f"{profile.path}: {profile.manifest.model}, {threads}, {profile.frames} {_taken(profile)}",
        ("layer", "rule", "tile", "items", "time (us)", "fastest (us)", "share (%)", "GFLOP/s", "peak (%)", "GB/s"),
        [_row(profile, kernel) for kernel in profile.kernels],
        optional=("fastest (us)", "items", "tile", "GB/s", "GFLOP/s", "rule"),
    )
    print_table(
        "\nby rule",
        ("rule", "calls", "time (ms)", "share (%)", "GFLOP/s"),
        [
            (item.rule, item.calls, f"{item.microseconds / 1e3:.3f}", _percent(profile.share(item)), _rate(item.gflops))
            for item in profile.rules()
        ],
    )
    if profile.fused():
        _print_stages(profile)
    note(
        f"step {profile.step_ms:.3f} ms ({profile.gflops:.1f} GFLOP/s), at best {profile.fastest_ms:.3f} ms; "
        f"kernels together {profile.kernels_ms:.3f} ms; with a clock around each {profile.profiled_step_ms:.3f} ms"
    )
    if profile.peak_gflops is not None:
        note(
            f"machine peak {profile.peak_gflops:.1f} GFLOP/s with {threads}, measured between them (median); "
            "peak (%): kernel and peak side by side"
        )


def _print_stages(profile: Profile) -> None:
    """One row a fused kernel, its stages side by side."""
    rate = "GFLOP/s" if profile.peak_gflops is None else "peak (%)"
    names = tuple(dict.fromkeys(stage.name for kernel in profile.fused() for stage in kernel.stages))

    def cells(kernel: KernelTime) -> Iterator[str]:
        stages = {stage.name: stage for stage in kernel.stages}
        for name in names:
            stage = stages.get(name)
            if stage is None:
                yield from ("-", "-")
                continue
            yield f"{stage.microseconds:.1f}"
            yield _rate(stage.gflops) if profile.peak_gflops is None else _percent(stage.of_peak)

    print_table(
        "\nstages of fused kernels",
        ("layer", *(column for name in names for column in (f"{name} (us)", rate))),
        [(kernel.info.layer, *cells(kernel)) for kernel in profile.fused()],
        optional=(rate,),
    )


def _row(profile: Profile, kernel: KernelTime) -> tuple[object, ...]:
    info = kernel.info
    return (
        *(info.layer, info.rule, info.tile, info.items, f"{kernel.microseconds:.1f}", f"{kernel.fastest:.1f}"),
        *(_percent(profile.share(kernel)), _rate(kernel.gflops), _percent(kernel.of_peak)),
        _rate(kernel.gigabytes),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value else "-"


def _as_json(profile: Profile) -> dict[str, object]:
    return {
        "path": profile.path,
        "model": profile.manifest.model,
        "target": profile.manifest.target.name,
        "threads": profile.threads,
        "frames": profile.frames,
        "step_milliseconds": profile.step_ms,
        "fastest_step_milliseconds": profile.fastest_ms,
        "profiled_step_milliseconds": profile.profiled_step_ms,
        "kernels_milliseconds": profile.kernels_ms,
        "gflops": profile.gflops,
        "peak_gflops": profile.peak_gflops,
        "kernels": [
            {
                **to_plain(kernel.info),
                "microseconds": kernel.microseconds,
                "fastest_microseconds": kernel.fastest,
                "share": profile.share(kernel),
                "gflops": kernel.gflops,
                "of_peak": kernel.of_peak,
                "gigabytes_per_second": kernel.gigabytes,
                "stages": [{**to_plain(stage), "gflops": stage.gflops} for stage in kernel.stages],
            }
            for kernel in profile.kernels
        ],
        "rules": [{**to_plain(item), "share": profile.share(item), "gflops": item.gflops} for item in profile.rules()],
    }
