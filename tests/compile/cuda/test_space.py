"""What a tuner may choose instead on a GPU: every kind of it, only what fits, the likeliest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import PRECISIONS
from tsm_edge.compile.backends.cuda.choose.fusion import ExpandDepthwiseSettings
from tsm_edge.compile.backends.cuda.choose.patches import PatchesSettings
from tsm_edge.compile.backends.cuda.choose.tiles import microseconds
from tsm_edge.compile.backends.cuda.choose.winograd import WinogradSettings
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.backends.cuda.lower import lower
from tsm_edge.compile.backends.cuda.rules import settings_of_rules
from tsm_edge.compile.backends.cuda.space import freedoms
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.freedom import Freedom
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Layer
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CompileError

NANO = "jetson-nano"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnlineGraph:
    """A 3×3 convolution, an inverted residual, a strided convolution, a 1×1 one."""
    builder = GraphBuilder(56, 56)
    x = builder.relu(builder.conv(builder.frame, 32, 3, 2))
    x = builder.relu(builder.conv(x, 32, 3))
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 4), 96), 0, 6)), 0, 6)
    x = builder.add(builder.conv(y, 32), x)
    x = builder.relu(builder.conv(builder.relu(builder.conv(x, 64, 3, 2)), 64))
    path = tmp_path_factory.mktemp("space") / "model.onnx"
    onnx.save(builder.model(builder.head(x, 5)), str(path))
    return load_onnx(path, {})


@pytest.fixture(scope="module")
def layers(graph: OnlineGraph) -> Sequence[Layer]:
    return tuple(fuse(graph))


def found(
    graph: OnlineGraph, layers: Sequence[Layer], target: str = NANO, precision: str = "fp32"
) -> tuple[Program, dict[str, Freedom]]:
    """The program, and for each kernel what may be chosen, by its first layer."""
    program, free = freedoms(graph, layers, load_target(target), PRECISIONS[precision])
    return program, {" + ".join(one.layers): one for one in free}


@pytest.mark.parametrize("target", [NANO, "cuda-sm90"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-fp32"])
def test_every_candidate_makes_another_program_from_what_is_written_down(
    target: str, precision: str, graph: OnlineGraph, layers: Sequence[Layer]
) -> None:
    """Within the card's limits, but for registers: those ptxas alone knows."""
    card = load_target(target)
    assert card.gpu is not None
    program, free = found(graph, layers, target, precision)
    assert program.choices == lower(graph, layers, card, PRECISIONS[precision]).choices
    for one in free.values():
        assert len(set(one.others)) == len(one.others)
        for other in one.others:
            written = Choices.from_tables([choice.to_table() for choice in other], settings_of_rules())
            made = lower(graph, layers, card, PRECISIONS[precision], written)
            assert {choice.rule for choice in other} <= {choice.rule for choice in made.choices}
            assert [call.spec for call in made.calls] != [call.spec for call in program.calls]
            for call in made.calls:
                assert call.grid.threads[0] <= 1024
                assert getattr(call.spec, "shared_bytes", 0) <= card.gpu.shared_kib * 1024
    assert sum(len(one.others) for one in free.values()) > 60


def settings_of(free: Freedom, kind: type) -> list[object]:
    return [other[0].settings for other in free.others if isinstance(other[0].settings, kind)]


def test_tile_rows_a_step_and_the_split_of_the_reduction_are_tried(graph: OnlineGraph, layers: Sequence[Layer]) -> None:
    _, free = found(graph, layers)
    tiles = [tile for tile in settings_of(free["conv_15"], GemmTile) if isinstance(tile, GemmTile)]
    assert {tile.depth for tile in tiles} == {4, 8, 16}
    assert {tile.slices for tile in tiles} == {1, 2, 3, 4, 6, 8}
    assert len({(tile.thread_channels, tile.thread_pixels) for tile in tiles}) > 1
    assert {tile.last_apart for tile in tiles} == {True, False}


def test_the_likeliest_by_the_model_come_first(graph: OnlineGraph, layers: Sequence[Layer]) -> None:
    card = load_target(NANO)
    assert card.gpu is not None
    program, free = found(graph, layers)
    (spec,) = (call.spec for call in program.calls if call.layer == "conv_15")
    assert isinstance(spec, GemmSpec)
    tiles = [tile for tile in settings_of(free["conv_15"], GemmTile) if isinstance(tile, GemmTile)]
    times = [microseconds(card.gpu, dataclasses.replace(spec, tile=tile)) for tile in tiles]
    assert times == sorted(times)
    assert microseconds(card.gpu, spec) <= times[0]


