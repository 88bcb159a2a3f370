"""How near the machine's peak pointwise layers come, beside the vendor's matrix product of the same size.

python benchmarks/gemm.py DIR --json gemm.json

For every pointwise layer of an artifact: its share of the measured peak inside a step of the model, and that of
PyTorch's ``torch.mm`` (MKL on x86-64) for the same matrices, alone, again and again; for comparison, a product of two
large matrices. One thread. The peak is measured anew beside the samples, since clocks change.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from report import describe, machine_info, table, write_json

from tsm_edge.artifact.folder import MODEL_ONNX
from tsm_edge.bench.peak import PeakMeter
from tsm_edge.bench.profile import Profile, profile_artifact
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.layers import Convolution
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import TsmEdgeError

LARGE = 2048
"""Rows and columns of the large matrices."""
SAMPLE_FLOPS = 2e7
"""A sample of a small product is so many of it."""


@dataclass(frozen=True)
class Product:
    """A pointwise layer as a matrix product: [pixels, inputs] · [inputs, outputs]."""

    pixels: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.pixels * self.inputs * self.outputs

    def __str__(self) -> str:
        return f"{self.pixels} x {self.inputs} x {self.outputs}"


@dataclass(frozen=True)
class Layer:
    """A pointwise layer of an artifact: a kernel or a stage of one, and its share of the peak in a step, 0 to 1."""

    name: str
    product: Product
    share: float


def pointwise_products(path: Path) -> list[Product]:
    """The 1×1 convolutions of an ONNX file, stride 1, in order."""
    graph = load_onnx(path)
    products = []
    for layer in fuse(graph):
        if isinstance(layer, Convolution) and layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1):
            outputs, inputs = layer.weight.shape[:2]
            pixels = math.prod(graph.shapes[layer.output][2:])
            if pixels > 1:  # the classifier is no matrix product
                products.append(Product(pixels, inputs, outputs))
    return products


def layers_of(profile: Profile, products: list[Product]) -> list[Layer]:
    """Match an artifact's kernels and stages to the network's products, which are in the same order."""
    parts = []
    for kernel in profile.kernels:
        parts += [(f"{kernel.info.layer} {stage.name}", stage.flops, stage.of_peak) for stage in kernel.stages]
        if kernel.info.rule == "pointwise":
            parts.append((kernel.info.layer, kernel.info.flops, kernel.of_peak))
    layers, left = [], list(products)
    for name, flops, share in parts:
        if left and flops == left[0].flops and share is not None:
            layers.append(Layer(name, left.pop(0), share))
    if left:
        raise ValueError(f"{left[0]} is no kernel or stage of the artifact; compile its model.onnx again")
    return layers


def vendor_shares(products: Iterable[Product], meter: PeakMeter, samples: int) -> dict[Product, float]:
    """``torch.mm``'s share of the peak, median over samples; the products take turns, as clocks wander."""
    generator = torch.Generator().manual_seed(0)
    operands = {
        at: (
            torch.randn(at.pixels, at.inputs, generator=generator),
            torch.randn(at.inputs, at.outputs, generator=generator),
            torch.empty(at.pixels, at.outputs),
        )
        for at in products
    }
    shares: dict[Product, list[float]] = {at: [] for at in operands}
    for _ in range(samples + 1):  # the first warms up
        for at, (a, b, result) in operands.items():
            calls = max(1, round(SAMPLE_FLOPS / at.flops))
            torch.mm(a, b, out=result)
            before = meter.measure()
            start = time.perf_counter()
            for _ in range(calls):
                torch.mm(a, b, out=result)
            seconds = time.perf_counter() - start
            shares[at].append(calls * at.flops / seconds / 1e9 / ((before + meter.measure()) / 2))
    return {at: float(np.median(found[1:])) for at, found in shares.items()}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("artifact", type=Path, help="artifact compiled for this machine, with its model.onnx")
    add("--samples", type=int, default=60, help="frames, and samples of each product (%(default)s)")
    add("--json", type=Path, help="write the figures here")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    large = Product(LARGE, LARGE, LARGE)
    profile = profile_artifact(options.artifact, frames=options.samples, measure_peak=True)
    layers = layers_of(profile, pointwise_products(options.artifact / MODEL_ONNX))
    products = dict.fromkeys((*(layer.product for layer in layers), large))
    vendor = vendor_shares(products, PeakMeter(profile.manifest.target), options.samples)
    machine = machine_info(("torch",))
    print(f"{options.artifact}\n{describe(machine)}\n1 thread, float32, shares of the measured peak")
    rows = [[layer.name, str(layer.product), f"{layer.share:.0%}", f"{vendor[layer.product]:.0%}"] for layer in layers]
    rows.append(["large matrices", str(large), "", f"{vendor[large]:.0%}"])
    print(table(["layer", "pixels x inputs x outputs", "tsm-edge, in a step", "torch.mm, alone"], rows))
    if options.json:
        data = [
            {
                "layer": layer.name,
                "product": vars(layer.product),
                "tsm_edge": layer.share,
                "torch_mm": vendor[layer.product],
            }
            for layer in layers
        ]
        write_json(options.json, {"benchmark": "gemm", "machine": machine, "layers": data, "large": vendor[large]})


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    try:
        _run(_options(arguments))
    except (TsmEdgeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
