"""Scales → integers: weights, biases and multipliers of a convolution, by the formulas of ``ir/quantisation.py``."""

from __future__ import annotations

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.elementwise_levels import level_bounds, rounded_multiplier
from tsm_edge.compile.ir.quantisation import LARGEST_WEIGHT, MAGIC, IntegerConvolution, Magic
from tsm_edge.compile.ir.scale import LEVELS, Scale

# The smallest multiplier: what comes to less than 8 levels needs no finer weights.
SMALLEST_MULTIPLIER = 2.0**-20
LARGEST_BIAS = 2.0**28
# Of a result, in levels before saturation.
LARGEST_RESULT = 2.0**22
# What float32 sums in units of 1.5 * 2**23 leave room for.
_MAGIC_SUMS, _MAGIC_RESULT, _MAGIC_MULTIPLIER = 2.0**22 - 8192, 32000.0, 0.25


def tensor_scale(low: float, high: float) -> Scale:
    """The scale of a tensor with these smallest and largest values; zero has a level of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = float(np.float32((high - low) / LEVELS)) if high > low else 1.0 / LEVELS
    return Scale(step, int(np.clip(round(-low / step), 0, LEVELS)))


def quantise_convolution(
    layer: ir.Convolution, bias: np.ndarray, source: Scale, target: Scale | None, residual: Scale | None
) -> IntegerConvolution:
    """Integers of a layer.

    Parameters
    ----------
    layer : Convolution
    bias : numpy.ndarray
        float [out], corrected.
    source, target, residual : Scale
        Of what it reads, makes and adds; without a target it makes float32.
    """
    outputs = layer.weight.shape[0]
    weight, bias = layer.weight.astype(np.float64), bias.astype(np.float64)
    largest = np.abs(weight).reshape(outputs, -1).max(1, initial=0.0)
    chosen = largest / LARGEST_WEIGHT if layer.weight_step is None else layer.weight_step
    step = np.maximum(chosen, np.abs(bias) / (source.step * LARGEST_BIAS))
    made = 1.0 if target is None else target.step
    if target is None:
        multiplier = np.maximum(source.step * step, np.finfo(np.float32).tiny).astype(np.float32)
    else:
        multiplier = rounded_multiplier(np.maximum(source.step * step / made, SMALLEST_MULTIPLIER))
    unit = multiplier.astype(np.float64) * made  # what 1 of the sum stands for
    levels = np.rint(weight / (unit / source.step)[:, None, None, None])
    levels = np.clip(levels, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
    sums = np.rint(bias / unit).astype(np.int64)
    low, high = (0, LEVELS) if target is None else level_bounds(layer.clamp, target.step, target.zero)
    return IntegerConvolution(
        weight=levels,
        bias=sums,
        multiplier=multiplier,
        source=source,
        target=target,
        low=low,
        high=high,
        residual=residual,
        residual_multiplier=0.0 if residual is None else float(rounded_multiplier(np.array(residual.step / made))),
        magic=None if target is None or residual is not None else _magic(levels, sums, multiplier, source),
    )


def smallest_step(layer: ir.Convolution, bias: np.ndarray, source: Scale) -> float:
    """The smallest step of a layer's result that keeps every result within :data:`LARGEST_RESULT`, for all inputs."""
    reach = np.abs(layer.weight.astype(np.float64)).reshape(layer.weight.shape[0], -1).sum(1) * source.step * LEVELS
    return float((reach + np.abs(bias)).max(initial=0.0) / LARGEST_RESULT)


def largest_sums(weight: np.ndarray, bias: np.ndarray, source: Scale) -> np.ndarray:
    """The largest ``|sum|`` of every channel, whatever the input."""
    flat = weight.reshape(weight.shape[0], -1).astype(np.int64)
    up, down = np.where(flat > 0, flat, 0).sum(1), -np.where(flat < 0, flat, 0).sum(1)
    most = up * (LEVELS - source.zero) + down * source.zero + bias
    least = -down * (LEVELS - source.zero) - up * source.zero + bias
    found: np.ndarray = np.maximum(np.abs(most), np.abs(least))
    return found


def _magic(weight: np.ndarray, bias: np.ndarray, multiplier: np.ndarray, source: Scale) -> Magic | None:
    m = multiplier.astype(np.float64)
    sums = largest_sums(weight, bias, source)
    exact = MAGIC - MAGIC * m
    constant = np.rint(exact)
    correction = np.rint((exact - constant) / m)
    small = (sums + np.abs(correction) < _MAGIC_SUMS) & (sums * m <= _MAGIC_RESULT) & (m <= _MAGIC_MULTIPLIER)
    return Magic(correction.astype(np.int64), constant.astype(np.int64)) if small.all() else None
