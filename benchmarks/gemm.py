"""How near the machine's peak pointwise layers come, beside the vendor's matrix product of the same size.

python benchmarks/gemm.py DIR --json gemm.json

For every pointwise layer of an artifact: its share of the measured peak inside a step of the model, and that of
PyTorch's ``torch.mm`` (MKL on x86-64) for the same matrices, alone, again and again; for comparison, a product of two
large matrices. One thread. The peak is measured anew before and after every sample, since clocks change.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from report import describe, machine_info, table, write_json

from tsm_edge.bench.peak import PeakMeter
from tsm_edge.errors import TsmEdgeError
from tsm_edge.manifest import Manifest
from tsm_edge.session import OnlineSession

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
    """A pointwise layer of an artifact, and where a profile has its time.

    Attributes
    ----------
    name : str
    product : Product
    kernel : int or None
        Its kernel's place among the manifest's, where it is a kernel of its own.
    stage : int or None
        Its stage's place among all stages, where it is part of a fused kernel.
    """

    name: str
    product: Product
    kernel: int | None
    stage: int | None


def pointwise_products(path: Path) -> list[Product]:
    """The 1×1 convolutions of an ONNX file, stride 1, in order."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    products = []
    for node in model.graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        strides = attributes.get("strides", [1, 1])
        if node.op_type == "Conv" and weights[node.input[1]][2:] == (1, 1) and strides == [1, 1]:
            _, outputs, height, width = shapes[node.output[0]]
            products.append(Product(height * width, weights[node.input[1]][1], outputs))
    return products


def layers_of(manifest: Manifest, products: list[Product]) -> list[Layer]:
    """Match an artifact's kernels and stages to the network's products, which are in the same order."""
    layers, stage, left = [], 0, list(products)
    for index, kernel in enumerate(manifest.kernels):
        parts = [(f"{kernel.layer} {part.name}", part.flops, None, stage + i) for i, part in enumerate(kernel.stages)]
        for name, flops, own, at in parts or [(kernel.layer, kernel.flops, index, None)]:
            if left and flops == left[0].flops and (own is None or kernel.rule == "pointwise"):
                layers.append(Layer(name, left.pop(0), own, at))
        stage += len(kernel.stages)
    if left:
        raise ValueError(f"{left[0]} is no kernel or stage of the artifact; compile its model.onnx again")
    return layers


def model_shares(session: OnlineSession, meter: PeakMeter, layers: list[Layer], frames: int) -> list[float]:
    """Each layer's share of the peak in a step, median over frames."""
    frame = np.random.default_rng(0).normal(0, 1, session.manifest.frame_shape).astype(np.float32)
    shares = []
    for _ in range(frames):
        session.step(frame)
        before = meter.measure()
        kernels, stages = session.step_profiled(frame)[1], session.step_staged(frame)[1]
        peak = (before + meter.measure()) / 2
        times = [stages[at.stage] if at.kernel is None else kernels[at.kernel] for at in layers]
        shares.append([at.product.flops / float(ns) / peak for at, ns in zip(layers, times, strict=True)])
    return [float(share) for share in np.median(shares, axis=0)]


def vendor_share(product: Product, meter: PeakMeter, samples: int) -> float:
    """``torch.mm``'s share of the peak, median over samples."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(product.pixels, product.inputs, generator=generator)
    b = torch.randn(product.inputs, product.outputs, generator=generator)
    result = torch.empty(product.pixels, product.outputs)
    calls, shares = max(1, round(SAMPLE_FLOPS / product.flops)), []
    for _ in range(samples + 1):  # the first warms up
        before = meter.measure()
        start = time.perf_counter()
        for _ in range(calls):
            torch.mm(a, b, out=result)
        seconds = time.perf_counter() - start
        shares.append(calls * product.flops / seconds / 1e9 / ((before + meter.measure()) / 2))
    return float(np.median(shares[1:]))


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
    with OnlineSession(options.artifact, threads=1) as session, PeakMeter(session.manifest.target) as meter:
        layers = layers_of(session.manifest, pointwise_products(options.artifact / "model.onnx"))
        ours = model_shares(session, meter, layers, options.samples)
        products = dict.fromkeys((*(layer.product for layer in layers), large))
        vendor = {product: vendor_share(product, meter, options.samples) for product in products}
    machine = machine_info(("torch",))
    print(f"{options.artifact}\n{describe(machine)}\n1 thread, float32, shares of the measured peak")
    rows = [
        [layer.name, str(layer.product), f"{share:.0%}", f"{vendor[layer.product]:.0%}"]
        for layer, share in zip(layers, ours, strict=True)
    ]
    rows.append(["large matrices", str(large), "", f"{vendor[large]:.0%}"])
    print(table(["layer", "pixels x inputs x outputs", "tsm-edge, in a step", "torch.mm, alone"], rows))
    if options.json:
        data = [
            {"layer": layer.name, "product": vars(layer.product), "tsm_edge": share, "torch_mm": vendor[layer.product]}
            for layer, share in zip(layers, ours, strict=True)
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
