"""``tsm-edge verify``: the compiled model against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cli.artifacts import artifact_argument, chosen_artifact, rpc_options, threads_option
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.extras import is_installed, require

if TYPE_CHECKING:
    from tsm_edge.rpc.place import Place
    from tsm_edge.verify.compare import VerifyResult


@click.command("verify")
@artifact_argument
@click.option(
    "--onnx", metavar="FILE", type=click.Path(path_type=Path), help="The ONNX file, if not the one kept in DIR."
)
@click.option(
    "--frames",
    metavar="N",
    type=click.IntRange(min=2),
    help="Frames, or clips, to compare.  [default: 16; with --emulate 4]",
)
@threads_option
@click.option("--emulate", is_flag=True, help="Run tsm-runner: under QEMU, on a stand-in for a GPU.")
@rpc_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    artifact: Path | None,
    onnx: Path | None,
    frames: int | None,
    threads: int,
    emulate: bool,
    device: Place | None,
    as_json: bool,
) -> None:
    """Run the compiled model in DIR and its ONNX file side by side, caches fed back, and compare every output.

    Where ONNX Runtime is not installed (a small install, on a device): against the golden frames in DIR.

    DIR: by default the artifact compiled last below ./out. Exit code 1 when an output differs.
    """
    from tsm_edge.verify.compare import verify_artifact, verify_golden

    if device is not None and emulate:
        raise click.UsageError("--emulate runs on this machine: expected no --rpc and no --tracker with it", ctx)
    whole = is_installed("compile")
    if emulate or device is not None or onnx is not None:
        require("compile", "tsm-edge verify with ONNX Runtime as its reference")
    path = chosen_artifact(artifact)
    with status(f"verifying {path}"):
        if emulate:
            from tsm_edge.verify.emulated import verify_emulated

            result = verify_emulated(path, onnx, frames, threads)
        elif whole:
            result = verify_artifact(path, onnx, frames, threads, place=device, notify=warn)
        else:
            result = verify_golden(path, threads)
    if as_json:
        _print_json(result)
    else:
        _print(result)
    if not result.passed:
        ctx.exit(1)


def _print_json(result: VerifyResult) -> None:
    print_json(
        {
            "path": result.path,
            "ran": result.ran,
            "against": result.against,
            "frames": result.frames,
            "threads": result.threads,
            "passed": result.passed,
            "tolerance": result.tolerance,
            **({} if result.quality_db is None else {"signal_to_noise_db": round(result.quality_db, 2)}),
            "checks": [
                {"name": c.name, "shape": c.shape, "magnitude": c.magnitude, "error": c.error, "passed": c.passed}
                for c in result.checks
            ],
        }
    )


def _print(result: VerifyResult) -> None:
    print_table(
        f"{result.path}: {result.ran} against {result.against}, {result.shown}",
        ("output", "shape", "largest value", "relative error", ""),
        [
            (c.name, list(c.shape), f"{c.magnitude:.4g}", f"{c.error:.1e}", "ok" if c.passed else "DIFFERS")
            for c in result.checks
        ],
    )
    verdict = "all outputs agree" if result.passed else "outputs DIFFER"
    tolerance = f"tolerance {result.tolerance:.0e} of the largest value"
    if (loosest := max(check.tolerance for check in result.checks)) > result.tolerance:
        tolerance += f", {loosest:.0e} of shift caches"
    note(f"{verdict} ({tolerance if result.tolerance else 'bit for bit'})")
    _print_quality(result.quality_db)


def _print_quality(ratio_db: float | None) -> None:
    """How far integers are from the float model."""
    if ratio_db is None:
        return
    from tsm_edge.verify.quality import GOOD_DB, LEAST_DB

    text = f"logits against the float model: {ratio_db:.1f} dB signal to noise"
    if ratio_db < LEAST_DB:
        warn(f"{text}, expected {LEAST_DB:.0f} or more: calibrate with other video, or compile in fp32")
    elif ratio_db < GOOD_DB:
        warn(f"{text}: {GOOD_DB:.0f} and more are usual; calibrate with video of what the model will see")
    else:
        note(text)
