"""What the kernels compute, against ONNX Runtime: one case a branch of a graph, one graph for each image size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from artifacts import compile_onnx, sse_target
from onnx_graphs import Floats, GraphBuilder, Reference, assert_close, assert_nan_goes_through

from tsm_edge.cards import TargetCard, load_target
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession


class Branches(GraphBuilder):
    """A graph of independent branches; each ends in a next cache, so that all of its values can be compared."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self._sources: dict[tuple[int, bool], str] = {}

    def source(self, channels: int, padded: bool = True) -> str:
        """An image of the frame's size with values of both signs; shared, and with a border where one is ``padded``."""
        if (channels, padded) not in self._sources:
            self._sources[channels, padded] = self.conv(self.frame, channels)
        return self._sources[channels, padded]

    def end(self, tensor: str) -> None:
        """Make ``tensor`` an output."""
        self.feed_back(self.cache(self.shapes[tensor]), tensor)


@dataclass(frozen=True)
class Case:
    """A branch.

    Attributes
    ----------
    build : callable
        Returns the tensor to compare.
    everywhere : bool
        In every run, not only the first: its code depends on tile and vector sizes.
    """

    build: Callable[[Branches], str]
    everywhere: bool = False


@dataclass(frozen=True)
class Run:
    """A target, and the frame's height and width, pixels."""

    target: str
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.target} {self.height}x{self.width}"

    def cases(self) -> list[str]:
        """Names of the cases it has."""
        return [name for name, case in CASES.items() if case.everywhere or self == RUNS[0]]


# Odd sides; rows of several tiles; other vector sizes; one row. Inverted residuals go by panels where those fit the
# cache, by rows where nothing does or there is one core.
RUNS = (
    Run("native", 5, 7),
    Run("native", 2, 70),
    Run("x86-64 with one core", 13, 10),
    Run("sse", 1, 6),
    Run("native with small caches", 7, 34),
)
ROWS_AND_PANELS = ("inverted_residual", "expand_depthwise", "inverted_residual")  # of the last three


def convolution(
    channels: int,
    out: int,
    kernel: int | tuple[int, int] = 1,
    stride: int | tuple[int, int] = 1,
    pads: tuple[int, ...] | None = None,
    groups: int = 1,
    everywhere: bool = False,
) -> Case:
    padded = kernel != 1 or pads is not None
    return Case(lambda g: g.conv(g.source(channels, padded), out, kernel, stride, pads, groups), everywhere)


def clipped(low: float | None, high: float | None) -> Case:
    return Case(lambda g: g.clip(g.conv(g.source(6), 5), low, high))


def residual(g: Branches) -> str:
    x = g.source(13)
    return g.relu(g.add(g.conv(x, 13, 3), x))


def residual_of_cache(g: Branches) -> str:
    x = g.conv(g.source(5), 9)
    cache = g.cache(g.shapes[x])
    y = g.add(x, cache)
    g.feed_back(cache, y)
    return g.clip(g.conv(y, 7, 3), -0.5, 0.5)


def bottleneck(g: Branches) -> str:
    x = g.relu(g.conv(g.frame, 10))
    y = g.relu(g.conv(g.shift(x, 3), 6))
    y = g.relu(g.conv(y, 6, 3))
    return g.relu(g.add(g.conv(y, 10), x))


def shifted(
    channels: int,
    total: int,
    kernel: int,
    stride: int = 1,
    pads: tuple[int, ...] | None = None,
    everywhere: bool = False,
) -> Case:
    return Case(lambda g: g.conv(g.shift(g.source(total), channels), 11, kernel, stride, pads), everywhere)


def shift_in_place(g: Branches) -> str:
    x = g.shift(g.relu(g.conv(g.frame, 12)), 3)
    return g.add(g.conv(x, 12), x)


def shift_of_everything(g: Branches) -> str:
    x = g.source(6)
    cache = g.cache(g.shapes[x])
    g.feed_back(cache, x)
    return g.conv(cache, 5, 3)


