"""What the GPU's kernels compute, against ONNX Runtime, on the stand-in driver: a case a branch of a graph.

Every access of a kernel is checked there: bounds, alignment, races between threads, what was never written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import tempfile
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cuda_cases import CASES, MORE, TILES, Branches
from cuda_steps import Launch, Lowered, Step, compiled, lowered
from onnx_graphs import Floats, Reference, assert_close
from standin_device import KernelFault, removed_barrier

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.backends.cuda.rules import RULES
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.verify.standin.ptx import parse

NANO = "jetson-nano"
HALF = PRECISIONS["fp16"]
TOLERANCES = {"float32": 1e-5, "float16": 1e-2}
EVERY_CASE = CASES | MORE
# Of 20×24 pixels, which are float32, to so few that they are halfs.
FROM_LARGE_TO_SMALL = (
    "stem 3×3",
    "stem 7×7",
    "3×3, strided, tails",
    "5×2, uneven pads",
    "3×3, grouped, strided",
    "depthwise, strided",
    "depthwise, uneven",
    "max pool",
    "pointwise, residual",
    "pointwise, shift 3",
)


@dataclass(frozen=True)
class Run:
    """Branches of one network, compiled together.

    Attributes
    ----------
    height, width : int
        Of the frame.
    cases : tuple of str
    precision : Precision
    """

    height: int
    width: int
    cases: tuple[str, ...]
    precision: Precision = FP32

    def __str__(self) -> str:
        return f"{self.height}×{self.width} {self.precision.name}"


# Odd sides, where planes have gaps and threads have tails; rows of several blocks, of whole vectors.
QUICK = Run(7, 9, tuple(CASES))
SWEEP = (
    Run(7, 9, tuple(MORE)),
    Run(6, 64, tuple(EVERY_CASE)),
    Run(7, 9, tuple(EVERY_CASE), HALF),
    Run(6, 64, tuple(EVERY_CASE), HALF),
    Run(7, 9, tuple(EVERY_CASE), FP16_SUMMED_IN_FP32),
    Run(20, 24, FROM_LARGE_TO_SMALL, FP16_SUMMED_IN_FP32),
)
SLOW = pytest.mark.slow
EACH_RUN = [pytest.param(QUICK, id=str(QUICK)), *(pytest.param(run, id=str(run), marks=SLOW) for run in SWEEP)]
EACH_CASE = [
    pytest.param(run, case, id=f"{run}: {case}", marks=[] if run is QUICK else SLOW)
    for run in (QUICK, *SWEEP)
    for case in run.cases
]


def network(run: Run, folder: Path) -> tuple[Reference, Lowered, dict[str, str]]:
    """All cases of a run; and case → its output."""
    graph = Branches(run.height, run.width)
    ends = {}
    for name in run.cases:
        made = EVERY_CASE[name](graph)
        ends[name] = f"shift_{len(graph.caches)}_next"
        graph.end(made)
    model = graph.model(graph.head(graph.source(8), 5))
    return Reference(model), lowered(model, folder, NANO, run.precision), ends


@dataclass(frozen=True)
class Computed:
    """Outputs by name, found and expected; case → output; the PTX, and how its kernels were launched."""

    found: dict[str, Floats]
    expected: dict[str, Floats]
    ends: dict[str, str]
    tolerance: float
    ptx: str
    launches: tuple[Launch, ...]


@pytest.fixture
def computed(request: pytest.FixtureRequest) -> Computed:
    return compute(request.param)


@functools.cache
def compute(run: Run) -> Computed:
    """Once for all of its cases: pytest makes a fixture again for every set of parameters."""
    with tempfile.TemporaryDirectory() as folder:
        reference, made, ends = network(run, Path(folder))
    gpu = load_target(NANO).gpu
    assert gpu is not None
    ptx = compiled({"net": made}, gpu)
    step = Step(made, ptx, "net")
    (frame,) = reference.frames(1)
    caches = [cache + 0.5 for cache in reference.zeros()]
    logits, following = step(frame, caches)
    expected, expected_following = reference.step(frame, caches)
    names = ["logits", *(cache.output for cache in made.graph.caches)]
    return Computed(
        dict(zip(names, [logits, *following], strict=True)),
        dict(zip(reference.outputs, [expected, *expected_following], strict=True)),
        ends,
        TOLERANCES[run.precision.storage],
        ptx,
        tuple(step.launches),
    )


@pytest.mark.parametrize(("computed", "case"), EACH_CASE, indirect=["computed"])
def test_a_kernel_computes_what_onnx_runtime_does(computed: Computed, case: str) -> None:
    name = computed.ends[case]
    assert_close(computed.found[name], computed.expected[name], computed.tolerance)


@pytest.mark.parametrize("computed", EACH_RUN, indirect=True)
def test_shift_caches_and_logits(computed: Computed) -> None:
    for name, value in computed.expected.items():
        assert_close(computed.found[name], value, computed.tolerance)


# Fields that can be but one thing on a GPU, or are another test's.
CONSTANT = re.compile(
    r"^\w+$|\.(source|target|cache|border|tile|loops|parallel)$"  # what is in it counts
    r"|\.border\.|\.paired$|\.pixel$|\.frames$"  # planes have neither borders nor pairs, and are of one frame
    r"|^AveragePoolSpec\.target\.(height|width|row|channel|dtype)$"  # a vector
    r"|^FallbackSpec\.loops\.parallel\."  # TVM's
    r"|^StemSpec\.(source\.dtype|outside)$|^HalfStemSpec\.(source\.|target\.dtype$|normalisation$)"  # test_bytes.py
    r"|^(ExpandDepthwise|Winograd(Source|Target)|Patches)Spec\."  # of these names in test_*.py
    r"|^GemmSpec\.batch$"  # test_winograd.py
    r"|^StemSpec\.threads$"  # test_large.py
)


def fields_of(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Every field of a dataclass, with those of the dataclasses in it; of these also whether they are there."""
    yield path, type(value) if dataclasses.is_dataclass(value) else value
    if not dataclasses.is_dataclass(value):
        return
    for field in dataclasses.fields(value):
        yield from fields_of(getattr(value, field.name), f"{path}.{field.name}")


