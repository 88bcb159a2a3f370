"""The search on simulated boards, whose truth is known."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_board import SimulatedBuilder, SimulatedRunner, by_description, simulated_board, small_network

from tsm_edge.cards.precision import FP32
from tsm_edge.cards.threads import Threads
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.recorded import recorded_choices, recorded_for
from tsm_edge.compile.records import RecordFile, read_records
from tsm_edge.compile.trials import Network
from tsm_edge.errors import RpcError, TuneError
from tsm_edge.session.timings import Timings
from tsm_edge.tune import libraries
from tsm_edge.tune import tuner as tuner_module
from tsm_edge.tune.boards import Board
from tsm_edge.tune.candidates import Candidate, program_of
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.state import Budget, Show, State, Tuned
from tsm_edge.tune.threads import fastest_threads
from tsm_edge.tune.tuner import Tuner


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(autouse=True, scope="module")
def lowered_once() -> Iterator[None]:
    """Many tuners here try the same candidates of one network."""
    programs: dict[str, Program | None] = {}

    def remembered(network: Network, candidate: Candidate) -> Program | None:
        name = candidate.blank.candidate
        if name not in programs:
            programs[name] = program_of(network, candidate)
        return programs[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner_module, "program_of", remembered)
        yield


def tune(
    network: Network,
    path: Path,
    *boards: Board,
    go_on: bool = False,
    pattern: str = "*",
    budget: Budget | None = None,
    notify: Callable[[str], None] = lambda text: None,
    on_build: Callable[[int], None] = lambda programs: None,
    show: Show = lambda state: None,
) -> Tuned:
    """Until there is nothing left to try."""
    with Ledger(path, go_on) as ledger:
        fleet = Fleet(boards or [simulated_board()], notify)
        builder = SimulatedBuilder(network, on_build=on_build)
        about = {"machine": "simulated"}
        return Tuner(network, fleet, ledger, builder, budget or Budget(1e6), about, show).run(pattern)


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


def test_where_compiling_is_slow_a_library_does_not_eat_the_budget(network: Network, tmp_path: Path) -> None:
    """20 s a candidate: of ten minutes a library of 24 would take eight."""
    now = [0.0]
    sizes: list[int] = []

    def build(programs: int) -> None:
        now[0] += 5.0 + 20.0 * programs
        sizes.append(programs)

    tuned = tune(network, tmp_path / "r.jsonl", budget=Budget(600.0, 0.0, lambda: now[0]), on_build=build)
    assert sizes[:2] == [0, 6]
    assert tuned.tried >= 9
    assert tuned.is_faster
    assert now[0] < 700.0


class Killed(Exception):
    """As if by kill -9: nothing is tidied up."""


@dataclass
class Attempt:
    """A tuner's life: how many measurements it has left, and how many trials it began."""

    left: int
    trials: int = 0
    last: int = 0

    def measure(self) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    def select(self, program: int) -> None:
        if program not in (0, self.last):
            self.trials += 1
            self.last = program


