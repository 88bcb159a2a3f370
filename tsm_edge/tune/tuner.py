"""The search: candidates in batches, the slow ones left behind, the best measured again, the whole step at the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.paired import Ratio
from tsm_edge.compile.backends.cpu.space import Freedom
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.records import Record, recorded_choices
from tsm_edge.compile.trials import Network, differing_calls
from tsm_edge.errors import TuneError
from tsm_edge.tune.boards import Board
from tsm_edge.tune.candidates import Candidate, candidates, kernels_to_tune, program_of
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.race import Entrant, Finish, Pace, Runner, race

# Programs of one library.
A_LIBRARY = 24
DIFFERENT_FRAMES = 4
# To compile, link and race one, about, on a server core.
A_CANDIDATE_S = 0.6
# Everybody's turns, then those of the better half, then of the best of every kernel, measured anew.
HEATS, SEMIFINALS, FINALS = Pace(3), Pace(6), Pace(16)
WHOLE_STEP = Pace(40)
# What is this much slower after the heats does not come back.
HOPELESS = 1.02
FINALISTS = 2
# Shares of the budget: when the search ends, and when the finals do.
SEARCH_SHARE, FINALS_SHARE = 0.65, 0.85


@dataclass(frozen=True)
class Budget:
    """How long tuning may take.

    Attributes
    ----------
    seconds : float
    started : float
        By ``clock``.
    clock : callable
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic

    @property
    def used(self) -> float:
        """The share that is used up."""
        return (self.clock() - self.started) / self.seconds


@dataclass(frozen=True)
class State:
    """How far tuning is.

    Attributes
    ----------
    doing : str
    tried, kernels_tried, kernels : int
        Candidates and kernels so far, and kernels that are tuned.
    step_ms : float
        By the rules.
    hoped : float
        Modelled time of the step over that by the rules, if what is best so far proves so.
    used : float
        Share of the budget.
    """

    doing: str
    tried: int
    kernels_tried: int
    kernels: int
    step_ms: float
    hoped: float
    used: float


@dataclass(frozen=True)
class Tuned:
    """What came of it.

    Attributes
    ----------
    accepted : tuple of Record
        Empty: nothing is faster beyond doubt.
    whole : Ratio or None
        Of the tuned step over that of the rules; None: there was nothing to compare.
    step_ms : float
        By the rules.
    tried, kernels : int
    wrong : int
        Candidates that computed something else.
    """

    accepted: tuple[Record, ...]
    whole: Ratio | None
    step_ms: float
    tried: int
    kernels: int
    wrong: int

    @property
    def is_faster(self) -> bool:
        """Whether the noise leaves no doubt."""
        return self.whole is not None and self.whole.high < 1.0


Show = Callable[[State], None]


class Builder(Protocol):
    """Makes libraries to measure."""

    def build(self, programs: Sequence[Program]) -> Artifact:
        """See :meth:`tsm_edge.compile.trials.TrialBuilder.build`."""


