"""1×1 convolutions: the product of two matrices whose rows lie as they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tsm_edge.compile.backends.cuda.choose.tiles import flush_of, gemm_tile, is_legal, other_tiles
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile, Window
from tsm_edge.compile.backends.cuda.lowering import Lowering, refused_settings
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef

# Stands where the tile will: what chooses it looks at the rest.
NO_TILE = GemmTile(8, 8, 8, 8)


def activation_of(layer: ir.Convolution, scale: float) -> tuple[str, float, float]:
    """How the clamp is computed, and its bounds, of a result that is stored divided by ``scale``."""
    if scale != 1.0:
        return "saturate", 0.0, 0.0
    if layer.clamp == ir.Clamp():
        return "", 0.0, 0.0
    if layer.clamp == ir.Clamp(0.0):
        return "relu", 0.0, 0.0
    return "clamp", layer.clamp.low, layer.clamp.high


def product_spec(at: Lowering, layer: ir.Convolution, window: Window | None, tap: int = 0) -> GemmSpec:
    """A convolution as a matrix product; its tile is not chosen yet."""
    activation, low, high = activation_of(layer, at.scale_of(layer))
    in_halfs = at.precision.storage == "float16" and not at.halfs_are_stored
    return GemmSpec(
        source=at.tensors[layer.source].image,
        target=at.tensors.planes_of(layer.output),
        tile=NO_TILE,
        window=window,
        activation=activation,
        low=low,
        high=high,
        shift=layer.shift.channels if layer.shift else 0,
        residual=layer.residual is not None,
        tap=tap,
        flush=flush_of(layer.weight[0].size) if in_halfs else 0,
        arithmetic="float32" if at.halfs_are_stored else "",
    )


def product_buffers(at: Lowering, layer: ir.Convolution, cache: int | None) -> dict[str, BufferRef]:
    """What a convolution reads and writes besides its weights; ``cache`` is the shift cache that it writes."""
    target = at.tensors.output(layer.output, at.scale_of(layer))
    buffers = {"source": at.tensors[layer.source].buffer, "target": target.buffer}
    if layer.shift:
        buffers["cache"] = at.plain(layer.shift.cache).buffer
    if layer.residual is not None:
        buffers["residual"] = at.plain(layer.residual).buffer
    if cache is not None:
        buffers["tap"] = BufferRef("next_cache", cache)
    return buffers


def stored_weights(at: Lowering, layer: ir.Convolution) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias as float64, for a source and a target that are stored divided by their scales."""
    scale = at.scale_of(layer)
    weight = layer.weight.astype(np.float64) * at.tensors[layer.source].scale / scale
    return weight, layer.bias.astype(np.float64) / scale


def tapped(at: Lowering, layer: ir.Layer) -> tuple[int | None, int]:
    """The shift cache that a layer writes on the way, and its channels."""
    cache = at.caches.take(layer.output)
    return cache, at.caches.images[cache].channels if cache is not None else 0


def lower_product(at: Lowering, layer: ir.Convolution, window: Window | None) -> None:
    """A convolution as a matrix product: choose its tile, pack its weights, add its call."""
    cache, tap = tapped(at, layer)
    plain = product_spec(at, layer, window, tap)
    tile = at.given((layer,), GemmTile) or gemm_tile(at.gpu, plain)
    spec = replace(plain, tile=tile)
    if not is_legal(spec):
        raise refused_settings(at.label((layer,)), tile)
    at.chose(spec.rule, (layer,), tile, other_tiles(at.gpu, plain))
    weight, bias = stored_weights(at, layer)
    weights = {"weights": at.add_weights(pack_weights(spec, weight)), "bias": at.add_weights(pack_bias(spec, bias))}
    at.call(spec, product_buffers(at, layer, cache) | weights, at.label((layer,)))


def pack_weights(spec: GemmSpec, weight: np.ndarray) -> np.ndarray:
    """[group][position][input][output] of [output][input][row][column], inputs and outputs rounded up with zeros."""
    groups, outputs, inputs = spec.groups, spec.outputs, spec.inputs
    packed = np.zeros((groups, spec.positions, spec.padded_inputs, spec.padded_outputs), spec.source.dtype)
    parted = weight.reshape(groups, outputs, inputs, spec.positions)
    packed[:, :, :inputs, :outputs] = parted.transpose(0, 3, 2, 1)
    return packed


def pack_bias(spec: GemmSpec, bias: np.ndarray) -> np.ndarray:
    """[group][output], rounded up with zeros."""
    packed = np.zeros((spec.groups, spec.padded_outputs), np.float32)
    packed[:, : spec.outputs] = bias.reshape(spec.groups, spec.outputs)
    return packed


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    return (
        isinstance(layer, ir.Convolution)
        and layer.weight.shape[2:] == (1, 1)
        and layer.strides == (1, 1)
        and not any(layer.pads)
        and layer.groups == 1
        and are_aligned(at, layer)
    )


def are_aligned(at: Lowering, layer: ir.Convolution) -> bool:
    """Whether a matrix product can read the layer's source and write its target: not the camera frame, no vectors."""
    source, target = at.tensors[layer.source].image, at.tensors.planes_of(layer.output)
    return is_aligned(source) and is_aligned(target) and at.are_planes(source, target)


def is_aligned(image: Image) -> bool:
    """Whether planes begin on whole vectors, and there is more than a pixel in them."""
    return image.pixel == 1 and image.channel % 4 == 0 and image.height * image.width > 1


RULE = Rule("pointwise", _takes, lambda at, layer: lower_product(at, layer, None), GemmTile)
