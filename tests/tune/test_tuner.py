"""The search on simulated boards, whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from simulated_board import SimulatedBuilder, by_description, simulated_board, small_network

from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.records import read_records, recorded_choices
from tsm_edge.compile.trials import Network
from tsm_edge.errors import TuneError
from tsm_edge.tune import tuner as tuner_module
from tsm_edge.tune.boards import Board
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.tuner import Budget, Tuned, Tuner


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return small_network(tmp_path_factory.mktemp("network"))


def tune(
    network: Network,
    path: Path,
    *boards: Board,
    go_on: bool = False,
    pattern: str = "*",
    budget: Budget | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Until there is nothing left to try."""
    with Ledger(path, go_on) as ledger:
        fleet = Fleet(boards or [simulated_board()], notify)
        tuner = Tuner(
            network, fleet, ledger, SimulatedBuilder(network), budget or Budget(1e6), {"machine": "simulated"}
        )
        return tuner.run(pattern)


def step_us(program: Program, microseconds: Callable[[KernelCall], float] = by_description) -> float:
    return sum(map(microseconds, program.calls))


def tuned_program(network: Network, path: Path) -> Program:
    recorded = recorded_choices(
        network.graph,
        network.layers,
        network.manifest.target,
        network.program.precision,
        read_records(path).records,
    )
    return network.with_choices(recorded.choices)


def test_the_fastest_of_all_candidates_is_found(network: Network, tmp_path: Path) -> None:
    tuned = tune(network, tmp_path / "r.jsonl")
    assert tuned.is_faster
    assert tuned.whole is not None
    program = tuned_program(network, tmp_path / "r.jsonl")
    gain = step_us(program) / step_us(network.program)
    assert tuned.whole.low - 0.01 <= gain <= tuned.whole.high + 0.01
    rules = best = step_us(network.program)
    for free in network.freedoms:
        fastest = min(step_us(network.with_choices(Choices(other))) for other in free.others)
        best += min(0.0, fastest - rules)
    assert step_us(program) <= 1.02 * best


def test_nothing_is_accepted_where_the_rules_are_best(network: Network, tmp_path: Path) -> None:
    def rules_win(call: KernelCall) -> float:
        return 100.0 if call.spec in {own.spec for own in network.program.calls} else 350.0

    tuned = tune(network, tmp_path / "r.jsonl", simulated_board(microseconds=rules_win))
    assert not tuned.is_faster
    assert not any(record.accepted for record in read_records(tmp_path / "r.jsonl").records)
    assert tuned_program(network, tmp_path / "r.jsonl").choices == network.program.choices


def test_what_computes_something_else_is_never_used(network: Network, tmp_path: Path) -> None:
    def differs(program: Program) -> bool:
        return program.calls != network.program.calls

    tuned = tune(network, tmp_path / "r.jsonl", simulated_board(wrong=differs))
    assert tuned.wrong == tuned.tried > 0
    assert tuned.accepted == ()


def test_a_budget_ends_it(network: Network, tmp_path: Path) -> None:
    now = [0.0]

    def later() -> None:
        now[0] += 1.0

    budget = Budget(200.0, 0.0, lambda: now[0])
    tuned = tune(network, tmp_path / "r.jsonl", simulated_board(on_measure=later), budget=budget)
    everything = sum(len(free.others) for free in network.freedoms)
    assert 0 < tuned.tried < everything
    assert now[0] < 500.0


def test_it_goes_on_where_it_was(network: Network, tmp_path: Path) -> None:
    class Killed(Exception):
        """As if by kill -9: nothing is tidied up."""

    undisturbed = tune(network, tmp_path / "whole.jsonl")
    path, calls = tmp_path / "r.jsonl", [0]

    def killed() -> None:
        calls[0] += 1
        if calls[0] % 450 == 0:
            raise Killed

    lines: list[str] = []
    for attempt in range(20):
        try:
            again = tune(network, path, simulated_board(on_measure=killed), go_on=attempt > 0)
            break
        except Killed:
            found = path.read_text().splitlines() if path.exists() else []
            assert found[: len(lines)] == lines, "a finished trial is gone"
            lines = found
            with path.open("a") as stream:
                stream.write('{"accepted": fal')  # the line it was in
    else:
        pytest.fail("it never came to an end")
    assert calls[0] > 450, "it was never killed"
    tried = {record.candidate for record in read_records(path).records}
    assert tried == {record.candidate for record in read_records(tmp_path / "whole.jsonl").records}
    assert {record.key for record in again.accepted} == {record.key for record in undisturbed.accepted}


def test_two_boards_share_the_work(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in measurements: on boards that are not this machine, they pass at once."""
    monkeypatch.setattr(tuner_module, "A_LIBRARY", 8)

    def measurements(*names: str) -> list[int]:
        counts = dict.fromkeys(names, 0)

        def counted(name: str) -> Callable[[], None]:
            def count() -> None:
                counts[name] += 1
                time.sleep(0.001)

            return count

        boards = [simulated_board(name, on_measure=counted(name)) for name in names]
        tune(network, tmp_path / f"{len(names)}.jsonl", *boards, pattern="conv_*")
        return list(counts.values())

    (alone,) = measurements("alone")
    assert max(measurements("one", "other")) < 0.8 * alone


def test_a_board_that_fails_once_comes_back_and_one_that_fails_twice_is_left_out(
    network: Network, tmp_path: Path
) -> None:
    said: list[str] = []
    tuned = tune(network, tmp_path / "1.jsonl", simulated_board(failures=["it hangs"]), notify=said.append)
    assert tuned.is_faster
    assert said == ["board: it hangs; once more"]
    said.clear()
    broken = simulated_board("broken", failures=["it hangs"] * 9)
    tuned = tune(network, tmp_path / "2.jsonl", broken, simulated_board("whole"), notify=said.append)
    assert tuned.is_faster
    assert said == ["broken: it hangs; once more", "broken: it hangs; left out"]
    with pytest.raises(TuneError, match="no board is left to measure on: it hangs"):
        tune(network, tmp_path / "3.jsonl", simulated_board(failures=["it hangs"] * 9))
    assert not (tmp_path / "3.jsonl").exists(), "an empty file is left behind"


def test_only_the_kernels_that_are_named(network: Network, tmp_path: Path) -> None:
    named = network.freedoms[0].chosen.layers[0]
    tune(network, tmp_path / "r.jsonl", pattern=named)
    assert {record.about["layer"] for record in read_records(tmp_path / "r.jsonl").records} == {named}
    with pytest.raises(TuneError, match="no kernel is named 'nothing'"):
        tune(network, tmp_path / "n.jsonl", pattern="nothing")
