"""The kernels of a compiled step for people and as JSON: ``tsm-edge compile --explain``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tsm_edge.cards import TargetCard
from tsm_edge.cli.output import note, print_table, to_plain

if TYPE_CHECKING:
    from tsm_edge.compile.explain import Explanation
    from tsm_edge.compile.explain_gpu import GpuExplanation
    from tsm_edge.compile.ir.device_code import DeviceCode
    from tsm_edge.compile.ir.program import Program

    AnyExplanation = Explanation | GpuExplanation

# Columns that a narrow window can do without.
_OPTIONAL = ("items", "kB", "FLOP/byte", "tile", "MFLOP", "bound by")
_OPTIONAL_GPU = ("kB", "MFLOP", "tile", "blocks", "shared (B)", "spill (B)", "threads", "warps/SM", "bound by", "rule")


def explanation_of(program: Program, code: DeviceCode | None, target: TargetCard) -> AnyExplanation:
    """Model a program on the target's device; ``code`` is a GPU's."""
    if code is not None and target.gpu is not None:
        from tsm_edge.compile.explain_gpu import explain_gpu

        return explain_gpu(program, code, target.gpu)
    from tsm_edge.compile.explain import explain

    return explain(program, target.cpu)


def explanation_table(explanation: AnyExplanation) -> dict[str, object]:
    """As JSON knows it."""
    from tsm_edge.compile.explain import Explanation

    table: dict[str, object] = {
        "modelled_milliseconds": explanation.milliseconds,
        "without_rule": explanation.without_rule,
        "choices": [choice.to_table() for choice in explanation.choices],
    }
    if isinstance(explanation, Explanation):
        kernels = [{**to_plain(item), "intensity": item.intensity} for item in explanation.kernels]
        return {
            "clock_mhz": explanation.clock_mhz,
            "peak_gflops": explanation.peak_gflops,
            **table,
            "signal_to_noise_db": {
                name: round(ratio, 1) for name, ratio in explanation.noise_db.items() if math.isfinite(ratio)
            },
            "without_integers": explanation.in_float,
            "kernels": kernels,
        }
    return {
        "clock_mhz": explanation.gpu.clock_mhz,
        "peak_gflops": 2 * explanation.gpu.multiply_adds_gs,
        "compiler": explanation.compiler,
        **table,
        "kernels": [to_plain(item) for item in explanation.kernels],
    }


def print_explanation(explanation: AnyExplanation, target: TargetCard) -> None:
    """A table of the kernels, and their modelled time."""
    from tsm_edge.compile.explain import Explanation

    if isinstance(explanation, Explanation):
        _print_cpu(explanation, target)
        _print_integers(explanation)
    else:
        _print_gpu(explanation, target)
    if explanation.without_rule:
        note(f"compiled by the generic fallback: {', '.join(explanation.without_rule)}")
    else:
        note("every kernel has a rule")


def _print_cpu(explanation: Explanation, target: TargetCard) -> None:
    rows = [
        (
            item.layer,
            item.rule,
            item.tile,
            item.items,
            f"{item.flops / 1e6:.2f}",
            f"{item.bytes / 1e3:.0f}",
            f"{item.intensity:.1f}",
            item.bound,
            "-" if item.microseconds is None else f"{item.microseconds:.1f}",
        )
        for item in explanation.kernels
    ]
    columns = ("layer", "rule", "tile", "items", "MFLOP", "kB", "FLOP/byte", "bound by", "model (us)")
    print_table(f"\nkernels, and their time on one core of {target.name} by a model", columns, rows, _OPTIONAL)
    if explanation.milliseconds is None:
        note(f"no modelled time: target card {target.name} has no clock_mhz")
    else:
        note(
            f"modelled, not measured: {explanation.milliseconds:.2f} ms a frame on one core "
            f"({explanation.clock_mhz} MHz, peak {explanation.peak_gflops:.0f} GFLOP/s); measure with: tsm-edge profile"
        )


def _print_integers(explanation: Explanation) -> None:
    """How far each layer's integers are from the float model, and what is not computed in integers."""
    if explanation.noise_db:
        rows = [
            (layer, "exact" if math.isinf(ratio) else f"{ratio:.1f}") for layer, ratio in explanation.noise_db.items()
        ]
        print_table("\nsignal to noise after each layer, on the frames it was calibrated with", ("layer", "dB"), rows)
    if explanation.in_float:
        note(f"in float32, without a form in integers: {', '.join(explanation.in_float)}")


def _print_gpu(explanation: GpuExplanation, target: TargetCard) -> None:
    gpu = explanation.gpu
    rows = [
        (
            item.layer,
            item.rule,
            item.tile,
            item.blocks,
            item.threads,
            item.registers,
            item.spill_bytes,
            item.shared_bytes,
            f"{item.resident_warps}/{gpu.sm_warps}",
            f"{item.flops / 1e6:.2f}",
            f"{item.bytes / 1e3:.0f}",
            item.bound,
            f"{item.microseconds:.1f}",
        )
        for item in explanation.kernels
    ]
    columns = (
        *("layer", "rule", "tile", "blocks", "threads", "registers", "spill (B)", "shared (B)", "warps/SM"),
        *("MFLOP", "kB", "bound by", "model (us)"),
    )
    print_table(f"\nkernels, and their time on {target.name} by a model", columns, rows, _OPTIONAL_GPU)
    note(
        f"modelled, not measured: {explanation.milliseconds:.2f} ms a frame on {gpu.arch} ({gpu.clock_mhz} MHz, "
        f"{gpu.memory_gb_s:g} GB/s, {gpu.launch_us:g} us a launch); registers and memory by {explanation.compiler}"
    )
