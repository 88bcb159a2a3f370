"""Libraries with several programs: real code, here and over RPC on loopback."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.precision import INT8
from tsm_edge.compile.backends.cpu.int8.convolution_spec import Int8Tile
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantised import noise
from tsm_edge.compile.trial_library import TrialBuilder
from tsm_edge.compile.trials import Network, network_of
from tsm_edge.errors import ArtifactError, CompileError, TuneError
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.candidates import candidates, program_of
from tsm_edge.tune.race import Entrant, Pace, race


@pytest.fixture(scope="module")
def network(small_artifact: Artifact) -> Network:
    return network_of(small_artifact)


@pytest.fixture(scope="module")
def trials(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The rules' program, and one a kernel with the likeliest other choice."""
    programs = [network.with_choices(Choices(free.others[0])) for free in network.freedoms if free.others]
    return TrialBuilder(network, tmp_path_factory.mktemp("trials")).build(programs).artifact


def test_every_program_computes_the_same(network: Network, trials: Artifact) -> None:
    frames = np.random.default_rng(0).standard_normal((3, *network.manifest.frame.shape[1:]), np.float32)
    with OnlineSession(trials) as session:
        wanted = session.measure(frames, 0, 3).logits
        count = sum(bool(free.others) for free in network.freedoms)
        for program in range(1, count + 1):
            calls = session.select(program)
            timings = session.measure(frames, 0, 3, kernels=True)
            assert timings.kernels_ns is not None
            assert timings.kernels_ns.shape == (3, calls)
            assert np.abs(timings.logits - wanted).max() <= 1e-5 * np.abs(wanted).max()
        with pytest.raises(ArtifactError, match=f"program is {count + 1}, the library has {count + 1}"):
            session.select(count + 1)
        session.select(0)
        assert np.array_equal(session.measure(frames, 0, 3).logits, wanted)


@pytest.mark.real_time
def test_a_race_of_a_program_with_itself_is_a_draw(network: Network, trials: Artifact) -> None:
    frames = np.random.default_rng(0).standard_normal((2, *network.manifest.frame.shape[1:]), np.float32)
    with OnlineSession(trials) as session:
        (finish,) = race(session, frames, [Entrant(0)], Pace(12), 1e-4)
    assert finish.error == 0.0
    assert finish.ratio is not None
    assert finish.ratio.low <= 1.05
    assert finish.ratio.high >= 0.95


def test_a_library_that_is_discarded_leaves_nothing_and_the_next_can_be_made(network: Network, tmp_path: Path) -> None:
    builder = TrialBuilder(network, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    free = next(free for free in network.freedoms if free.others)
    for _ in range(2):
        library = builder.build([network.with_choices(Choices(free.others[0]))])
        with OnlineSession(library.artifact) as session:
            session.select(1)
        builder.discard(library)
        assert sorted(tmp_path.rglob("*")) == before


def test_an_ordinary_library_has_one_program(small_artifact: Artifact) -> None:
    with OnlineSession(small_artifact) as session:
        assert session.select(0) == len(small_artifact.manifest.kernels)
        with pytest.raises(ArtifactError, match="program is 1, the library has 1"):
            session.select(1)
        session.reset()


def test_what_cannot_be_tuned_is_refused(clip_artifact: Artifact) -> None:
    with pytest.raises(TuneError, match="takes clips; models of streams can be tuned"):
        network_of(clip_artifact)


def int8_artifact(folder: Path, target: TargetCard) -> Artifact:
    folder.mkdir(exist_ok=True)
    model = small_network()
    onnx.save(model, str(folder / "model.onnx"))
    height, width = (size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim[2:])
    request = CompileRequest(
        target,
        folder / "model",
        onnx=folder / "model.onnx",
        precision=INT8,
        runner=False,
        calibration=lambda preprocess: noise((height, width), preprocess),
    )
    return compile_model(request)


@pytest.fixture(scope="module")
def of_integers(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return network_of(int8_artifact(tmp_path_factory.mktemp("vnni"), load_target("x86-64-v4-vnni")))


def test_integers_have_candidates_that_can_be_recorded(of_integers: Network) -> None:
    network = of_integers
    found = list(candidates(network, network.freedoms, {}))
    rules_of = {choice.rule for candidate in found for choice in candidate.choices}
    assert {"int8_convolution", "int8_depthwise"} <= rules_of
    different = 0
    for candidate in found:
        program = program_of(network, candidate)
        again = network.recorded([dataclasses.replace(candidate.blank, accepted=True)])
        assert (again.covered, again.stale) == (1, 0)
        assert network.with_choices(again.choices).calls == network.with_choices(Choices(candidate.choices)).calls
        different += program is not None
    assert different > len(found) // 2


def test_of_integers_every_program_computes_the_same_bits(native: TargetCard, tmp_path: Path) -> None:
    if not {"dot-product", "multiply-by-lane"} & set(native.cpu.abilities):
        pytest.skip("this CPU has no 8-bit dot products: int8 code cannot run here")
    artifact = int8_artifact(tmp_path / "int8", native)
    network = network_of(artifact)
    (tmp_path / "trials").mkdir()
    pairs = [program_of(network, one) for one in candidates(network, network.freedoms, {})]
    programs = [program for program in pairs if program is not None][:6]
    frames = np.random.default_rng(0).standard_normal((3, *network.manifest.frame.shape[1:]), np.float32)
    with OnlineSession(artifact) as session:
        wanted = session.measure(frames, 0, 3).logits
    with OnlineSession(TrialBuilder(network, tmp_path / "trials").build(programs).artifact) as session:
        for program in range(len(programs) + 1):
            session.select(program)
            np.testing.assert_array_equal(session.measure(frames, 0, 3).logits, wanted)


def test_a_tile_that_no_rule_would_make_is_refused(of_integers: Network) -> None:
    network = of_integers
    layer = next(free.layers for free in network.freedoms if free.rule == "int8_convolution")
    with pytest.raises(CompileError, match="cannot have register tiles of 99×1 vectors"):
        network.with_choices(Choices((Choice("int8_convolution", layer, Int8Tile(99, 1, 1, True)),)))