def inverted_residual(
    channels: int,
    expanded: int,
    kernel: int = 3,
    stride: int = 1,
    pads: tuple[int, ...] | None = None,
    expansion: int = 1,
    everywhere: bool = False,
) -> Case:
    """With a shift and, where the size stays, the identity; clamps on both inner tensors."""

    def build(g: Branches) -> str:
        x = g.relu(g.conv(g.frame, channels))
        y = g.clip(g.conv(g.shift(x, channels // 4) if channels >= 4 else x, expanded, expansion), 0, 6)
        y = g.conv(g.clip(g.depthwise(y, kernel, stride, pads), -0.5, 0.75), channels)
        return g.add(y, x) if g.shapes[y] == g.shapes[x] else y

    return Case(build, everywhere)


def inverted_residual_before_3x3(g: Branches) -> str:
    """Two in a row, the second's result read with a border."""
    x = g.relu(g.conv(g.frame, 6))
    for _ in range(2):
        y = g.relu(g.depthwise(g.relu(g.conv(g.shift(x, 1), 20))))
        x = g.add(g.conv(y, 6), x)
    return g.conv(x, 7, 3)


def depthwise_and_pointwise(g: Branches) -> str:
    """As in MobileNet-V1: each pointwise layer stands between two depthwise ones."""
    x = g.relu(g.conv(g.frame, 20))
    for channels in (24, 33, 9):
        x = g.relu(g.conv(g.relu(g.depthwise(x)), channels))
    return x


def projection_with_pads(g: Branches) -> str:
    """Zeros around the projected image are not the bias."""
    y = g.relu(g.depthwise(g.relu(g.conv(g.frame, 24))))
    return g.conv(y, 5, 1, 1, (1, 0, 2, 1))


def borders_of_two_readers(g: Branches) -> str:
    x = g.relu(g.conv(g.frame, 7))
    return g.add(g.conv(x, 4, 3), g.conv(x, 4, 5))


def max_pool(kernel: int, stride: int, pads: tuple[int, ...], channels: int = 10) -> Case:
    """Of an image below zero, so that padding read as zero would win."""
    return Case(lambda g: g.max_pool(g.clip(g.conv(g.frame, channels), None, -0.25), kernel, stride, pads))


def pool_between_convolutions(g: Branches) -> str:
    return g.conv(g.max_pool(g.conv(g.source(5), 6, 3), 3, 2, (1, 1, 1, 1)), 7, 3)


CASES = {
    "pointwise 1 to 1": convolution(1, 1),
    "pointwise 3 to 17": convolution(3, 17),
    "pointwise 33 to 5": convolution(33, 5, everywhere=True),
    "pointwise 40 to 130": convolution(40, 130, everywhere=True),
    "pointwise stride 2": convolution(17, 33, 1, 2, everywhere=True),
    "pointwise 100 to 20": convolution(100, 20, everywhere=True),
    "pointwise with pads": convolution(5, 6, 1, 1, (1, 0, 2, 1)),
    "3x3": convolution(5, 17, 3, everywhere=True),
    "3x3 from 1": convolution(1, 3, 3),
    "3x3 stride 2": convolution(17, 5, 3, 2, everywhere=True),
    "3x3 from 48": convolution(48, 20, 3, everywhere=True),
    "3x3 from 32, stride 2": convolution(32, 40, 3, 2, everywhere=True),
    "3x3 without pads": convolution(4, 6, 3, 1, (0, 0, 0, 0)),
    "3x3 pads to one side": convolution(6, 9, 3, 1, (2, 0, 0, 2)),
    "3x3 stride 2, pads at the end": convolution(8, 8, 3, 2, (0, 0, 1, 1)),
    "3x3 far pads": convolution(3, 4, 3, 2, (3, 4, 5, 2), everywhere=True),
    "5x5 stride 2": convolution(3, 33, 5, 2),
    "7x7 stride 2": convolution(5, 17, 7, 2),
    "1x3 stride 1x2": convolution(5, 6, (1, 3), (1, 2)),
    "5x1": convolution(9, 3, (5, 1)),
    "frame 3x3 stride 2": Case(lambda g: g.conv(g.frame, 17, 3, 2)),
    "frame 3x3": Case(lambda g: g.conv(g.frame, 20, 3), everywhere=True),
    "frame 3x3 pads to the right": Case(lambda g: g.conv(g.frame, 9, 3, 1, (1, 0, 1, 2)), everywhere=True),
    "frame 3x3 far pads": Case(lambda g: g.conv(g.frame, 33, 3, 2, (2, 4, 1, 3)), everywhere=True),
    "frame 7x7 stride 2": Case(lambda g: g.conv(g.frame, 24, 7, 2), everywhere=True),
    "frame 5x5 pads to one side": Case(lambda g: g.conv(g.frame, 1, 5, 1, (4, 1, 0, 3)), everywhere=True),
    "frame depthwise": Case(lambda g: g.depthwise(g.frame), everywhere=True),
    "frame in 3 groups": Case(lambda g: g.conv(g.frame, 48, 3, groups=3), everywhere=True),
    "depthwise 3x3": Case(lambda g: g.depthwise(g.source(17)), everywhere=True),
    "depthwise 3x3 of 1": Case(lambda g: g.conv(g.source(1), 1, 3)),
    "depthwise 3x3 of 40, stride 2": Case(lambda g: g.depthwise(g.source(40), 3, 2)),
    "depthwise 5x5": Case(lambda g: g.relu(g.depthwise(g.source(5), 5))),
    "depthwise 7x7 stride 2": Case(lambda g: g.depthwise(g.source(33), 7, 2), everywhere=True),
    "depthwise pads to one side": Case(lambda g: g.depthwise(g.source(3), 3, 1, (0, 2, 2, 0))),
    "groups of 16": convolution(32, 32, 3, groups=2),
    "groups of 8": convolution(32, 32, 3, 2, groups=4, everywhere=True),
    "groups of 4": convolution(32, 64, 1, groups=16),
    "groups that widen": convolution(8, 64, 3, groups=4, everywhere=True),
    "depthwise doubled": convolution(16, 32, 3, groups=16),
    "no bias": Case(lambda g: g.conv(g.source(5), 6, 3, bias=False)),
    "relu": Case(lambda g: g.relu(g.conv(g.source(5), 9, 3))),
    "clip to 6": clipped(0, 6),
    "clip to odd bounds": clipped(-0.37, 0.11),
    "clip from below": clipped(0.25, None),
    "clip from above": clipped(None, -0.125),
    "residual": Case(residual, everywhere=True),
    "residual of a cache": Case(residual_of_cache, everywhere=True),
    "bottleneck": Case(bottleneck, everywhere=True),
    "inverted residual": inverted_residual(10, 40, everywhere=True),
    "inverted residual 33": inverted_residual(33, 70, 5, everywhere=True),
    "inverted residual stride 2": inverted_residual(6, 20, 3, 2, everywhere=True),
    "inverted residual 20": inverted_residual(20, 48, everywhere=True),
    "inverted residual 104": inverted_residual(104, 24, everywhere=True),
    "inverted residual pads to one side": inverted_residual(8, 36, 3, 1, (2, 0, 0, 2)),
    "inverted residual after a stem": inverted_residual(3, 32, expansion=3),
    "inverted residuals before 3x3": Case(inverted_residual_before_3x3, everywhere=True),
    "depthwise and pointwise": Case(depthwise_and_pointwise, everywhere=True),
    "projection with pads": Case(projection_with_pads, everywhere=True),
    "borders of two readers": Case(borders_of_two_readers, everywhere=True),
    "shift 1 of 9 into 1x1": shifted(1, 9, 1),
    "shift 5 of 10 into 1x1": shifted(5, 10, 1, everywhere=True),
    "shift 4 of 32 into 1x1": shifted(4, 32, 1),
    "shift 40 of 90 into 1x1": shifted(40, 90, 1, everywhere=True),
    "shift 45 of 48 into 1x1": shifted(45, 48, 1, everywhere=True),
    "shift into 1x1 stride 2": shifted(3, 12, 1, 2, everywhere=True),
    "shift into 1x1 with pads": shifted(2, 16, 1, 1, (1, 2, 1, 0)),
    "shift 2 of 17 into 3x3": shifted(2, 17, 3),
    "shift 9 of 18 into 3x3 stride 2": shifted(9, 18, 3, 2, everywhere=True),
    "shift in place": Case(shift_in_place, everywhere=True),
    "shift of everything": Case(shift_of_everything),
    "max pool 2 stride 2": max_pool(2, 2, (0, 0, 0, 0)),
    "max pool 3 stride 1": max_pool(3, 1, (1, 1, 1, 1), 17),
    "max pool 3 stride 2": max_pool(3, 2, (1, 1, 1, 1), 33),
    "max pool 3 pads at the end": max_pool(3, 2, (0, 0, 1, 1), 1),
    "pool between convolutions": Case(pool_between_convolutions, everywhere=True),
    "global average": Case(lambda g: g.global_average(g.source(21))),
    "dense": Case(lambda g: g.conv(g.global_average(g.source(33)), 17)),
}


@dataclass(frozen=True)
class Inputs:
    """A frame and the caches of one step."""

    frame: Floats
    caches: list[Floats]

    def poisoned(self, where: str) -> Inputs:
        """With NaN in one pixel of the frame, or of every cache."""
        made = Inputs(self.frame.copy(), [cache.copy() for cache in self.caches])
        for tensor in [made.frame] if where == "frame" else made.caches:
            tensor[0, -1, tensor.shape[2] // 4 * 2, tensor.shape[3] // 4 * 2] = np.nan  # even: seen at stride 2
        return made


Outputs = dict[str, list[Floats]]
NAN = ("frame", "caches")


@dataclass(frozen=True)
class Batch:
    """All cases of one image size on one target: next caches by case name, found ones by number of threads too.

    ``poisoned``: of the reference and of ours, with NaN in the frame or in the caches; ``after``: of ours, without NaN
    again.
    """

    rules: frozenset[str]
    expected: Outputs
    found: dict[int, Outputs]
    poisoned: dict[str, tuple[Outputs, Outputs]]
    after: Outputs


THREADS = (1, 3)


def card(target: str) -> TargetCard:
    native = load_target("native")
    name, _, change = target.partition(" with ")
    found = sse_target() if name == "sse" else load_target(name)
    changes = {"": {}, "one core": {"cores": 1}, "small caches": {"l1d_kib": 1, "l2_kib": 1}}[change]
    found = dataclasses.replace(found, cpu=dataclasses.replace(found.cpu, **changes))
    if native.cpu.triple != found.cpu.triple or native.cpu.vector_lanes < found.cpu.vector_lanes:
        pytest.skip(f"target {target} does not run on this CPU, {native.cpu.cpu}")
    return found


def compile_and_run(run: Run, folder: Path) -> Batch:
    graph, outputs = Branches(run.height, run.width), {}
    for name in run.cases():
        first = len(graph.caches)
        graph.end(CASES[name].build(graph))
        outputs[name] = slice(first, len(graph.caches))
    model = graph.model(graph.head(graph.source(9), 3))
    reference = Reference(model)
    generator = np.random.default_rng(2)
    frame = generator.normal(0, 1, reference.frame_shape).astype(np.float32)
    caches = [generator.normal(0, 1, shape).astype(np.float32) for shape in reference.cache_shapes]
    given = Inputs(frame, caches)

    def by_case(step: Callable[[Floats, list[Floats]], tuple[Floats, list[Floats]]], inputs: Inputs) -> Outputs:
        logits, following = step(inputs.frame, inputs.caches)
        return {name: following[part] for name, part in outputs.items()} | {"head": [logits]}

    artifact = compile_onnx(model, folder, card(run.target))
    library = Library(artifact)
    found = {}
    for threads in THREADS:
        with OnlineSession(library, threads) as session:
            found[threads] = by_case(session.step_explicit, given)
    with OnlineSession(library) as session:
        poisoned = {
            where: (by_case(reference.step, inputs), by_case(session.step_explicit, inputs))
            for where, inputs in ((where, given.poisoned(where)) for where in NAN)
        }
        after = by_case(session.step_explicit, given)
    rules = frozenset(kernel.rule for kernel in artifact.manifest.kernels)
    return Batch(rules, by_case(reference.step, given), found, poisoned, after)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], Batch]:
    """:func:`compile_and_run`, once a run; a run that fails is not tried again for its other cases."""
    done: dict[Run, Batch | Exception] = {}

    def get(run: Run) -> Batch:
        if run not in done:
            try:
                done[run] = compile_and_run(run, tmp_path_factory.mktemp("kernels") / "branches")
            except Exception as error:
                done[run] = error
                raise
        result = done[run]
        if isinstance(result, Exception):
            raise result
        return result

    return get


EVERY_CASE = [pytest.param(run, name, id=f"{run} {name}") for run in RUNS for name in [*run.cases(), "head"]]


@pytest.mark.parametrize(("run", "name"), EVERY_CASE)
def test_equals_onnx_runtime(batch: Callable[[Run], Batch], run: Run, name: str) -> None:
    result = batch(run)
    one, several = THREADS
    for index, expected in enumerate(result.expected[name]):
        found = result.found[one][name][index]
        assert_close(found, expected)
        np.testing.assert_array_equal(result.found[several][name][index], found, "depends on the number of threads")


@pytest.mark.parametrize(("run", "name"), EVERY_CASE)
def test_nan_goes_through(batch: Callable[[Run], Batch], run: Run, name: str) -> None:
    """From the frame and from the caches; and none stays behind in memory that the next frame uses."""
    result = batch(run)
    for expected, found in result.poisoned.values():
        for theirs, ours in zip(expected[name], found[name], strict=True):
            assert_nan_goes_through(ours, theirs)
    for found, before in zip(result.after[name], result.found[1][name], strict=True):
        np.testing.assert_array_equal(found, before)


def test_nan_reaches_every_kernel(batch: Callable[[Run], Batch]) -> None:
    """Or nothing would be tested: the frame's pixel is seen by all cases, and the caches' by those that have any."""
    expected = {where: of_reference for where, (of_reference, _) in batch(RUNS[0]).poisoned.items()}
    reached = {
        where: {name for name, outputs in found.items() if any(np.isnan(output).any() for output in outputs)}
        for where, found in expected.items()
    }
    assert set(CASES) - reached["frame"] - {name for name in CASES if "pool" in name} <= reached["caches"]
    assert {name for name in CASES if "shift" in name or "residual of" in name} <= reached["caches"]


@pytest.mark.parametrize(("run", "rule"), list(zip(RUNS[2:], ROWS_AND_PANELS, strict=True)), ids=str)
def test_inverted_residuals_are_fused_in_both_ways(batch: Callable[[Run], Batch], run: Run, rule: str) -> None:
    assert rule in batch(run).rules
