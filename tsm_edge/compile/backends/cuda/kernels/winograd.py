"""3×3 convolutions at stride 1 by Winograd's algorithm: three launches, where the card's numbers say that they pay.

Pixels to operands, one matrix product a position, products to pixels. The products are those of the 1×1 convolutions, a
batch of them in one launch. Weights are transformed at compile time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tsm_edge.compile.backends.common.winograd import transformed_weights
from tsm_edge.compile.backends.cuda.choose.winograd import (
    WinogradSettings,
    WinogradSpecs,
    all_winograd_settings,
    is_winograd_legal,
    winograd_settings,
    winograd_specs,
)
from tsm_edge.compile.backends.cuda.kernels import convolution
from tsm_edge.compile.backends.cuda.kernels.pointwise import product_buffers, stored_weights, tapped
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir


def pack_products(specs: WinogradSpecs, weight: np.ndarray) -> np.ndarray:
    """[position][input][output] of [output][input][3][3], transformed, rounded up with zeros."""
    product, outputs = specs.product, specs.target.tiling.outputs
    packed = np.zeros((product.batch, product.padded_inputs, product.padded_outputs), product.source.dtype)
    transformed = transformed_weights(outputs, weight)
    packed[:, : product.inputs, : product.outputs] = transformed.reshape(-1, product.inputs, product.outputs)
    return packed


def pack_bias(specs: WinogradSpecs, bias: np.ndarray) -> np.ndarray:
    """[position][output]: what is added at position (1, 1) reaches every output of a tile once."""
    product, side = specs.product, specs.target.tiling.side
    packed = np.zeros((product.batch, product.padded_outputs), np.float32)
    packed[side + 1, : product.outputs] = bias
    return packed


def _settings(at: Lowering, layer: ir.Convolution) -> WinogradSettings | None:
    return convolution.settings_of(at, RULE.name, layer, WinogradSettings, winograd_settings, is_winograd_legal)


def other_settings(at: Lowering, layer: ir.Layer) -> Iterator[WinogradSettings]:
    """Of Winograd's algorithm, whether it was chosen or not, best first; none where it cannot be."""
    if isinstance(layer, ir.Convolution) and fits(at, layer):
        yield from all_winograd_settings(at.gpu, convolution.direct_spec(at, layer))


def _keeps_type(at: Lowering, layer: ir.Convolution) -> bool:
    """Whether operands round no more than the tensor: halfs that are only stored would be rounded once more."""
    source, target = at.tensors[layer.source].image.dtype, at.tensors.planes_of(layer.output).dtype
    return source == target and not (at.halfs_are_stored and source == "float16")


def fits(at: Lowering, layer: ir.Convolution) -> bool:
    """Whether the algorithm can compute a convolution."""
    return (
        layer.weight.shape[2:] == (3, 3)
        and layer.strides == (1, 1)
        and layer.groups == 1
        and convolution.RULE.takes(at, layer)
        and _keeps_type(at, layer)
    )


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    return isinstance(layer, ir.Convolution) and fits(at, layer) and _settings(at, layer) is not None


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    settings = _settings(at, layer)
    if settings is None:
        raise TypeError("the direct sum is faster")
    cache, tap = tapped(at, layer)
    specs = winograd_specs(convolution.direct_spec(at, layer, tap), settings)
    at.chose(RULE.name, (layer,), settings)
    buffers, label = product_buffers(at, layer, cache), at.label((layer,))
    operands = at.tensors.new(f"{layer.output} operands", specs.source.target)
    products = at.tensors.new(f"{layer.output} products", specs.target.source)
    weight, bias = stored_weights(at, layer)
    weights = {"weights": at.add_weights(pack_products(specs, weight)), "bias": at.add_weights(pack_bias(specs, bias))}
    at.call(specs.source, buffers | {"target": operands.buffer}, label)
    at.call(specs.product, {"source": operands.buffer, "target": products.buffer, **weights}, label)
    at.call(specs.target, buffers | {"source": products.buffer}, label)


RULE = Rule("winograd", _takes, _lower, WinogradSettings)
