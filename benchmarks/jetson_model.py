"""Modelled time of a model on Jetson Nano and TX2, launch by launch. Nothing is measured: no Jetson was at hand.

ptxas's machine code runs in a simulator of the multiprocessors, instruction by instruction: issue slots, register
banks, shared memory, L1, L2, DRAM, and the latencies between them. What it does not know is taken from the target card
(bandwidth, launch) or was fitted to 18 kernels of TVM's public log of a real Nano (L1 width, DRAM latency). For the
TX2's kernels of that log, which were not used for the fit, the same model gave 1.05 times the measured time. It assumes
that the clocks are at their maximum. Halfs are uncalibrated: no log has any.

nvdisasm of CUDA 12 or older, which still knows these GPUs, is needed: triton 3.0.0's wheel has one.

    python -m benchmarks.jetson_model --nvdisasm .../triton/backends/nvidia/bin/nvdisasm --target jetson-nano
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from benchmarks.jetson.launches import model
from benchmarks.jetson.sass import disassemble
from tsm_edge.cards import load_model, load_target
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, precision_named
from tsm_edge.compile.backends.cuda.generate import generate
from tsm_edge.compile.backends.cuda.lower import lower
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.export.onnx import ExportRequest, export_onnx

# Measured by others, ms, with where: what a modelled time stands beside.
PUBLISHED = {
    (
        "mobilenetv2-jester",
        "jetson-nano",
    ): "13.4 in the paper (TVM, fp32), 12.8 is the best published",
    ("mobilenetv2-jester", "jetson-tx2"): "8.5 in the paper (TVM, fp32), 6.65 is the best published",
    ("resnet50-kinetics", "jetson-nano"): "29.8 is the best published (fp16)",
    ("resnet50-kinetics", "jetson-tx2"): "15.7 is the best published (fp16)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nvdisasm", type=Path, required=True)
    parser.add_argument("--model", default="mobilenetv2-jester")
    parser.add_argument("--onnx", type=Path, help="an exported model, instead of exporting --model")
    parser.add_argument("--target", default="jetson-nano")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--accumulate", choices=["fp32"])
    parser.add_argument("--json", type=Path, help="write every launch there")
    options = parser.parse_args()
    target, precision = load_target(options.target), precision_named(options.precision)
    if target.gpu is None:
        parser.error(f"{options.target} has no GPU")
    if options.accumulate:
        precision = FP16_SUMMED_IN_FP32
    with tempfile.TemporaryDirectory() as folder:
        onnx = options.onnx or Path(folder) / "model.onnx"
        if options.onnx is None:
            export_onnx(ExportRequest(load_model(options.model), onnx, seed=0))
        graph = load_onnx(onnx)
        program = lower(graph, fuse(graph), target, precision)
        code = generate(program, target.gpu)
        cubin = Path(folder) / "kernels.cubin"
        cubin.write_bytes(code.cubin)
        kernels = disassemble(cubin, options.nvdisasm)
    times = {
        call.kernel: model(call, kernels[call.kernel], code.resources[call.kernel], target.gpu)
        for call in program.calls
    }
    print(f"{options.model} on {options.target}, {precision.name}: modelled, not measured ({code.compiler})")
    print(f"{'layer':28} {'rule':12} {'tile':52} {'arithmetic':>10} {'memory':>8} {'modelled (us)':>14}")
    rows = []
    for call in program.calls:
        found = times[call.kernel]
        tile = call.spec.describe()
        print(
            f"{call.layer[:28]:28} {call.spec.rule:12} {tile:52} {found.arithmetic_us:10.1f} "
            f"{found.memory_us:8.1f} {found.microseconds:14.1f}"
        )
        rows.append({"layer": call.layer, "rule": call.spec.rule, "tile": tile, **dataclasses.asdict(found)})
    kernels_ms = sum(times[call.kernel].microseconds for call in program.calls) / 1e3
    launches_ms = len(program.calls) * target.gpu.launch_us / 1e3
    total = kernels_ms + launches_ms
    print(
        f"modelled: {kernels_ms:.2f} ms in kernels + {len(program.calls)} launches × {target.gpu.launch_us:g} us "
        f"= {total:.2f} ms a frame"
    )
    if text := PUBLISHED.get((options.model, options.target)):
        print(f"beside it, in ms: {text}")
    if options.json:
        table = {"model": options.model, "target": options.target, "precision": precision.name}
        table |= {"modelled_ms": round(total, 3), "compiler": code.compiler, "launches": rows}
        options.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
