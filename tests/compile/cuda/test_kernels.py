"""What the GPU's kernels compute, against ONNX Runtime, on the stand-in driver: a case a branch of a graph.

Every access of a kernel is checked there: bounds, alignment, races between threads, what was never written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuda_steps import Lowered, Step, compiled, lowered
from onnx_graphs import Floats, GraphBuilder, Reference, assert_close

from tsm_edge.cards import load_target

NANO = "jetson-nano"


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


def shifted(channels: int, taken: int, kernel: int = 1) -> Callable[[Branches], str]:
    """A convolution that reads a shift cache; what fills it is a branch's end as well."""
    return lambda g: g.conv(g.shift(g.relu(g.conv(g.source(8), channels)), taken), 12, kernel)


# Name → branch.
CASES: dict[str, Callable[[Branches], str]] = {
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
# Odd sides, where planes have gaps and threads have tails; rows of several blocks, of whole vectors.
SIZES = ((7, 9), pytest.param((6, 64), marks=pytest.mark.slow))


def network(height: int, width: int, folder: Path) -> tuple[Reference, Lowered, dict[str, str]]:
    """All cases; and case → its output."""
    graph = Branches(height, width)
    ends = {}
    for name, build in CASES.items():
        made = build(graph)
        ends[name] = f"shift_{len(graph.caches)}_next"
        graph.end(made)
    model = graph.model(graph.head(graph.source(8), 5))
    return Reference(model), lowered(model, folder, NANO), ends


@pytest.fixture(scope="module", params=SIZES, ids=str)
def values(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, str]]:
    """Output → value found, and expected; case → output."""
    reference, made, ends = network(*request.param, tmp_path_factory.mktemp("cuda"))
    gpu = load_target(NANO).gpu
    assert gpu is not None
    step = Step(made, compiled({"net": made}, gpu), "net")
    (frame,) = reference.frames(1)
    caches = [cache + 0.5 for cache in reference.zeros()]
    logits, following = step(frame, caches)
    expected, expected_following = reference.step(frame, caches)
    names = ["logits", *(cache.output for cache in made.graph.caches)]
    return (
        dict(zip(names, [logits, *following], strict=True)),
        dict(zip(reference.outputs, [expected, *expected_following], strict=True)),
        ends,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_kernel_computes_what_onnx_runtime_does(
    case: str, values: tuple[dict[str, Floats], dict[str, Floats], dict[str, str]]
) -> None:
    found, expected, ends = values
    assert_close(found[ends[case]], expected[ends[case]])


def test_shift_caches_and_logits(values: tuple[dict[str, Floats], dict[str, Floats], dict[str, str]]) -> None:
    found, expected, _ = values
    for name, value in expected.items():
        assert_close(found[name], value)
