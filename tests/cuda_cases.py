"""Branches of a graph for a GPU's kernels: a case for every rule and every field of its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx_graphs import GraphBuilder

from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmTile


class Branches(GraphBuilder):
    """A graph of branches from one image; each ends in a next cache, so that all of its values can be compared."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self._sources: dict[int, str] = {}

    def source(self, channels: int) -> str:
        """An image of the frame's size with values of both signs."""
        if channels not in self._sources:
            self._sources[channels] = self.conv(self.frame, channels)
        return self._sources[channels]

    def end(self, tensor: str) -> None:
        """Make ``tensor`` an output."""
        self.feed_back(self.cache(self.shapes[tensor]), tensor)


Case = Callable[[Branches], str]


def shifted(channels: int, taken: int, kernel: int = 1) -> Case:
    """A convolution that reads a shift cache; what fills it is a branch's end as well."""
    return lambda g: g.conv(g.shift(g.relu(g.conv(g.source(8), channels)), taken), 12, kernel)


# Name → branch.
CASES: dict[str, Case] = {
    "stem 3×3": lambda g: g.clip(g.conv(g.frame, 10, 3, 2), 0, 3),
    "stem 7×7": lambda g: g.relu(g.conv(g.frame, 12, 7, 2)),
    "stem 2×3, uneven pads": lambda g: g.conv(g.frame, 3, (2, 3), (1, 2), (0, 2, 1, 1)),
    "pointwise, tails": lambda g: g.relu(g.conv(g.source(9), 13)),
    "pointwise, slices": lambda g: g.conv(g.source(48), 8),
    "pointwise, saturated": lambda g: g.conv(g.clip(g.conv(g.source(8), 24), 0, 6), 6),
    "pointwise, clamped": lambda g: g.clip(g.conv(g.source(8), 8), -0.5, 0.25),
    "pointwise, residual": lambda g: g.add(g.conv(g.source(24), 8), g.source(8)),
    "pointwise, shift 3": shifted(9, 3),
    "pointwise, shift 8": shifted(16, 8),
    "3×3, strided, tails": lambda g: g.conv(g.source(9), 11, 3, 2),
    "3×3, slices, residual": lambda g: g.relu(g.add(g.conv(g.source(24), 8, 3), g.source(8))),
    "3×3, shift": shifted(8, 2, 3),
    "5×2, uneven pads": lambda g: g.conv(g.source(8), 8, (5, 2), (2, 1), (1, 0, 2, 1)),
    "3×3, grouped": lambda g: g.relu(g.conv(g.source(16), 24, 3, groups=2)),
    "depthwise": lambda g: g.clip(g.depthwise(g.source(8)), 0, 6),
    "depthwise, strided": lambda g: g.relu(g.depthwise(g.source(9), 3, 2)),
    "depthwise 5×5": lambda g: g.depthwise(g.source(8), 5),
    "depthwise, saturated": lambda g: g.conv(g.clip(g.depthwise(g.clip(g.conv(g.source(8), 8), 0, 6)), 0, 6), 8),
    "direct: two channels a group": lambda g: g.conv(g.source(8), 16, 3, groups=4),
    "max pool": lambda g: g.max_pool(g.source(8), 3, 2, (1, 1, 1, 1)),
    "squeeze and excitation": lambda g: g.node(
        "Mul",
        [g.source(8), g.node("Sigmoid", [g.conv(g.global_average(g.source(8)), 8)], (1, 8, 1, 1))],
        g.shapes[g.source(8)],
    ),
    "hard swish": lambda g: g.node("HardSwish", [g.source(8)], g.shapes[g.source(8)]),
    "fallback: an element": lambda g: g.node("Tanh", [g.source(8)], g.shapes[g.source(8)]),
    "fallback: a window": lambda g: g.node(
        "AveragePool", [g.source(8)], g.shapes[g.source(8)], kernel_shape=[3, 3], pads=[1] * 4
    ),
    "fallback, then a rule": lambda g: g.conv(g.concat(g.source(8), g.source(9)), 8),
    "fallback: reduction": lambda g: g.node(
        "ReduceMax", [g.source(8), g.constant([2, 3], np.int64)], (1, 8, 1, 1), keepdims=1
    ),
    "elementwise, broadcast": lambda g: g.node("Mul", [g.source(8), g.random(1, 8, 1, 1)], g.shapes[g.source(8)]),
}


