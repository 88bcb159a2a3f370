"""The rule of ``depthwise.py``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tsm_edge.compile.backends.cuda.choose.depthwise import MOST_THREADS, depthwise_tile, is_legal, other_tiles
from tsm_edge.compile.backends.cuda.kernels.depthwise import MARGIN, DepthwiseSpec, DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.pointwise import activation_of, is_aligned
from tsm_edge.compile.backends.cuda.lowering import Lowering, refused_settings
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import Image

_LARGEST_KERNEL = 5


def _spec(at: Lowering, layer: ir.Convolution, target: Image) -> DepthwiseSpec:
    source, size = at.tensors[layer.source].image, layer.weight.shape[2:]
    tile = depthwise_tile(at.gpu, source, target, size, layer.strides)
    activation, low, high = activation_of(layer, at.scale_of(layer))
    return DepthwiseSpec(source, target, size, layer.strides, layer.pads[:2], tile, activation, low, high)


def fits(at: Lowering, layer: ir.Convolution, source: Image, target: Image) -> bool:
    """Whether a depthwise convolution is one of this rule's, for some tile."""
    if layer.shift or layer.residual or not layer.depthwise:
        return False
    if max(layer.weight.shape[2:]) > _LARGEST_KERNEL or max(layer.pads[:2]) > MARGIN:
        return False
    return is_aligned(source) and at.are_planes(source, target)


def pack_weights(spec: DepthwiseSpec, layer: ir.Convolution, scale: float, bias_scale: float) -> np.ndarray:
    """[channel][bias, weights], rounded up to whole vectors."""
    weights = np.zeros((spec.target.channels, spec.weight_row), np.float32)
    weights[:, 0] = layer.bias * bias_scale
    taps = spec.size[0] * spec.size[1]
    weights[:, 1 : 1 + taps] = layer.weight.reshape(-1, taps).astype(np.float64) * scale
    return weights


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    if not isinstance(layer, ir.Convolution) or not layer.depthwise:
        return False
    target = at.tensors.planes_of(layer.output)
    if not fits(at, layer, at.tensors[layer.source].image, target):
        return False
    spec = _spec(at, layer, target)
    return spec.shared_bytes <= at.gpu.shared_kib * 1024 and spec.parallel.threads[0] <= MOST_THREADS


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    source, scale = at.tensors[layer.source], at.scale_of(layer)
    target = at.tensors.output(layer.output, scale)
    rules = _spec(at, layer, target.image)
    spec = replace(rules, tile=at.given((layer,), DepthwiseTile) or rules.tile)
    if spec != rules and not is_legal(at.gpu, spec):
        raise refused_settings(at.label((layer,)), spec.tile)
    at.chose(spec.rule, (layer,), spec.tile, other_tiles(at.gpu, spec))
    weights = at.add_weights(pack_weights(spec, layer, source.scale / scale, 1 / scale))
    at.call(spec, {"source": source.buffer, "weights": weights, "target": target.buffer}, at.label((layer,)))


RULE = Rule("depthwise", _takes, _lower, DepthwiseTile)
