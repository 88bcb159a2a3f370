"""Every candidate of a tuner computes what the rules' kernel does: the long sweep, on the stand-in driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from cuda_steps import Lowered, Step
from onnx_graphs import GraphBuilder, Reference, assert_close

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.codegen import cuda_source
from tsm_edge.compile.backends.cuda.lower import lower
from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx
from tsm_edge.compile.backends.cuda.ptxas import assemble, problem_of
from tsm_edge.compile.backends.cuda.space import freedoms
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.passes.fuse import fuse

TOLERANCES = {"float32": 1e-5, "float16": 2e-2}
# Of one text: more make the stand-in's compiler slow.
PROGRAMS = 32


def network() -> onnx.ModelProto:
    """A 3×3 convolution, an inverted residual with a shift, a strided convolution, a 1×1 one with a residual."""
    graph = GraphBuilder(20, 24)
    x = graph.relu(graph.conv(graph.frame, 16, 3, 2))
    x = graph.relu(graph.conv(x, 20, 3))
    y = graph.clip(graph.depthwise(graph.clip(graph.conv(graph.shift(x, 3), 48), 0, 6)), 0, 6)
    x = graph.next_cache(graph.add(graph.conv(y, 20), x))
    x = graph.relu(graph.conv(x, 32, 3, 2))
    x = graph.next_cache(graph.relu(graph.add(graph.conv(x, 32), x)))
    return graph.model(graph.head(x, 5))


def named(program: Program, names: dict[KernelSpec, str]) -> Program:
    """The program with a name for every kernel that is the same in all programs."""

    def call_of(call: KernelCall) -> KernelCall:
        return replace(call, kernel=names.setdefault(call.spec, f"k{len(names)}"))

    return replace(program, calls=tuple(map(call_of, program.calls)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [FP32, PRECISIONS["fp16"], FP16_SUMMED_IN_FP32], ids=lambda one: one.name)
@pytest.mark.parametrize("target", ["jetson-nano", "cuda-sm90"])
def test_every_candidate_computes_the_same(target: str, precision: Precision, tmp_path: Path) -> None:
    """Every access checked, too; and nearly all are what ptxas lets run."""
    model, card = network(), load_target(target)
    assert card.gpu is not None
    onnx.save(model, str(tmp_path / "model.onnx"))
    graph = load_onnx(tmp_path / "model.onnx")
    layers = fuse(graph)
    _, free = freedoms(graph, layers, card, precision)
    choices = [other for one in free for other in one.others]
    reference = Reference(model)
    (frame,) = reference.frames(1)
    caches = [cache + 0.5 for cache in reference.zeros()]
    expected = reference.step(frame, caches)
    refused = 0
    for first in range(0, len(choices), PROGRAMS):
        names: dict[KernelSpec, str] = {}
        programs = [
            named(lower(graph, layers, card, precision, Choices(one)), names)
            for one in choices[first : first + PROGRAMS]
        ]
        ptx = compile_ptx(cuda_source({name: spec.write(name) for spec, name in names.items()}, card.gpu), card.gpu)
        _, resources = assemble(ptx, card.gpu)
        for program in programs:
            logits, following = Step(Lowered(graph, program), ptx)(frame, caches)
            for mine, wanted in zip([logits, *following], [expected[0], *expected[1]], strict=True):
                assert_close(mine, wanted, TOLERANCES[precision.storage])
            refused += any(problem_of(call, resources[call.kernel], card.gpu) for call in program.calls)
    print(f"{target}, {precision.name}: {len(choices)} candidates, of which ptxas's code of {refused} cannot run")
    assert len(choices) > 60
    assert refused < 0.1 * len(choices)