@pytest.mark.slow
def test_the_cases_cover_every_rule_and_every_field(tmp_path: Path) -> None:
    """Each field of each spec has two values at least among the kernels that are run here."""
    seen: dict[str, set[object]] = defaultdict(set)
    chosen: set[str] = set()
    for run in (QUICK, *SWEEP):
        _, made, _ = network(run, tmp_path)
        for call in made.program.calls:
            chosen.add(call.spec.rule)
            for path, value in fields_of(call.spec, type(call.spec).__name__):
                seen[path].add(value if isinstance(value, Hashable) else repr(value))
    for tile, _ in TILES.values():
        for path, value in fields_of(tile, "GemmSpec.tile"):
            seen[path].add(value)
    assert chosen >= {rule.name for rule in RULES} - WITHOUT_A_KERNEL
    assert [path for path, values in seen.items() if len(values) < 2 and not CONSTANT.search(path)] == []


# Rules without a call, with calls of another rule's kernel, or with tests of their own: those pay for large images.
WITHOUT_A_KERNEL = {"view", "cache_tap", "dense_view", "winograd", "expand_depthwise", "patches"}


def tiled(names: Iterable[str], precision: Precision, folder: Path) -> tuple[Reference, Lowered, list[str]]:
    """Matrix products with tiles of :data:`TILES`, a depthwise convolution and a stem; and the products' outputs."""
    graph = Branches(8, 50)
    ends, choices = [], []
    for name in names:
        tile, window = TILES[name]
        end = graph.conv(graph.source(16), 24, 3) if window else graph.conv(graph.source(40), 40)
        ends.append(f"shift_{len(graph.caches)}_next")
        graph.end(end)
        choices.append(Choice("convolution" if window else "pointwise", (end,), tile))
    graph.end(graph.clip(graph.depthwise(graph.source(16)), 0, 6))
    model = graph.model(graph.head(graph.source(16), 5))
    made = lowered(model, folder, NANO, precision, choices=Choices(tuple(choices)))
    used = {call.spec.tile for call in made.program.calls if isinstance(call.spec, GemmSpec)}
    assert used >= {TILES[name][0] for name in names}
    return Reference(model), made, ends


@pytest.mark.slow
@pytest.mark.parametrize("precision", [FP32, HALF, FP16_SUMMED_IN_FP32], ids=lambda precision: precision.name)
def test_tiles_that_no_rule_chooses_here(precision: Precision, tmp_path: Path) -> None:
    reference, made, ends = tiled(TILES, precision, tmp_path)
    gpu = load_target(NANO).gpu
    assert gpu is not None
    (frame,) = reference.frames(1)
    _, found = Step(made, compiled({"net": made}, gpu), "net")(frame, reference.zeros())
    _, expected = reference.step(frame, reference.zeros())
    by_output = {cache.output: index for index, cache in enumerate(made.graph.caches)}
    for output in ends:
        index = by_output[output]
        assert_close(found[index], expected[index], TOLERANCES[precision.storage])


def test_a_barrier_that_is_missing_is_found(tmp_path: Path) -> None:
    """Each of each kernel in turn; the tiles are such that none of them is there in vain."""
    reference, made, _ = tiled(("8 × 8", "4 × 8, slices", "a window, slices"), FP32, tmp_path)
    gpu = load_target(NANO).gpu
    assert gpu is not None
    ptx = compiled({"net": made}, gpu)
    step = Step(made, ptx, "net")
    step(reference.frames(1)[0], reference.zeros())
    barriers = {
        kernel.name: [item.line for item in kernel.statements if item.text.startswith(("bar.sync", "barrier.sync"))]
        for kernel in parse(ptx).kernels
    }
    missed = []
    for launch in {launch.kernel: launch for launch in step.launches}.values():
        for index, line in enumerate(barriers[launch.kernel]):
            with removed_barrier(ptx, line), contextlib.suppress(KernelFault):
                launch.repeat(ptx)
                missed.append(f"{launch.kernel}, barrier {index}")
    assert sum(map(len, barriers.values())) > 15
    assert not missed