class Tuner:
    """Tunes one network on one machine.

    Parameters
    ----------
    network : Network
    fleet : Fleet
        Its boards share the search, and the first does the rest.
    ledger : Ledger
    builder : Builder
        Makes the libraries: :class:`tsm_edge.compile.trials.TrialBuilder`.
    budget : Budget
    about : dict of str to str
        What records say of the machine.
    show : callable
    """

    def __init__(
        self,
        network: Network,
        fleet: Fleet,
        ledger: Ledger,
        builder: Builder,
        budget: Budget,
        about: dict[str, str],
        show: Show = lambda state: None,
    ) -> None:
        self._network = network
        self._fleet = fleet
        self._turn = threading.Lock()  # who has it may build, and write
        self._ledger = ledger
        self._builder = builder
        self._budget = budget
        self._about = about
        self._show = show
        shape = network.manifest.frame.shape[1:]
        self._frames = np.random.default_rng(0).standard_normal((DIFFERENT_FRAMES, *shape), np.float32)
        self._tolerance = network.program.precision.tolerance
        self._step_ms = 0.0
        self._wrong = 0

    def run(self, pattern: str = "*") -> Tuned:
        """Tune the kernels whose names fit a pattern.

        Raises
        ------
        TuneError
            No kernel fits, or the records cannot be written.
        TsmEdgeError
            The device fails.
        """
        kernels = kernels_to_tune(self._network, self._kernel_times(), pattern)
        tried = self._search(kernels)
        accepted = self._finals(kernels)
        whole = self._whole_step(accepted) if accepted else None
        tuned = Tuned(accepted, whole, self._step_ms, tried, len(kernels), self._wrong)
        if tuned.is_faster:
            self._ledger.append(accepted)
        self._ledger.finish()
        return tuned

    def _kernel_times(self) -> dict[tuple[str, ...], float]:
        """Microseconds of the rules' kernels, by the names of their layers."""
        self._tell("timing the rules' kernels", ())
        artifact = self._builder.build([])
        timings = self._fleet.run_on_any(artifact, lambda runner: runner.measure(self._frames, 0, 16, kernels=True))
        kernels = timings.kernels_ns
        if kernels is None or kernels.shape[1] != len(self._network.program.calls):
            raise TuneError("the device does not time its kernels", "serve with: tsm-edge serve")
        self._step_ms = float(np.median(timings.duration_ns)) / 1e6
        by_label: dict[str, float] = {}
        for call, nanoseconds in zip(self._network.program.calls, np.median(kernels, axis=0), strict=True):
            by_label[call.layer] = by_label.get(call.layer, 0.0) + float(nanoseconds) / 1e3
        return {free.chosen.layers: by_label.get(free.label, 0.0) for free in self._network.freedoms}

    def _search(self, kernels: Sequence[Freedom]) -> int:
        """Try candidates until the budget's share is used up; returns how many."""
        known = {record.candidate for record in self._ledger.records}
        fresh = (
            candidate
            for candidate in candidates(self._network, kernels, self._about)
            if candidate.blank.candidate not in known
        )
        boards = self._fleet.boards
        with ThreadPoolExecutor(len(boards)) as pool:
            return sum(pool.map(lambda board: self._search_on(board, fresh, kernels), boards))

    def _search_on(self, board: Board, fresh: Iterator[Candidate], kernels: Sequence[Freedom]) -> int:
        """One board's part of the search."""
        tried = 0
        while self._budget.used < SEARCH_SHARE:
            with self._turn:
                if not (batch := self._batch(fresh)):
                    break
                self._tell(f"{board.name}: trying {len(batch)} candidates", kernels)
                artifact = self._builder.build([program for _, program in batch])
            finishes = self._fleet.run(board, artifact, partial(self._heats, [program for _, program in batch]))
            if finishes is None:
                break
            with self._turn:
                self._ledger.append(
                    _measured(candidate, finish, False) for (candidate, _), finish in zip(batch, finishes, strict=True)
                )
                self._wrong += sum(finish.ratio is None for finish in finishes)
            tried += len(batch)
        return tried

    def _batch(self, fresh: Iterator[Candidate]) -> list[tuple[Candidate, Program]]:
        """The next candidates that make a program."""
        pairs = ((candidate, program_of(self._network, candidate)) for candidate in fresh)
        return list(islice(((one, program) for one, program in pairs if program is not None), A_LIBRARY))

    def _heats(self, programs: Sequence[Program], runner: Runner) -> list[Finish]:
        """Successive halving."""
        entrants = [self._entrant(number, program) for number, program in enumerate(programs, 1)]
        finishes = self._race(runner, entrants, HEATS)
        ratios = [math.inf if finish.ratio is None else finish.ratio.value for finish in finishes]
        order = sorted(range(len(entrants)), key=lambda index: ratios[index])
        better = [index for index in order[: max(1, len(order) // 2)] if ratios[index] < HOPELESS]
        if better:
            again = self._race(runner, [entrants[index] for index in better], SEMIFINALS)
            for index, finish in zip(better, again, strict=True):
                finishes[index] = finish
        return finishes

    def _finals(self, kernels: Sequence[Freedom]) -> tuple[Record, ...]:
        """The best of every kernel measured anew; of each the one that is faster beyond doubt."""
        best: dict[str, list[Record]] = {}
        for record in self._ledger.records:
            if not record.accepted and _median(record) < 1.0:
                best.setdefault(record.key, []).append(record)
        wanted = {record.candidate for group in best.values() for record in sorted(group, key=_median)[:FINALISTS]}
        finalists = (
            candidate
            for candidate in candidates(self._network, kernels, self._about)
            if candidate.blank.candidate in wanted
        )
        winners: dict[str, Record] = {}
        while self._budget.used < FINALS_SHARE and (batch := self._batch(finalists)):
            self._tell(f"measuring the best {len(batch)} again", kernels)
            programs = [program for _, program in batch]
            entrants = [self._entrant(number, program) for number, program in enumerate(programs, 1)]
            finishes = self._fleet.run_on_any(
                self._builder.build(programs), partial(self._race, entrants=entrants, pace=FINALS)
            )
            for (candidate, _), finish in zip(batch, finishes, strict=True):
                record = _measured(candidate, finish, True)
                if finish.ratio is None or finish.ratio.high >= 1.0:
                    continue
                if record.key not in winners or _median(record) < _median(winners[record.key]):
                    winners[record.key] = record
        return tuple(winners.values())

    def _whole_step(self, accepted: Sequence[Record]) -> Ratio | None:
        """The step with all that was accepted, against that of the rules; None: together they do not compute it."""
        self._tell("measuring the whole step, tuned against untuned", ())
        network = self._network
        recorded = recorded_choices(
            network.graph, network.layers, network.manifest.target, network.program.precision, accepted
        )
        program = network.with_choices(recorded.choices)
        (finish,) = self._fleet.run_on_any(
            self._builder.build([program]), partial(self._race, entrants=[Entrant(1)], pace=WHOLE_STEP)
        )
        return finish.ratio

    def _race(self, runner: Runner, entrants: Sequence[Entrant], pace: Pace) -> list[Finish]:
        """Ends with a round where the budget is used up."""
        return race(runner, self._frames, entrants, pace, self._tolerance, lambda: self._budget.used > 1.0)

    def _entrant(self, number: int, program: Program) -> Entrant:
        own, base = differing_calls(program, self._network.program)
        return Entrant(number, tuple(own), tuple(base))

    def _tell(self, doing: str, kernels: Sequence[Freedom]) -> None:
        records = [record for record in self._ledger.records if not record.accepted]
        best: dict[str, float] = {}
        for record in records:
            best[record.key] = max(best.get(record.key, 0.0), _saved_us(record))
        saved_ms = sum(best.values()) / 1e3
        hoped = 1.0 - saved_ms / self._step_ms if self._step_ms else 1.0
        self._show(State(doing, len(records), len(best), len(kernels), self._step_ms, hoped, self._budget.used))


def _median(record: Record) -> float:
    return math.inf if record.ratio is None else record.ratio[0]


def _saved_us(record: Record) -> float:
    return 0.0 if record.ratio is None else (1.0 - record.ratio[0]) * record.rule_us


def _measured(candidate: Candidate, finish: Finish, accepted: bool) -> Record:
    ratio = finish.ratio
    return replace(
        candidate.blank,
        accepted=accepted,
        ratio=None if ratio is None else (round(ratio.value, 4), round(ratio.low, 4), round(ratio.high, 4)),
        rule_us=round(finish.base_us, 3),
    )
