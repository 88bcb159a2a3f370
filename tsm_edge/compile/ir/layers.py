"""Fused layers: what one kernel computes, before any decision about layout or tiles.

A convolution takes with it its bias, the residual addition, the clamp that follows, and, where its input is
``concat(cache, x[:, c:])``, the shift itself, which then never exists as a tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsm_edge.compile.ir.graph import Node, OnlineGraph


@dataclass(frozen=True)
class Clamp:
    """``min(max(y, low), high)``; infinite bounds are absent ones."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Shift:
    """The first ``channels`` input channels come from ``cache`` (a graph input) instead of the layer's input."""

    cache: str
    channels: int


@dataclass(frozen=True)
class FrameRun:
    """Channels that come from the frame ``offset`` after the one that is made; zeros where the clip has none."""

    channels: int
    offset: int


@dataclass(frozen=True, eq=False)
class Convolution:
    """``clamp(conv(shifted input) + bias + residual)``; a dense layer is one on a 1×1 image.

    Attributes
    ----------
    source, output : str
        Tensor names, NCHW (or [1, K] for a dense layer).
    weight : numpy.ndarray
        float32 [out, in / groups, kh, kw].
    bias : numpy.ndarray
        float32 [out].
    pads : tuple of int
        Top, left, bottom, right, pixels.
    frame_runs : tuple of FrameRun
        Of a clip: the first input channels, run after run; the others come from the frame itself.
    name : str
        The network's own, for people.
    weight_step : numpy.ndarray or None
        float64 [out], of a file that was quantised before: what one level of its weights stands for.
    quantisable : bool
        False: the file leaves it in float32.
    """

    source: str
    output: str
    weight: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    clamp: Clamp = Clamp()
    residual: str | None = None
    shift: Shift | None = None
    frame_runs: tuple[FrameRun, ...] = ()
    name: str = ""
    weight_step: np.ndarray | None = None
    quantisable: bool = True

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups > 1 and self.weight.shape[0] == self.groups and self.weight.shape[1] == 1


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Spatial maximum; padding never wins."""

    source: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class GlobalAveragePool:
    """Mean over height and width; ``quantisable`` as of a convolution."""

    source: str
    output: str
    quantisable: bool = True


@dataclass(frozen=True, eq=False)
class CacheTap:
    """The first ``channels`` channels of ``source`` become the next value of a cache (a graph output)."""

    source: str
    output: str
    channels: int


@dataclass(frozen=True, eq=False)
class ShiftConcat:
    """``concat(cache, source[:, channels:])`` as a tensor, where a consumer cannot take the two parts itself."""

    source: str
    cache: str
    output: str
    channels: int


@dataclass(frozen=True, eq=False)
class FrameShift:
    """A clip with some channels from other frames, as a tensor: see ``Convolution.frame_runs``."""

    source: str
    output: str
    runs: tuple[FrameRun, ...]


@dataclass(frozen=True, eq=False)
class FrameMean:
    """Mean over the frames of a clip: [frames, classes] to [classes]."""

    source: str
    output: str


@dataclass(frozen=True, eq=False)
class Attention:
    """``softmax(queries · keysᵀ) · values`` over all positions of a clip: every pixel of every frame.

    The sources are images, a position a pixel; keys and values may have fewer positions than queries.
    """

    query: str
    key: str
    value: str
    output: str

    @property
    def source(self) -> str:
        """The queries, of the output's size."""
        return self.query


@dataclass(frozen=True, eq=False)
class View:
    """``output`` is ``source`` under another shape: no work."""

    source: str
    output: str


@dataclass(frozen=True, eq=False)
class Elementwise:
    """``clamp(operation(operands))``, element by element.

    Attributes
    ----------
    operation : str
        One of ``schedules.elementwise.OPERATIONS``.
    operands : tuple of str or numpy.ndarray
        Tensors of the output's shape or [1, C, 1, 1]; constants, float32: [1] or one a channel.
    parameters : tuple of float
        Of the operation (ONNX's ``alpha``, ``beta``).
    quantisable : bool
        False: it is no image, the network's result, or the file leaves it in float32.
    """

    operation: str
    operands: tuple[str | np.ndarray, ...]
    output: str
    parameters: tuple[float, ...] = ()
    clamp: Clamp = Clamp()
    quantisable: bool = True

    @property
    def source(self) -> str:
        """The first tensor among the operands."""
        return next(operand for operand in self.operands if isinstance(operand, str))


@dataclass(frozen=True, eq=False)
class Generic:
    """An operator no rule knows; compiled by TVM's own legalisation."""

    node: Node
    sources: tuple[str, ...]
    output: str


Layer = (
    Convolution
    | MaxPool
    | GlobalAveragePool
    | CacheTap
    | ShiftConcat
    | FrameShift
    | FrameMean
    | Attention
    | View
    | Elementwise
    | Generic
)


def layer_sources(layer: Layer) -> tuple[str, ...]:
    """Names of the tensors a layer reads (graph inputs and other layers' outputs)."""
    if isinstance(layer, Generic):
        return layer.sources
    if isinstance(layer, Elementwise):
        return tuple(operand for operand in layer.operands if isinstance(operand, str))
    if isinstance(layer, ShiftConcat):
        return (layer.source, layer.cache)
    if isinstance(layer, Attention):
        return (layer.query, layer.key, layer.value)
    if isinstance(layer, Convolution):
        extra = (layer.residual, layer.shift.cache if layer.shift else None)
        return (layer.source, *(name for name in extra if name))
    return (layer.source,)


def layer_names(graph: OnlineGraph, layers: Sequence[Layer]) -> dict[str, str]:
    """The name of every layer, unlike those of all others, by the tensor it makes.

    The network's own name of the module (``features.3 expand``) or that of the ONNX node. Where several layers have it,
    or none is there, the tensor's.
    """
    nodes = {tensor: node.name for node in graph.nodes for tensor in node.outputs}
    named = {
        layer.output: (layer.name if isinstance(layer, Convolution) else "") or nodes.get(layer.output, "")
        for layer in layers
    }
    uses = Counter(named.values())
    return {tensor: tensor if uses[name] > 1 or not name or name in named else name for tensor, name in named.items()}
