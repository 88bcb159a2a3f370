"""Frames → scales and integers: one walk over the layers, each on all frames, in float32 and in integers side by side.

The scale of a tensor comes from its smallest and largest value in float32. A convolution's bias is corrected so that
the mean of every channel, on the frames, is what it was in float32: rounding weights moves it, and what was moved
before adds up. Shift caches are those of the frame before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import IntegerConvolution, Quantisation, float_results, has_integer_form
from tsm_edge.compile.ir.scale import Scale
from tsm_edge.compile.quantize.evaluate import Array, clamped, convolve, evaluate
from tsm_edge.compile.quantize.integers import quantise_convolution, smallest_step, tensor_scale
from tsm_edge.errors import CompileError

# Levels of the tensors these make are levels of the tensor they read.
_SAME_LEVELS = (ir.MaxPool, ir.View, ir.CacheTap, ir.ShiftConcat)


def calibrate(graph: OnlineGraph, layers: Sequence[ir.Layer], clips: Sequence[Array], origin: str) -> Quantisation:
    """Choose scales and integers.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
    clips : sequence of numpy.ndarray
        float32 [frames, 3, height, width] each: frames that follow each other. Caches are zero before the first.
    origin : str
        Where they come from, for people.

    Raises
    ------
    CompileError
        A cache is read before the tensor it is cut from is made.
    """
    return _Walk(graph, layers, clips).run(origin)


class _Walk:
    def __init__(self, graph: OnlineGraph, layers: Sequence[ir.Layer], clips: Sequence[Array]) -> None:
        self.graph, self.layers = graph, layers
        self.ends = np.cumsum([len(clip) for clip in clips])[:-1]
        frames = np.concatenate(clips)
        self.floats: dict[str, Array] = {graph.frame: frames}  # of the network as it is
        self.made: dict[str, Array] = {graph.frame: frames}  # of the network in integers
        self.in_levels: set[str] = set()  # tensors of ``made`` that were rounded to levels
        self.scales = {graph.frame: tensor_scale(float(frames.min()), float(frames.max()))}
        self.convolutions: dict[str, IntegerConvolution] = {}
        self.biases: dict[str, Array] = {}
        self.noise_db: dict[str, float] = {}
        self.float_results = float_results(graph, layers)
        taps = {layer.output: layer.source for layer in layers if isinstance(layer, ir.CacheTap)}
        self.cache_source = {cache.input: taps.get(cache.output, cache.output) for cache in graph.caches}
        self.cache_channels = {cache.input: cache.shape[1] for cache in graph.caches}
        self.last = {source: index for index, layer in enumerate(layers) for source in self._reads(layer)}

    def run(self, origin: str) -> Quantisation:
        for index, layer in enumerate(self.layers):
            if isinstance(layer, ir.Convolution):
                self._convolution(layer)
            else:
                self._other(layer)
            self.noise_db[layer.output] = _ratio_db(self.made[layer.output], self.floats[layer.output])
            for name in [name for name in self.floats if self.last.get(name, index) <= index]:
                del self.floats[name], self.made[name]
        for cache, source in self.cache_source.items():
            self.scales[cache] = self.scales[source]
        return Quantisation(self.scales, self.convolutions, self.biases, self.noise_db, origin)

    def _reads(self, layer: ir.Layer) -> list[str]:
        """Tensors a layer reads, and those that the caches it reads are cut from."""
        sources = ir.layer_sources(layer)
        return [*sources, *(self.cache_source[name] for name in sources if name in self.cache_source)]

    def _float(self, name: str) -> Array:
        return self._delayed(name, self.floats) if name in self.cache_source else self.floats[name]

    def _levels(self, name: str) -> Array:
        """Values of a tensor as an integer layer reads them."""
        if name in self.cache_source:
            return self._delayed(name, {self.cache_source[name]: self._levels(self._source(name))})
        values, scale = self.made[name], self.scales[name]
        return values if name in self.in_levels else scale.values(scale.levels(values))

    def _source(self, cache: str) -> str:
        source = self.cache_source[cache]
        if source not in self.made:
            raise CompileError(
                f"cache {cache!r} is read before {source!r}, which it is cut from, is made",
                "a feedback like this has no scale yet: compile it in float32, leave --precision out",
            )
        return source

    def _delayed(self, cache: str, tensors: dict[str, Array]) -> Array:
        """What a cache holds: the tensor of the frame before, zeros at the start of a clip."""
        source = tensors[self._source(cache)][:, : self.cache_channels[cache]]
        parts = [np.concatenate([np.zeros_like(part[:1]), part[:-1]]) for part in np.split(source, self.ends)]
        return np.concatenate(parts)

    def _convolution(self, layer: ir.Convolution) -> None:
        x = self._shifted(layer, self._float)
        sums = convolve(x, layer, layer.weight, layer.bias)
        result = sums if layer.residual is None else sums + self._float(layer.residual)
        self._keep_float(layer.output, clamped(result, layer.clamp))
        if not has_integer_form(layer):
            made = convolve(self._shifted(layer, self._value), layer, layer.weight, layer.bias)
            made = made if layer.residual is None else made + self._value(layer.residual)
            self._keep(layer.output, clamped(made, layer.clamp))
            return
        for name in (layer.source, layer.residual):
            if name in self.cache_source:
                self.scales[name] = self.scales[self._source(name)]
        source = self.scales[layer.source]
        target = None
        if layer.output not in self.float_results:
            target = self.scales[layer.output] = self._widened(layer, source)
        residual = None if layer.residual is None else self.scales[layer.residual]
        x = self._shifted(layer, self._levels)
        bias = layer.bias.astype(np.float64)
        rough = quantise_convolution(layer, bias, source, target, residual)
        bias = bias + (sums - convolve(x, layer, *_values(rough))).mean((0, 2, 3))
        integers = quantise_convolution(layer, bias, source, target, residual)
        made = convolve(x, layer, *_values(integers))
        if layer.residual is not None:
            made = made + self._levels(layer.residual)
        made = clamped(made, layer.clamp)
        self.convolutions[layer.output], self.biases[layer.output] = integers, bias
        self._keep(layer.output, made if target is None else target.values(target.levels(made)), target is not None)

    def _widened(self, layer: ir.Convolution, source: Scale) -> Scale:
        """The scale of its result, coarse enough for every sum there may be."""
        found, least = self.scales[layer.output], smallest_step(layer, layer.bias, source)
        return found if found.step >= least else replace(found, step=float(np.float32(least)))

    def _shifted(self, layer: ir.Convolution, read: Callable[[str], Array]) -> Array:
        x = read(layer.source)
        if layer.shift is None:
            return x
        return np.concatenate([read(layer.shift.cache), x[:, layer.shift.channels :]], 1)

    def _value(self, name: str) -> Array:
        """Values of a tensor as a float layer reads them."""
        return self._levels(name) if name in self.cache_source else self.made[name]

    def _other(self, layer: ir.Layer) -> None:
        sources = ir.layer_sources(layer)
        self._keep_float(layer.output, evaluate(layer, {name: self._float(name) for name in sources}, self.graph))
        whole = has_integer_form(layer) and (not isinstance(layer, ir.View) or layer.source in self.in_levels)
        read = self._levels if whole else self._value
        made = evaluate(layer, {name: read(name) for name in sources}, self.graph)
        if isinstance(layer, _SAME_LEVELS):
            first = sources[0]
            scale = self.scales[self._source(first) if first in self.cache_source else first]
            self.scales[layer.output] = scale
        elif whole:
            made = self.scales[layer.output].values(self.scales[layer.output].levels(made))
        self._keep(layer.output, made, whole)

    def _keep_float(self, name: str, values: Array) -> None:
        self.floats[name] = values
        self.scales[name] = tensor_scale(float(values.min()), float(values.max()))

    def _keep(self, name: str, values: Array, in_levels: bool = False) -> None:
        self.made[name] = values.astype(np.float32)
        if in_levels:
            self.in_levels.add(name)


def _values(integers: IntegerConvolution) -> tuple[Array, Array]:
    """Weights and biases as the numbers that the integers stand for."""
    unit = integers.multiplier.astype(np.float64) * (1.0 if integers.target is None else integers.target.step)
    weight = integers.weight * (unit / integers.source.step)[:, None, None, None]
    return weight.astype(np.float32), (integers.bias * unit).astype(np.float32)


def _ratio_db(found: Array, wanted: Array) -> float:
    """Signal-to-noise ratio, dB; infinite for equal values."""
    noise = float(np.square(found - wanted, dtype=np.float64).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
