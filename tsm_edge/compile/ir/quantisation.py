"""A network in 8-bit integers: a scale for every tensor, integer weights and biases for every convolution.

A tensor is stored as levels from 0 to 255: ``value = (level - zero) * step``. A convolution sums exactly:
``sum = Σ (x - zero of x) · w + bias`` in int32, and makes levels of it by one of three formulas, the same on every CPU
and in ``model.exact.onnx`` (``quantize/exact.py``). ``rne`` rounds to nearest, ties to even; every other
operation is one IEEE float32 operation; ``saturate`` is to the layer's bounds.

- ``saturate(rne(float(sum) * multiplier) + zero)``;
- with a residual: ``saturate(rne(fma(float(r - zero of r), residual, float(sum) * multiplier)) + zero)``;
- where ``|sum| < 2**22`` for all inputs there are (:class:`Magic`), without converting: the sum begins at the integer
  whose bits are the float 1.5 · 2**23, and a single ``fma`` leaves the level in the low bits of its result.

Multipliers have 16 bits and are whole multiples of 2**-28, and ``sum * multiplier`` stays below 2**22: every product
and sum above is then exact in float64, and a reference in doubles rounds as the float32 operation does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.elementwise_levels import form_on_levels, level_table
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.scale import LEVELS, Scale

# Weights are symmetric: -128 is left out.
LARGEST_WEIGHT = 127
# A float32 of this size has a last place of 1: its low bits are a whole number.
MAGIC = 12582912
MAGIC_BITS = 0x4B400000


def level_of_each(layer: ir.Elementwise, source: Scale, target: Scale) -> np.ndarray:
    """What an operator of one tensor makes of each level, uint8 [256]."""
    values = source.values(np.arange(LEVELS + 1, dtype=np.uint8))
    return target.levels(level_table(layer, values))


@dataclass(frozen=True, eq=False)
class Magic:
    """Of the formula without conversions: ``fma(as_float(MAGIC_BITS + sum + correction), multiplier, constant)``.

    Attributes
    ----------
    correction : numpy.ndarray
        int64 [out]; what rounding the constant took away, in units of the sum.
    constant : numpy.ndarray
        int64 [out], without the zero point; a whole number below 2**24, so that float32 holds it.
    """

    correction: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """A convolution in integers.

    Attributes
    ----------
    weight : numpy.ndarray
        int8 [out, in / groups, kh, kw], without -128.
    bias : numpy.ndarray
        int64 [out], int32 in range.
    multiplier : numpy.ndarray
        float32 [out].
    source : Scale
        Of what it reads.
    target : Scale or None
        Of what it makes; None: float32, ``float(sum) * multiplier``.
    low, high : int
        Bounds of the levels it makes: the clamp.
    residual : Scale or None
        Of what is added.
    residual_multiplier : float
        A float32.
    magic : Magic or None
        None: sums may be too large, or there is a residual.
    """

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    source: Scale
    target: Scale | None
    low: int = 0
    high: int = LEVELS
    residual: Scale | None = None
    residual_multiplier: float = 0.0
    magic: Magic | None = None


@dataclass(frozen=True, eq=False)
class Quantisation:
    """What was decided for a network.

    Attributes
    ----------
    tensors : mapping of str to Scale
        Every tensor that is stored in levels; a cache input has the scale of the tensor it is cut from.
    convolutions : mapping of str to IntegerConvolution
        By the tensor they make.
    biases : mapping of str to numpy.ndarray
        float64 [out], corrected; of every convolution.
    noise_db : mapping of str to float
        Signal-to-noise ratio of each layer's result on the calibration frames, dB.
    origin : str
        What it was calibrated with, for people.
    """

    tensors: Mapping[str, Scale]
    convolutions: Mapping[str, IntegerConvolution]
    biases: Mapping[str, np.ndarray]
    noise_db: Mapping[str, float] = field(default_factory=dict)
    origin: str = ""


def has_integer_form(layer: ir.Layer) -> bool:
    """Whether a layer computes on levels; others read float32 values of them, and theirs are made levels again."""
    if isinstance(layer, ir.Convolution | ir.GlobalAveragePool) and not layer.quantisable:
        return False
    if isinstance(layer, ir.Convolution):
        return layer.groups == 1 or _by_quads(layer)
    if isinstance(layer, ir.Elementwise):
        return form_on_levels(layer) != ""
    return not isinstance(layer, ir.Generic)


def _by_quads(layer: ir.Convolution) -> bool:
    """A depthwise convolution that kernels know: 3×3 with a border of one pixel."""
    square = layer.weight.shape[2:] == (3, 3) and layer.pads == (1, 1, 1, 1)
    return layer.depthwise and square and layer.strides in ((1, 1), (2, 2)) and layer.residual is None


def float_results(graph: OnlineGraph, layers: Sequence[ir.Layer]) -> frozenset[str]:
    """Tensors that nobody reads as levels, made by convolutions: those stay float32, unless the file says otherwise."""
    readers: dict[str, list[ir.Layer]] = {}
    for layer in layers:
        for source in ir.layer_sources(layer):
            readers.setdefault(source, []).append(layer)
    caches = {cache.output for cache in graph.caches}
    given = graph.scales.tensors if graph.scales else {}

    def in_float(tensor: str) -> bool:
        if tensor in caches or tensor in given:
            return False
        for reader in readers.get(tensor, []):
            if isinstance(reader, ir.View):
                if not in_float(reader.output):
                    return False
            elif has_integer_form(reader):
                return False
        return True

    return frozenset(
        layer.output
        for layer in layers
        if isinstance(layer, ir.Convolution)
        and has_integer_form(layer)
        and layer.residual is None
        and not layer.depthwise
        and in_float(layer.output)
    )


def average_multiplier(source: Scale, target: Scale, pixels: int) -> float:
    """What the sum over an image is multiplied by for its mean in levels, a float32."""
    return float(np.float32(source.step / (pixels * target.step)))