def test_killed_at_twenty_random_moments_it_loses_the_trial_in_flight_and_ends_as_if_undisturbed(
    network: Network, tmp_path: Path
) -> None:
    whole = Attempt(left=-1)
    tune(network, tmp_path / "whole.jsonl", simulated_board(on_measure=whole.measure, sigma=0.0), pattern="conv_*")
    path, chance, lines = tmp_path / "r.jsonl", random.Random(5), list[str]()
    for kill in range(21):
        attempt = Attempt(chance.randint(1, -whole.left // 12) if kill < 20 else -1)
        board = simulated_board(on_measure=attempt.measure, on_select=attempt.select, sigma=0.0)
        with pytest.raises(Killed) if kill < 20 else nullcontext():
            tune(network, path, board, go_on=kill > 0, pattern="conv_*")
        found = path.read_text().splitlines() if path.exists() else []
        if kill == 20:
            break
        assert found[: len(lines)] == lines, "a finished trial is gone"
        assert len(found) - len(lines) >= attempt.trials - 1, "more than the trial in flight is gone"
        lines = found
        with path.open("a") as stream:
            stream.write('{"about": {"layer"')  # half of the line it was in
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_what_was_measured_against_other_rules_is_measured_again(network: Network, tmp_path: Path) -> None:
    """The old ratios, of what these rules do not choose, would win every race."""
    path = tmp_path / "r.jsonl"
    first = tune(network, path, simulated_board(sigma=0.0), pattern="conv_0")
    found = read_records(path)
    with Ledger(path, go_on=True) as ledger:
        ledger.replace(
            RecordFile(tuple(replace(old, rules=old.rules - 1, ratio=(0.1, 0.1, 0.1)) for old in found.records), (), ())
        )
    said: list[State] = []
    again = tune(network, path, simulated_board(sigma=0.0), go_on=True, pattern="conv_0", show=said.append)
    assert again.tried == first.tried
    assert again.accepted == first.accepted
    assert said[-1].tried == again.tried
    assert said[-1].hoped > 0.5


def test_ctrl_c_ends_it_with_the_trial_in_flight(network: Network, tmp_path: Path) -> None:
    path, measurements, before = tmp_path / "r.jsonl", [0], list[int]()

    def interrupted() -> None:
        measurements[0] += 1
        if measurements[0] == 30:
            before.append(len(path.read_text().splitlines()))
            os.kill(os.getpid(), signal.SIGINT)
        if before:
            time.sleep(0.03)

    with pytest.raises(KeyboardInterrupt):
        tune(network, path, simulated_board(on_measure=interrupted), pattern="conv_*")
    assert before[0] > 0
    assert len(path.read_text().splitlines()) <= before[0] + 9, "it went on"


def test_two_boards_share_the_work(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated kernel time, counted in measurements, which are equally long: on other boards they pass at once."""
    monkeypatch.setattr(libraries, "MOST", 8)

    def measurements(*names: str) -> list[int]:
        counts = dict.fromkeys(names, 0)

        def counted(name: str) -> Callable[[], None]:
            def count() -> None:
                counts[name] += 1
                time.sleep(0.0003)

            return count

        boards = [simulated_board(name, on_measure=counted(name)) for name in names]
        tune(network, tmp_path / f"{len(names)}.jsonl", *boards, pattern="conv_*")
        return list(counts.values())

    (alone,) = measurements("alone")
    assert max(measurements("one", "other")) <= 0.6 * alone


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


def test_a_candidate_in_which_the_board_fails_is_lost_alone(network: Network, tmp_path: Path) -> None:
    """It hangs in the third candidate of a library, every time; the others are measured."""
    said: list[str] = []

    def hangs(program: int) -> None:
        if program == 3:
            raise RpcError("it hangs", "look at it")

    tuned = tune(network, tmp_path / "r.jsonl", simulated_board(on_select=hangs), notify=said.append, pattern="conv_0")
    others = next(free.others for free in network.freedoms if free.label.startswith("conv_0"))
    assert set(said) == {"board: it hangs; once more"}
    assert len(others) - len(said) <= tuned.tried < len(others)


def test_what_a_board_that_is_left_out_did_not_come_to_is_measured_by_the_others(
    network: Network, tmp_path: Path
) -> None:
    breaks = Attempt(left=50)

    def broken() -> None:
        breaks.left -= 1
        time.sleep(0.001)
        if breaks.left < 0:
            raise RpcError("it hangs", "look at it")

    slow = simulated_board("whole", on_measure=lambda: time.sleep(0.001), sigma=0.0)
    tuned = tune(network, tmp_path / "r.jsonl", simulated_board("broken", on_measure=broken, sigma=0.0), slow)
    alone = tune(network, tmp_path / "alone.jsonl", simulated_board(sigma=0.0))
    assert alone.tried - 2 <= tuned.tried <= alone.tried, "two failures, a candidate each"


def test_libraries_that_were_measured_are_removed(network: Network, tmp_path: Path) -> None:
    """Of ResNet-50 each has 220 MB. The last one, of the whole step, goes with the folder."""
    builder = SimulatedBuilder(network)
    with Ledger(tmp_path / "r.jsonl", go_on=False) as ledger:
        Tuner(network, Fleet([simulated_board()]), ledger, builder, Budget(1e6), {"machine": "simulated"}).run("conv_*")
    assert len(builder.built) > 4
    assert len(builder.discarded) == len(builder.built) - 2


@pytest.mark.parametrize(("step_s", "timed"), [(0.01, 16), (0.5, 10), (2.7, 3)])
def test_of_a_slow_step_few_frames_tell_the_time_of_each_kernel(
    step_s: float, timed: int, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board has half a minute to answer: 16 frames of ResNet-50 take more on a Raspberry Pi 3."""
    counts: list[int] = []
    measure = SimulatedRunner.measure

    def counted(self: SimulatedRunner, *arguments: Any, **named: Any) -> Timings:
        counts.append(arguments[2])
        return measure(self, *arguments, **named)

    monkeypatch.setattr(SimulatedRunner, "measure", counted)
    each_us = 1e6 * step_s / len(network.program.calls)
    board = simulated_board(microseconds=lambda call: each_us, sigma=0.0)
    tune(network, tmp_path / "r.jsonl", board, pattern="conv_0")
    assert counts[:2] == [1, timed]


def test_the_threads_of_the_step_are_tuned_too(network: Network, tmp_path: Path) -> None:
    """Of ways that the noise does not tell apart the one with the fewest threads, and any cores before some."""
    shares = {
        Threads(1): 1.0,
        Threads(2): 0.6,
        Threads(4): 0.6,
        Threads(2, (4, 5)): 0.4,
        Threads(4, (4, 5, 6, 7)): 0.4,
        Threads(1, (4,)): 0.8,
    }
    tuned = tune(network, tmp_path / "r.jsonl", simulated_board(with_threads=shares), pattern="conv_0")
    assert tuned.threads is not None
    assert tuned.threads.threads == Threads(2, (4, 5))
    assert tuned.threads.ratio == pytest.approx((0.4, 0.4, 0.4), rel=0.05)
    assert read_records(tmp_path / "r.jsonl").threads == (tuned.threads,)
    said: list[str] = []
    recorded = recorded_for(
        network.manifest.target, FP32, [tmp_path / "r.jsonl"], network.graph, network.layers, said.append
    )
    assert recorded.threads == Threads(2, (4, 5))
    assert said == []


def test_a_race_of_threads_that_has_begun_tells_something(network: Network) -> None:
    """With fewer rounds an interval says nothing."""
    ways = {Threads(1): 1.0, Threads(2): 0.6}
    fleet, frames = Fleet([simulated_board(with_threads=ways)]), np.zeros((1, 3, 28, 28), np.float32)
    artifact = SimulatedBuilder(network).build([]).artifact
    found = fastest_threads(fleet, artifact, frames, list(ways), tuner_module.THREADS, lambda: True, program=0)
    assert found is not None
    assert (found.threads, found.rounds) == (Threads(2), 6)
    assert found.ratio.high < 1.0


@pytest.mark.parametrize("share", [1.0, 1.2])
def test_more_threads_that_are_not_faster_are_not_recorded(share: float, network: Network, tmp_path: Path) -> None:
    board = simulated_board(with_threads={Threads(1): 1.0, Threads(2): share})
    assert tune(network, tmp_path / "r.jsonl", board, pattern="conv_0").threads is None
    assert read_records(tmp_path / "r.jsonl").threads == ()


def test_the_tuned_step_is_compared_with_the_rules_with_the_best_threads_too(network: Network, tmp_path: Path) -> None:
    """What is faster in one thread is 10 % of that faster with two: memory is what they wait for."""

    def slower_with(program: Program, threads: Threads) -> float:
        return step_us(network.program) / step_us(program) * (0.99 if program.calls != network.program.calls else 1.0)

    board = simulated_board(with_threads={Threads(1): 1.0, Threads(2): 0.6}, slower_with=slower_with)
    tuned = tune(network, tmp_path / "r.jsonl", board, pattern="conv_0")
    assert tuned.is_faster
    assert tuned.whole is not None
    assert tuned.with_threads is not None
    assert tuned.whole.value < 0.98 < tuned.with_threads.value < 1.0
    assert tuned.threads is not None
    assert tuned.threads.about["step"].startswith(f"tuned, {tuned.with_threads.value:.3f} (95 %: ")


@pytest.mark.parametrize(("share", "wrong"), [(1.3, False), (0.9, True)])
def test_what_the_best_threads_make_slower_or_wrong_is_not_recorded(
    share: float, wrong: bool, network: Network, tmp_path: Path
) -> None:
    """The threads are, as those of the rules' step."""
    races = [0]

    def slower_with(program: Program, threads: Threads) -> float:
        races[0] += threads.count == 2
        return share if threads.count == 2 and program.calls != network.program.calls else 1.0

    def differs(program: Program) -> bool:
        return wrong and races[0] > 0 and program.calls != network.program.calls

    board = simulated_board(with_threads={Threads(1): 1.0, Threads(2): 0.6}, slower_with=slower_with, wrong=differs)
    tuned = tune(network, tmp_path / "r.jsonl", board, pattern="conv_0")
    assert tuned.accepted
    assert not tuned.is_faster
    assert tuned.refused == f"with 2 threads it {'computes something else' if wrong else 'is not faster'}"
    found = read_records(tmp_path / "r.jsonl")
    assert not any(record.accepted for record in found.records)
    assert found.threads == (tuned.threads,)
    assert tuned.threads is not None
    assert tuned.threads.ratio == pytest.approx((0.6, 0.6, 0.6), rel=0.05)
    assert tuned.threads.about["step"] == "by the rules"


@pytest.mark.parametrize("measured_before", [0, 9], ids=["in a heat", "in the final"])
def test_a_candidate_in_which_the_board_fails_is_not_tried_again_by_another_run(
    measured_before: int, network: Network, tmp_path: Path
) -> None:
    """It would be the fastest, and hangs, the first time or after its heats."""
    free = next(free for free in network.freedoms if free.label.startswith("conv_0"))
    others = {call.spec for other in free.others for call in network.with_choices(Choices(other)).calls}
    fatal = min(others - {call.spec for call in network.program.calls}, key=lambda spec: spec.describe())
    measured, said = [0], list[str]()

    def microseconds(call: KernelCall) -> float:
        if call.spec != fatal:
            return by_description(call)
        measured[0] += 1
        if measured[0] > measured_before:
            raise RpcError("it hangs", "look at it")
        return 60.0

    for go_on in (False, True):
        board = simulated_board(microseconds=microseconds, sigma=0.0)
        tuned = tune(network, tmp_path / "r.jsonl", board, go_on=go_on, notify=said.append, pattern="conv_0")
        assert tuned.failed == (not go_on)
        assert tuned.tried == (0 if go_on else len(tuned.history) - (measured_before > 0))
        assert said == ["board: it hangs; once more"]
        assert sum(record.failed for record in read_records(tmp_path / "r.jsonl").records) == 1
    assert measured[0] == measured_before + 1


@pytest.mark.parametrize("others", [0, 1])
def test_a_board_that_is_always_throttled_is_left_out_or_goes_on(others: int) -> None:
    said: list[str] = []
    slept: list[float] = []
    hot = simulated_board("hot", held_back=lambda: ("too hot",))
    fleet = Fleet([hot, *[simulated_board("cool")] * others], said.append, slept.append)
    assert [fleet.let_rest(hot) for _ in range(3)] == [True, True, not others]
    assert sum(slept) == 120.0
    end = "left out" if others else "it goes on, and candidates are told apart less well"
    assert said == ["hot: too hot: it rests"] * 2 + [f"hot: too hot, and rests have not helped: {end}"]
    assert [board.name for board in fleet.boards] == (["cool"] if others else ["hot"])
    if not others:
        assert fleet.let_rest(hot)
        assert len(said) == 3, "it is said once"


def test_what_a_throttled_board_did_not_come_to_is_measured_by_the_others(network: Network, tmp_path: Path) -> None:
    said: list[str] = []
    hot = simulated_board("hot", held_back=lambda: ("too hot",))
    with Ledger(tmp_path / "r.jsonl", go_on=False) as ledger:
        fleet = Fleet([hot, simulated_board("cool")], said.append, lambda seconds: None)
        tuned = Tuner(network, fleet, ledger, SimulatedBuilder(network), Budget(1e6), {"machine": "simulated"}).run()
    assert tuned.is_faster
    assert "hot: too hot, and rests have not helped: left out" in said


@pytest.mark.parametrize(("looks", "rests"), [(3, 3), (1000, 12)])
def test_a_throttled_board_rests_and_not_for_ever(looks: int, rests: int) -> None:
    said: list[str] = []
    slept: list[float] = []
    reasons = [("too hot",)] * looks

    def held_back() -> tuple[str, ...]:
        return reasons.pop() if reasons else ()

    board = simulated_board(held_back=held_back)
    Fleet([board], said.append, slept.append).let_rest(board)
    assert said == ["board: too hot: it rests"]
    assert slept == [5.0] * rests


def test_only_the_kernels_that_are_named(network: Network, tmp_path: Path) -> None:
    named = network.freedoms[0].layers[0]
    tune(network, tmp_path / "r.jsonl", pattern=named)
    assert {record.about["layer"] for record in read_records(tmp_path / "r.jsonl").records} == {named}
    with pytest.raises(TuneError, match="no kernel is named 'nothing'"):
        tune(network, tmp_path / "n.jsonl", pattern="nothing")