def test_other_algorithms_and_parts_of_fused_kernels_are_tried(graph: OnlineGraph, layers: Sequence[Layer]) -> None:
    _, floats = found(graph, layers)
    assert floats["conv_2"].rule == "winograd"
    assert floats["conv_2"].others[0] == (Choice("convolution", ("conv_2",)),)
    outputs = {settings.outputs for settings in settings_of(floats["conv_2"], WinogradSettings)}  # type: ignore[attr-defined]
    assert outputs == {2, 4}
    assert floats["conv_7 + conv_9"].rule == "expand_depthwise"
    parts = floats["conv_7 + conv_9"].others[0]
    assert [(part.rule, part.layers) for part in parts] == [("pointwise", ("conv_7",)), ("depthwise", ("conv_9",))]
    assert settings_of(floats["conv_7 + conv_9"], ExpandDepthwiseSettings)
    _, halfs = found(graph, layers, precision="fp16")
    assert len(settings_of(halfs["conv_9"], DepthwiseTile)) > 8
    assert settings_of(halfs["conv_13"], PatchesSettings)
    assert not settings_of(floats["conv_13"], PatchesSettings)
    apart = halfs["conv_7 + conv_9"]
    assert [(kernel.rule, kernel.layers) for kernel in apart.kernels] == [
        ("pointwise", ("conv_7",)),
        ("depthwise", ("conv_9",)),
    ]
    assert settings_of(apart, ExpandDepthwiseSettings) == [other[0].settings for other in apart.others] != []


@pytest.mark.parametrize(
    ("precision", "choice"),
    [
        ("fp32", Choice("pointwise", ("conv_15",), GemmTile(64, 64, 0, 8))),
        ("fp32", Choice("pointwise", ("conv_15",), GemmTile(64, 64, 8, 8, slices=0))),
        ("fp32", Choice("pointwise", ("conv_15",), GemmTile(60, 64, 8, 8))),
        ("fp32", Choice("pointwise", ("conv_15",), GemmTile(64, 64, 8, 8, depth=5))),
        ("fp32", Choice("pointwise", ("conv_15",), GemmTile(256, 256, 8, 4))),
        ("fp32", Choice("convolution", ("conv_13",), GemmTile(128, 28, 8, 4, 2))),
        ("fp32", Choice("winograd", ("conv_2",), WinogradSettings(3, GemmTile(32, 64, 8, 8)))),
        ("fp32", Choice("expand_depthwise", ("conv_7", "conv_9"), ExpandDepthwiseSettings(DepthwiseTile(3, 1, 8, 1)))),
        ("fp16", Choice("winograd", ("conv_2",), WinogradSettings(4, GemmTile(32, 64, 8, 8)))),
        ("fp16", Choice("depthwise", ("conv_9",), DepthwiseTile(3, 1, 8, 1))),
        ("fp16", Choice("depthwise", ("conv_9",), DepthwiseTile(4, 2, 1, 3))),
        ("fp16", Choice("depthwise", ("conv_9",), DepthwiseTile(4, 0, 1, 1))),
        ("fp16", Choice("patches", ("conv_13",), PatchesSettings(GemmTile(1, 1, 8, 8)))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.rule,
)
def test_settings_that_no_kernel_can_have_are_refused(
    precision: str, choice: Choice, graph: OnlineGraph, layers: Sequence[Layer]
) -> None:
    with pytest.raises(CompileError, match=r"choices: conv_\d+.* cannot have "):
        lower(graph, layers, load_target(NANO), PRECISIONS[precision], Choices((choice,)))


@pytest.mark.parametrize(
    "choice",
    [
        Choice("winograd", ("conv_15",), WinogradSettings(2, GemmTile(32, 64, 8, 8))),
        Choice("expand_depthwise", ("conv_13", "conv_15"), ExpandDepthwiseSettings(DepthwiseTile(4, 1, 8, 1))),
        Choice("depthwise", ("conv_15",)),
        Choice("patches", ("conv_13",)),
    ],
    ids=lambda choice: choice.rule,
)
def test_a_rule_that_cannot_take_the_layers_is_told(
    choice: Choice, graph: OnlineGraph, layers: Sequence[Layer]
) -> None:
    told = f"rule '{choice.rule}'( cannot take the layers conv_1|, which does not write its kernel)"
    with pytest.raises(CompileError, match=told):
        lower(graph, layers, load_target(NANO), PRECISIONS["fp32"], Choices((choice,)))
