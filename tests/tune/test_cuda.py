"""Tuning for a GPU: the search on a simulated board, and its records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from simulated_board import SimulatedBuilder, by_description, simulated_board, small_network

from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile import recorded as module
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.record_keys import card_fingerprint
from tsm_edge.compile.recorded import recorded_choices, recorded_for
from tsm_edge.compile.records import Record, read_records
from tsm_edge.compile.trials import Network
from tsm_edge.tune.candidates import candidates
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.state import Budget
from tsm_edge.tune.tuner import Tuner


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return small_network(tmp_path_factory.mktemp("network"), "jetson-nano")


@pytest.fixture(scope="module")
def records(network: Network) -> list[Record]:
    found = candidates(network, network.freedoms, {})
    return [dataclasses.replace(one.blank, accepted=True, ratio=(0.9, 0.88, 0.92)) for one in found]


def step_us(program: Program) -> float:
    return sum(map(by_description, program.calls))


def test_a_faster_step_is_found_recorded_and_compiled(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Ledger(path, go_on=False) as ledger:
        builder = SimulatedBuilder(network)
        tuned = Tuner(network, Fleet([simulated_board()]), ledger, builder, Budget(1e6), {}).run()
    assert tuned.is_faster
    assert tuned.threads is None
    assert tuned.whole is not None
    target, said = network.manifest.target, list[str]()
    recorded = recorded_for(target, FP32, [path], network.graph, network.layers, said.append)
    assert said == []
    assert 1 < recorded.covered <= len(tuned.accepted)
    gain = step_us(network.with_choices(recorded.choices)) / step_us(network.program)
    assert tuned.whole.low - 0.01 <= gain <= tuned.whole.high + 0.01
    assert {(record.device, record.card) for record in read_records(path).records} == {
        ("cuda", card_fingerprint(target))
    }


def test_what_the_gpu_cannot_run_is_left_out(network: Network, tmp_path: Path) -> None:
    """As ptxas says, which the model does not know."""
    wanted = [call.spec for call in network.program.calls]

    def fits(program: Program) -> bool:
        return all(call.spec in wanted or call.spec.rule != "pointwise" for call in program.calls)

    with Ledger(tmp_path / "r.jsonl", go_on=False) as ledger:
        builder = SimulatedBuilder(network, fits=fits)
        tuned = Tuner(network, Fleet([simulated_board()]), ledger, builder, Budget(1e6), {}).run()
        tried = {choice["rule"] for record in ledger.records for choice in record.choices}
    assert tuned.tried
    assert tuned.wrong == 0
    assert "pointwise" not in tried
    assert {"winograd", "convolution"} & tried


def test_records_are_of_one_gpu_one_device_and_one_version(
    network: Network, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, layers, target = network.graph, network.layers, network.manifest.target

    def covered(card: TargetCard, found: list[Record] = records) -> int:
        return recorded_choices(graph, layers, card, FP32, found).covered

    assert target.gpu is not None
    kernels = covered(target)
    assert kernels > 3
    other_cpu = dataclasses.replace(target, cpu=load_target("x86-64-v3").cpu)
    assert covered(other_cpu) == kernels, "the rules of a GPU are told nothing of the CPU"
    slower = dataclasses.replace(target, gpu=dataclasses.replace(target.gpu, clock_mhz=640))
    assert covered(slower) == covered(load_target("jetson-tx2")) == 0
    assert covered(target, [dataclasses.replace(record, device="cpu") for record in records]) == 0
    monkeypatch.setattr(module, "rules_version", lambda device: 99 if device == "cuda" else 1)
    found = recorded_choices(graph, layers, target, FP32, records)
    assert found.covered == 0
    assert found.stale == len({record.key for record in records})


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """For a large GPU, whose rules have expansion and depthwise convolution apart."""
    network = small_network(tmp_path_factory.mktemp("apart"), "cuda-sm90")
    assert any(len(free.kernels) == 2 for free in network.freedoms)
    return network


@pytest.mark.parametrize(("fused_us", "joined"), [(60.0, True), (170.0, False)])
def test_two_kernels_are_joined_where_that_saves_more_than_other_tiles_of_each(
    fused_us: float, joined: bool, apart: Network, tmp_path: Path
) -> None:
    """Of 100 µs each, or 70 with other tiles."""
    own = {call.spec for call in apart.program.calls}

    def microseconds(call: KernelCall) -> float:
        if call.spec.rule == "expand_depthwise":
            return fused_us
        return 70.0 if call.spec.rule in ("pointwise", "depthwise") and call.spec not in own else 100.0

    path = tmp_path / "r.jsonl"
    with Ledger(path, go_on=False) as ledger:
        board = simulated_board(microseconds=microseconds)
        tuned = Tuner(apart, Fleet([board]), ledger, SimulatedBuilder(apart), Budget(1e6), {}).run()
    assert tuned.is_faster
    recorded = recorded_for(apart.manifest.target, FP32, [path], apart.graph, apart.layers, lambda text: None)
    rules = {choice.rule for choice in apart.with_choices(recorded.choices).choices}
    assert ("expand_depthwise" in rules) == joined
    assert ("depthwise" in rules) != joined


def test_where_a_pair_has_a_record_those_of_its_kernels_are_not_used(apart: Network) -> None:
    found = list(candidates(apart, apart.freedoms, {}))
    both = next(one for one in found if len(one.blank.layers) == 2)
    alone = [next(one for one in found if one.blank.layers == (layer,)) for layer in both.blank.layers]
    records = [dataclasses.replace(one.blank, accepted=True) for one in (both, *alone)]
    recorded = apart.recorded(records)
    assert (recorded.covered, recorded.choices) == (1, Choices(both.choices))
    assert apart.recorded(records[1:]).covered == 2


def test_a_pair_that_was_accepted_gives_way_to_better_kernels_of_its_layers(apart: Network, tmp_path: Path) -> None:
    """Of 100 µs each: 150 µs joined, and 70 each with other tiles, which only the second run tries for both."""
    own = {call.spec for call in apart.program.calls}
    first = next(free.layers[0] for free in apart.freedoms if len(free.kernels) == 2)

    def microseconds(call: KernelCall) -> float:
        if call.spec.rule == "expand_depthwise":
            return 150.0
        return 70.0 if call.spec.rule in ("pointwise", "depthwise") and call.spec not in own else 100.0

    def accepted_after(pattern: str, go_on: bool) -> set[int]:
        with Ledger(tmp_path / "r.jsonl", go_on) as ledger:
            board = simulated_board(microseconds=microseconds)
            Tuner(apart, Fleet([board]), ledger, SimulatedBuilder(apart), Budget(1e6), {}).run(pattern)
            return {len(record.layers) for record in ledger.records if record.accepted}

    assert 2 in accepted_after(first, go_on=False)
    assert 2 not in accepted_after("*", go_on=True)
