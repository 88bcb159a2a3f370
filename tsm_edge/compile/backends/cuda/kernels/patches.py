"""Strided convolutions in halfs in two launches: the windows' pixels as planes, and the product of a 1×1 convolution.

Halfs are gathered one by one, while a word of them is multiplied at once: a block that gathers for itself does little
else, and others gather the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cuda.choose.patches import (
    PatchesSettings,
    all_patches_settings,
    is_patches_legal,
    patches_settings,
    patches_specs,
)
from tsm_edge.compile.backends.cuda.kernels import convolution, elements, emit
from tsm_edge.compile.backends.cuda.kernels.emit import Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.patches_spec import THREADS, PatchesSpec
from tsm_edge.compile.backends.cuda.kernels.pointwise import (
    pack_bias,
    pack_weights,
    product_buffers,
    stored_weights,
    tapped,
)
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir


def _settings(at: Lowering, layer: ir.Convolution) -> PatchesSettings | None:
    return convolution.settings_of(at, RULE.name, layer, PatchesSettings, patches_settings, is_patches_legal)


def other_settings(at: Lowering, layer: ir.Layer) -> Iterator[PatchesSettings]:
    """Of the way through patches, whether it was chosen or not, best first; none where it cannot be."""
    if isinstance(layer, ir.Convolution) and fits(at, layer):
        yield from all_patches_settings(at.gpu, convolution.direct_spec(at, layer))


def fits(at: Lowering, layer: ir.Convolution) -> bool:
    """Whether a convolution can go that way."""
    source = at.tensors[layer.source].image.dtype
    return source == "float16" and layer.groups == 1 and convolution.RULE.takes(at, layer)


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    return isinstance(layer, ir.Convolution) and fits(at, layer) and _settings(at, layer) is not None


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    settings = _settings(at, layer)
    if settings is None:
        raise TypeError("gathering in each block is faster")
    cache, tap = tapped(at, layer)
    direct = convolution.direct_spec(at, layer, tap)
    specs = patches_specs(direct, settings.product)
    at.chose(RULE.name, (layer,), settings)
    buffers, label = product_buffers(at, layer, cache), at.label((layer,))
    between = at.tensors.new(f"{layer.output} patches", specs.patches.target)
    weight, bias = stored_weights(at, layer)
    rows = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1, 1, 1)
    weights = {
        "weights": at.add_weights(pack_weights(specs.product, rows)),
        "bias": at.add_weights(pack_bias(specs.product, bias)),
    }
    at.call(specs.patches, buffers | {"target": between.buffer}, label)
    at.call(specs.product, buffers | {"source": between.buffer, **weights}, label)


RULE = Rule("patches", _takes, _lower, PatchesSettings)


def patches(name: str, spec: PatchesSpec) -> Any:
    """Write the kernel of the windows' pixels; returns its PrimFunc."""
    source, target, count = spec.source, spec.target, spec.words * spec.source.channels
    with emit.kernel(name, spec) as kernel:
        index = kernel.block[0] * THREADS + kernel.thread
        with emit.when_all((index < count) if count % THREADS else True):
            channel, word = div(index, spec.words), mod(index, spec.words)
            pixels = _Pixels(kernel, spec, channel, word)
            for position in range(spec.window.positions):
                ky, kx = divmod(position, spec.window.size[1])
                plane = position * source.channels + channel
                at = div(plane * target.channel, 2) + word
                emit.store(kernel.buffers["target"], at, pixels.word(ky, kx))
    return kernel.function


class _Pixels:
    """What a thread reads: of a channel, the windows of two outputs that lie side by side in a plane."""

    def __init__(self, kernel: emit.Kernel, spec: PatchesSpec, channel: Expr, word: Expr) -> None:
        self._kernel, self._spec, self._channel = kernel, spec, channel
        width, pixels = spec.image.width, spec.image.height * spec.image.width
        first = word * 2
        second = first + 1 if pixels % 2 == 0 else emit.smaller(first + 1, pixels - 1)
        self._places = [(div(first, width), mod(first, width))]
        if not spec.together:
            self._places.append((div(second, width), mod(second, width)))
        self._read: dict[tuple[int, int, int], Any] = {}

    def word(self, ky: int, kx: int) -> Expr:
        """Both outputs' pixels at a position of the window."""
        if self._spec.together:
            pair = [self._pixel(0, ky, kx), self._pixel(0, ky, kx + self._spec.window.strides[1])]
        else:
            pair = [self._pixel(0, ky, kx), self._pixel(1, ky, kx)]
        return pair[0] | (pair[1] << T.uint32(16))

    def _pixel(self, of: int, ky: int, kx: int) -> Expr:
        """A pixel's bits, zero outside the image: what is there is read without a condition, and not taken."""
        if (of, ky, kx) not in self._read:
            self._read[of, ky, kx] = value = emit.registers(1, "uint32")
            y, rows = self._axis(0, self._places[of][0], ky)
            x, columns = self._axis(1, self._places[of][1], kx)
            at = elements.at(self._spec.source, self._channel, y, x)
            found = self._kernel.buffers["source"][at]
            if self._spec.shift:
                found = emit.either(self._channel < self._spec.shift, self._kernel.buffers["cache"][at], found)
            emit.store(value, 0, tirx.Cast("uint32", found))
            if inside := [*rows, *columns]:
                emit.store(value, 0, tirx.Select(emit.every(*inside), value[0], T.uint32(0)))
        return self._read[of, ky, kx][0]

    def _axis(self, axis: int, output: Expr, offset: int) -> tuple[Expr, list[Expr]]:
        """A place along an axis, moved into the image, and the conditions under which it was there."""
        window, image, target = self._spec.window, self._spec.source, self._spec.image
        extent, outputs = ((image.height, target.height), (image.width, target.width))[axis]
        place = output * window.strides[axis] + (offset - window.pads[axis])
        conditions: list[Expr] = []
        near = place
        if offset < window.pads[axis]:
            conditions.append(place >= 0)
            near = emit.larger(near, 0)
        if (outputs - 1) * window.strides[axis] + offset - window.pads[axis] >= extent:
            conditions.append(place < extent)
            near = emit.smaller(near, extent - 1)
        return near, conditions
