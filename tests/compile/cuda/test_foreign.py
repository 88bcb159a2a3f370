"""Other people's networks on a GPU: the operators that the CPU's tests know, on the stand-in driver."""

from __future__ import annotations

import pytest
from cuda_steps import Step, compiled, lowered
from foreign_operators import ELEMENTWISE, GENERIC, operators_model
from onnx_graphs import Floats, Reference, assert_close

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision

OPERATORS = GENERIC | ELEMENTWISE
# The sigmoid of values in the hundreds makes a half's rounding a step of several percent.
TOLERANCES = {"float32": 1e-5, "float16": 2e-2}
Pairs = dict[str, tuple[Floats, Floats]]


@pytest.fixture(
    scope="module", params=[FP32, pytest.param(PRECISIONS["fp16"], marks=pytest.mark.slow)], ids=["fp32", "fp16"]
)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Precision, Pairs]:
    """Operator → what the GPU's kernels make of it, and ONNX Runtime."""
    precision: Precision = request.param
    model = operators_model(OPERATORS)
    reference = Reference(model)
    made = lowered(model, tmp_path_factory.mktemp("foreign"), "jetson-nano", precision)
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    step = Step(made, compiled({"net": made}, gpu), "net")
    (frame,) = reference.frames(1)
    _, found = step(frame, reference.zeros())
    _, expected = reference.step(frame, reference.zeros())
    return precision, dict(zip(OPERATORS, zip(found, expected, strict=True), strict=True))


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator(name: str, results: tuple[Precision, Pairs]) -> None:
    precision, pairs = results
    found, expected = pairs[name]
    assert_close(found, expected, TOLERANCES[precision.storage])