def _dense(g: Branches) -> str:
    """Dense layers: a clamp, and a residual; ends as an image, for a vector is no cache."""
    x = g.clip(g.conv(g.global_average(g.source(9)), 8), -0.5, 0.25)
    x = g.relu(g.add(g.conv(x, 8), x))
    return g.node("Mul", [g.source(8), x], g.shapes[g.source(8)])


def _half_of(g: Branches) -> str:
    """A depthwise convolution of an image of other sides than the frame's."""
    x = g.depthwise(g.source(8), 3, 2)
    return g.clip(g.depthwise(x, (3, 5), (1, 2), (1, 2, 1, 2)), -0.5, 0.25)


# Cases of the long sweep: fields that the others leave as they are.
MORE: dict[str, Case] = {
    "stem of four channels": lambda g: g.clip(g.conv(g.source(4), 10, 3), -0.5, 0.25),
    "stem of one channel": lambda g: g.conv(g.source(1), 9, 3, (2, 1)),
    "stem, saturated": lambda g: g.conv(g.clip(g.conv(g.frame, 8, 3), 0, 6), 4),
    "stem 7×7 of whole vectors": lambda g: g.relu(g.conv(g.frame, 16, 7, 2)),
    "stem 5×5 of whole vectors, saturated": lambda g: g.conv(g.clip(g.conv(g.frame, 8, 5), 0, 6), 4),
    "pointwise, a long reduction": lambda g: g.conv(g.source(1040), 8),
    "dense": _dense,
    "depthwise, uneven": _half_of,
    "direct, clamped": lambda g: g.clip(g.conv(g.source(9), 12, (5, 2), (2, 1), (2, 0, 2, 1), groups=3), -0.5, 0.25),
    "direct, residual": lambda g: g.relu(g.add(g.conv(g.source(8), 8, 3, groups=4), g.source(8))),
    "direct, residual of nine": lambda g: g.add(g.conv(g.source(9), 9, 3, groups=3), g.source(9)),
    "direct, shift": lambda g: g.conv(g.shift(g.relu(g.conv(g.source(8), 6)), 3), 6, 3, groups=3),
    "direct, shift of four": lambda g: g.conv(g.shift(g.relu(g.conv(g.source(8), 8)), 4), 8, 3, groups=4),
    "max pool, overlapping": lambda g: g.max_pool(g.source(9), 2, 1),
    "max pool of two rows": lambda g: g.node(
        "MaxPool", [g.source(8)], (1, 8, *_pooled(g)), kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1]
    ),
    "shift that a depthwise convolution reads": lambda g: g.depthwise(g.shift(g.relu(g.conv(g.source(8), 9)), 3)),
    "elementwise, clamped": lambda g: g.clip(
        g.node("Mul", [g.source(9), g.source(9)], g.shapes[g.source(9)]), 0.1, 0.5
    ),
    "leaky relu": lambda g: g.node("LeakyRelu", [g.source(9)], g.shapes[g.source(9)], alpha=0.3),
    "3×3, grouped, strided": lambda g: g.conv(g.source(16), 32, 3, 2, groups=2),
}


def _pooled(g: Branches) -> tuple[int, int]:
    _, _, height, width = g.shapes[g.frame]
    return (height + 1 - 2) // 2 + 1, width


# Tiles of a matrix product that no rule chooses for images as small as these, and whether it has a window.
TILES: Mapping[str, tuple[GemmTile, bool]] = {
    "8 × 8": (GemmTile(32, 64, 8, 8), False),
    "8 × 4, lanes in Gray's order": (GemmTile(64, 32, 8, 4), False),
    "4 × 8, slices": (GemmTile(16, 64, 4, 8, 4), False),
    "last step in the loop": (GemmTile(24, 64, 4, 8, 2, last_apart=False), False),
    "4 rows a step": (GemmTile(32, 64, 8, 8, depth=4), False),
    "16 rows a step": (GemmTile(32, 64, 8, 8, 2, depth=16), False),
    "4 × 4, slices": (GemmTile(16, 32, 4, 4, 4), False),
    "4 × 4, a warp a slice": (GemmTile(16, 128, 4, 4, 2), False),
    "7 columns": (GemmTile(16, 56, 8, 8, 2), False),
    "a window": (GemmTile(32, 64, 8, 4), True),
    "a window, slices": (GemmTile(16, 64, 8, 8, 4), True),
    "a window, last step in the loop": (GemmTile(16, 64, 8, 4, 2, last_apart=False), True),
}
