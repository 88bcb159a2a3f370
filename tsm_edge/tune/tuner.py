"""The search: the most promising candidates first, the best measured again, then the whole step, and its threads."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.paired import Ratio
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.record_keys import network_key, rules_version
from tsm_edge.compile.records import Record
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.compile.trial_library import TrialLibrary
from tsm_edge.compile.trials import Network, differing_calls
from tsm_edge.errors import TuneError
from tsm_edge.session.timings import Timings
from tsm_edge.tune.agenda import Agenda, InTurn
from tsm_edge.tune.boards import Board
from tsm_edge.tune.candidates import Candidate, candidates, kernels_to_tune, program_of
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.libraries import LibrarySizes
from tsm_edge.tune.race import FEWEST_FRAMES, Entrant, Finish, Pace, Runner, race, undisturbed_us
from tsm_edge.tune.record_sets import best_measured
from tsm_edge.tune.state import Budget, Show, State, Tuned, told
from tsm_edge.tune.threads import ThreadFinish, fastest_threads

DIFFERENT_FRAMES = 4
# Of the rules' step, for the time of each kernel: so many frames, or as many as there is time for.
TIMED_FRAMES, TIMED_S = 16, 5.0
# To compile, link and race one, about, on a server core; of a GPU, to compile and link it.
A_CANDIDATE_S, A_GPU_CANDIDATE_S = 0.7, 0.43
# A candidate's turns against the rules' kernel; if it is not hopeless, more; if it is one of the best, measured anew.
HEAT, SEMIFINAL, FINAL = Pace(3), Pace(6), Pace(16, fewest=8)
WHOLE_STEP, THREADS = Pace(40, fewest=8), Pace(8, block=12, fewest=6)
# Slower than the rules' kernel by this much: not measured further. (Were it the best so far that counts, the order in
# which candidates are tried would decide what is measured, and a tuner that was killed would end with other records.)
HOPELESS = 1.02
# Of a kernel the best goes to the final, and another one that is as good but for the noise.
FINALISTS, AS_GOOD = 2, 1.03
# Programs of a library with a single one beside the rules'.
BY_RULES, TUNED = 0, 1
# Shares of the budget: when the search ends, the finals, the race of the whole step, and that of its threads.
SEARCH_SHARE, FINALS_SHARE, WHOLE_SHARE, THREADS_SHARE = 0.6, 0.8, 0.9, 0.96


class Builder(Protocol):
    """Makes libraries to measure."""

    def build(self, programs: Sequence[Program]) -> TrialLibrary:
        """See :meth:`tsm_edge.compile.trial_library.TrialBuilder.build`."""

    def discard(self, library: TrialLibrary) -> None:
        """See :meth:`tsm_edge.compile.trial_library.TrialBuilder.discard`."""


class Waiting(Protocol):
    """Candidates that are to be measured; several boards take from it."""

    def __len__(self) -> int: ...

    def take(self, count: int) -> list[Candidate]:
        """The next ones; they wait no more."""

    def give_back(self, candidates: Iterable[Candidate]) -> None:
        """They were not measured after all."""


@dataclass(frozen=True)
class ThreadedStep:
    """What came of the race of threads.

    Attributes
    ----------
    record : ThreadRecord or None
        None: one thread is the best, or the board has no choice.
    against_rules : Ratio or None
        Of the tuned step over that of the rules, both with the best threads; None: it was not compared, or computes
        something else.
    refused : str
        As of :class:`tsm_edge.tune.state.Tuned`.
    """

    record: ThreadRecord | None = None
    against_rules: Ratio | None = None
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate in a library."""

    candidate: Candidate
    entrant: Entrant


class Tuner:
    """Tunes one network on one machine.

    Every trial is written down when it is measured: a tuner that is killed loses the one in flight.

    Parameters
    ----------
    network : Network
    fleet : Fleet
        Its boards share the work on kernels, and the first measures the whole step.
    ledger : Ledger
    builder : Builder
        Makes the libraries: :class:`tsm_edge.compile.trial_library.TrialBuilder`.
    budget : Budget
    about : dict of str to str
        What records say of the machine.
    show : callable
    first : collection of str
        Candidates (:attr:`Record.candidate`) that are tried before all others: what was accepted elsewhere.
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
        first: Collection[str] = (),
    ) -> None:
        self._first = first
        self._network = network
        self._fleet = fleet
        self._turn = threading.Lock()  # who has it may build
        self._is_ended = threading.Event()
        self._ledger = ledger
        self._builder = builder
        self._budget = budget
        self._about = about
        # Of a GPU's step there is one thread.
        self._shared = network.manifest.target.device == "cpu" and about.get("threads", "1") != "1"
        self._show = show
        shape = network.manifest.frame.shape[1:]
        self._frames = np.random.default_rng(0).standard_normal((DIFFERENT_FRAMES, *shape), np.float32)
        self._tolerance = network.program.precision.tolerance
        self._step_ms = self._undisturbed_ms = 0.0
        self._kernels = 0
        self._history: list[tuple[float, float]] = []
        self._agenda = Agenda(())
        self._sizes: dict[str, LibrarySizes] = {}
        self._kernel_us: dict[str, float] = {}

    def run(self, pattern: str = "*") -> Tuned:
        """Tune the kernels whose names fit a pattern.

        Raises
        ------
        TuneError
            No kernel fits, or the records cannot be written.
        TsmEdgeError
            The device fails.
        """
        self._tell("timing the rules' kernels")
        of_rules = self._builder.build([])
        microseconds = self._kernel_times(of_rules)
        kernels = kernels_to_tune(self._network, microseconds, pattern)
        self._kernels = len(kernels)
        found = candidates(self._network, kernels, self._about, microseconds)
        everything = {one.blank.candidate: one for one in found}
        self._kernel_us = {one.blank.key: one.kernel_us for one in everything.values()}
        known = self._best_known()
        self._agenda = Agenda(everything.values(), known.values(), self._first)
        had_failed = self._failed()
        self._measure_all(self._agenda, self._try, SEARCH_SHARE)
        self._measure_all(InTurn(self._finalists(everything)), self._try_again, FINALS_SHARE)
        new = [record for name, record in self._best_known().items() if name not in known]
        tried = [record for record in new if not record.failed]
        accepted, parted = self._winners()
        library = self._builder.build([self._with(accepted)]) if accepted else of_rules
        whole = self._whole_step(library) if accepted else None
        step = self._step_with_threads(library, is_tuned=whole is not None and whole.high < 1.0)
        tuned = Tuned(
            accepted=accepted,
            whole=whole,
            threads=step.record,
            step_ms=self._step_ms,
            tried=len(tried),
            kernels=len(kernels),
            wrong=sum(record.ratio is None for record in tried),
            history=tuple(self._history),
            failed=self._failed() - had_failed,
            with_threads=step.against_rules,
            refused=step.refused,
        )
        threads = () if step.record is None else (step.record,)
        self._ledger.finish(accepted if tuned.is_faster else (), threads, parted if tuned.is_faster else ())
        return tuned

    def known(self) -> list[Record]:
        """What the ledger has of this run's kernels, against what this version of the rules chooses."""
        version = rules_version(self._network.manifest.target.device)
        return [one for one in self._ledger.records if one.key in self._kernel_us and one.rules == version]

    def _best_known(self) -> dict[str, Record]:
        return best_measured(self.known())

    def _failed(self) -> int:
        """Candidates in which a board failed, ever."""
        return sum(record.failed for record in self._best_known().values())

    def _kernel_times(self, of_rules: TrialLibrary) -> dict[tuple[str, ...], float]:
        """Microseconds of the rules' kernels, by the names of their layers."""
        timings = self._fleet.run_on_any(of_rules.artifact, self._timed)
        kernels = timings.kernels_ns
        if kernels is None or kernels.shape[1] != len(self._network.program.calls):
            raise TuneError("the device does not time its kernels", "serve with: tsm-edge serve")
        self._step_ms = float(np.median(timings.duration_ns)) / 1e6
        self._undisturbed_ms = float(np.min(timings.duration_ns)) / 1e6
        by_label: dict[str, float] = {}
        for call, us in zip(self._network.program.calls, undisturbed_us(timings, self._shared), strict=True):
            by_label[call.layer] = by_label.get(call.layer, 0.0) + float(us)
        freedoms = self._network.freedoms
        return {free.layers: sum(by_label.get(label, 0.0) for label in free.call_labels) for free in freedoms}

    def _timed(self, runner: Runner) -> Timings:
        """Some frames of the rules' step; of a slow one fewer, for a board has half a minute to answer."""
        once = runner.measure(self._frames, 0, 1, kernels=True)
        step_s = float(once.duration_ns[0]) / 1e9
        count = max(FEWEST_FRAMES, min(TIMED_FRAMES, int(TIMED_S / step_s))) if step_s else TIMED_FRAMES
        return runner.measure(self._frames, 0, count, kernels=True)

    def _measure_all(self, waiting: Waiting, work: Callable[[Runner, Trial], None], until: float) -> None:
        """All boards together, until nothing is left or the budget's share is used up."""
        # Again, if a board that is left out has left something when the others were done.
        while waiting and self._budget.used < until:
            boards = self._fleet.boards
            with ThreadPoolExecutor(len(boards)) as pool:
                parts = [pool.submit(self._measure_on, board, waiting, work, until) for board in boards]
                try:
                    for done in as_completed(parts):
                        done.result()
                except BaseException:  # Ctrl-C, too: the boards end with the trial they are in
                    self._is_ended.set()
                    self._tell("ending with what is under way")
                    raise

    def _measure_on(self, board: Board, waiting: Waiting, work: Callable[[Runner, Trial], None], until: float) -> None:
        """One board's part."""

        def time_is_up() -> bool:
            return self._is_ended.is_set() or self._budget.used >= until

        sizes = self._sizes.setdefault(board.name, LibrarySizes())
        while waiting and not time_is_up():
            if not self._fleet.let_rest(board, time_is_up):
                return
            began_s = self._budget.clock()
            with self._turn:
                left_s = (until - self._budget.used) * self._budget.seconds
                share = math.ceil(len(waiting) / len(self._fleet.boards))  # so that boards end together
                if not (pairs := self._batch(waiting, min(sizes.next(left_s), share))):
                    return
                self._tell(f"{board.name}: trying {len(pairs)} candidate{'s' * (len(pairs) > 1)}")
                library = self._builder.build([program for _, program in pairs])
            trials = deque(
                Trial(candidate, self._entrant(number, program))
                for number, (candidate, program) in zip(library.numbers, pairs, strict=True)
                if number is not None
            )
            found = len(trials)
            goes_on = self._fleet.run_each(board, library.artifact, trials, work, time_is_up, self._lost)
            self._builder.discard(library)
            waiting.give_back(trial.candidate for trial in trials)
            sizes.took(found - len(trials), self._budget.clock() - began_s)
            if not goes_on:
                return

    def _batch(self, waiting: Waiting, count: int) -> list[tuple[Candidate, Program]]:
        """The next candidates that make a program."""
        pairs: list[tuple[Candidate, Program]] = []
        while waiting and len(pairs) < count:
            for candidate in waiting.take(count - len(pairs)):
                program = program_of(self._network, candidate)
                if program is not None:
                    pairs.append((candidate, program))
        return pairs

    def _try(self, runner: Runner, trial: Trial) -> None:
        """A heat; for what is not hopeless a longer race, which counts alone."""
        finish = self._race(runner, trial.entrant, HEAT)
        if finish.ratio is not None and finish.ratio.value < HOPELESS:
            finish = self._race(runner, trial.entrant, SEMIFINAL)
        record = _measured(trial.candidate, finish)
        self._ledger.append(record)
        self._agenda.learn(record)
        self._history.append((self._budget.seconds - self._budget.left_s, self._hoped()))

    def _try_again(self, runner: Runner, trial: Trial) -> None:
        self._ledger.append(_measured(trial.candidate, self._race(runner, trial.entrant, FINAL, FINALS_SHARE)))

    def _lost(self, trial: Trial) -> None:
        """Written down, so that no later run meets it again."""
        self._ledger.append(trial.candidate.blank)

    def _finalists(self, everything: Mapping[str, Candidate]) -> list[Candidate]:
        """The best of every kernel that are still to be measured anew, as a final has not been run before.

        Those that save most come first: there may not be time for all.
        """
        known = self.known()
        heats = best_measured(record for record in known if record.rounds < FINAL.fewest)
        over = {record.candidate for record in known if record.rounds >= FINAL.fewest}
        groups: dict[str, list[Record]] = {}
        for record in heats.values():
            if _median(record) < 1.0:
                groups.setdefault(record.key, []).append(record)
        found: list[Record] = []
        for group in groups.values():
            best = sorted(group, key=_median)[:FINALISTS]
            found += [record for record in best if _median(record) <= AS_GOOD * _median(best[0])]
        wanted = [record for record in found if record.candidate in everything and record.candidate not in over]

        return [everything[record.candidate] for record in sorted(wanted, key=self._saved_us, reverse=True)]

    def _winners(self) -> tuple[tuple[Record, ...], frozenset[str]]:
        """Of every kernel what was the fastest in its final, if that leaves no doubt; of this network's kernels.

        Also the keys of those whose layers do better in kernels of their own.
        """
        winners: dict[str, Record] = {}
        for record in self._best_known().values():
            known = winners.get(record.key)
            sure = record.rounds >= FINAL.fewest and record.ratio is not None and record.ratio[2] < 1.0
            if sure and (known is None or _median(record) < _median(known)):
                winners[record.key] = replace(record, accepted=True)
        parted = frozenset(key for key, one in winners.items() if self._better_apart(one, winners.values()))
        return tuple(winners[key] for key in sorted(winners.keys() - parted)), parted

    def _better_apart(self, record: Record, winners: Iterable[Record]) -> bool:
        """Whether the winners of a kernel's layers, each alone, save more than it."""
        if len(record.layers) == 1:
            return False
        apart = [other for other in winners if len(other.layers) == 1 and other.layers[0] in record.layers]
        return sum(map(self._saved_us, apart)) > self._saved_us(record)

    def _with(self, accepted: Sequence[Record]) -> Program:
        """The step with what was accepted."""
        return self._network.with_choices(self._network.recorded(accepted).choices)

    def _whole_step(self, library: TrialLibrary) -> Ratio | None:
        """The tuned step against that of the rules; None: it computes something else."""
        self._tell("measuring the whole step, tuned against untuned")
        until = WHOLE_SHARE if len(self._fleet.boards[0].ways) > 1 else 1.0
        if (number := library.numbers[0]) is None:
            return None

        def compared(runner: Runner) -> Finish:
            return self._race(runner, Entrant(number), WHOLE_STEP, until)

        return self._fleet.run_on_any(library.artifact, compared).ratio

    def _step_with_threads(self, library: TrialLibrary, is_tuned: bool) -> ThreadedStep:
        """How many threads the step is fastest with, if the board may choose; with them, tuned against untuned."""
        if len(self._fleet.boards[0].ways) < 2:
            return ThreadedStep()
        self._tell("measuring the step with more threads")
        program, until = (TUNED, THREADS_SHARE) if is_tuned else (BY_RULES, 1.0)
        best = self._fastest_threads(library.artifact, program, until)
        if best is None or not is_tuned:
            return ThreadedStep(self._thread_record(best))
        self._tell(f"measuring the whole step with {best.threads}, tuned against untuned")
        finish = self._fleet.run_on_any(
            library.artifact, lambda runner: self._race(runner, Entrant(TUNED), WHOLE_STEP), best.threads
        )
        against = finish.ratio
        if against is not None and against.value <= 1.0:
            return ThreadedStep(self._thread_record(best, against), against)
        how = "it is not faster" if against is not None else "it computes something else"
        with_them, best = best.threads, self._fastest_threads(library.artifact, BY_RULES, math.inf)
        return ThreadedStep(self._thread_record(best), against, f"with {with_them} {how}")

    def _fastest_threads(self, artifact: Artifact, program: int, until: float) -> ThreadFinish | None:
        """Of a program of a library; None: one thread, or there is no time left to begin."""
        if self._budget.used >= until:
            return None
        pace = THREADS.for_step(self._step_ms)
        ways, stop = self._fleet.boards[0].ways, lambda: self._budget.used > until
        best = fastest_threads(self._fleet, artifact, self._frames, ways, pace, stop, program)
        return None if best is None or best.ratio.high >= 1.0 else best

    def _thread_record(self, best: ThreadFinish | None, against_rules: Ratio | None = None) -> ThreadRecord | None:
        if best is None:
            return None
        network, ratio = self._network, best.ratio
        about = {name: text for name, text in self._about.items() if name != "threads"}
        about["step"] = "by the rules"
        if against_rules is not None:
            about["step"] = f"tuned, {told(against_rules)} of that by the rules with as many threads"
        return ThreadRecord(
            network=network_key(network.graph, network.layers, network.manifest.target, network.program.precision.name),
            threads=best.threads,
            ratio=(round(ratio.value, 4), round(ratio.low, 4), round(ratio.high, 4)),
            step_us=round(best.step_us, 1),
            about=about,
        )

    def _race(self, runner: Runner, entrant: Entrant, pace: Pace, until: float = 1.0) -> Finish:
        """Ends with a round where the budget's share is used up."""
        pace = pace.for_step(self._step_ms)

        def is_up() -> bool:
            return self._budget.used > until

        (finish,) = race(runner, self._frames, [entrant], pace, self._tolerance, is_up, self._shared)
        return finish

    def _entrant(self, number: int, program: Program) -> Entrant:
        own, base = differing_calls(program, self._network.program)
        return Entrant(number, tuple(own), tuple(base))

    def _hoped(self) -> float:
        """Time of the step over that by the rules, as if all that is best so far were proved so."""
        if not self._step_ms:
            return 1.0
        saved: dict[tuple[str, ...], float] = {}
        for record in self._best_known().values():
            saved[record.layers] = max(saved.get(record.layers, 0.0), self._saved_us(record))
        alone = {layers[0]: us for layers, us in saved.items() if len(layers) == 1}
        # Of two kernels that may be one, what that saves beyond the two.
        joined = {layers: us - sum(alone.get(layer, 0.0) for layer in layers) for layers, us in saved.items()}
        beyond = sum(max(0.0, us) for layers, us in joined.items() if len(layers) > 1)
        return 1.0 - (sum(alone.values()) + beyond) / 1e3 / self._undisturbed_ms

    def _saved_us(self, record: Record) -> float:
        """Microseconds of a step, by all kernels of the record's shape."""
        return 0.0 if record.ratio is None else (1.0 - record.ratio[0]) * self._kernel_us.get(record.key, 0.0)

    def _tell(self, doing: str) -> None:
        records = {name: record for name, record in self._best_known().items() if not record.failed}
        kernels = {record.key for record in records.values()}
        budget, hoped = self._budget, self._hoped()
        self._show(
            State(doing, len(records), len(kernels), self._kernels, self._step_ms, hoped, budget.used, budget.left_s)
        )


def _median(record: Record) -> float:
    return float("inf") if record.ratio is None else record.ratio[0]


def _measured(candidate: Candidate, finish: Finish) -> Record:
    ratio = finish.ratio
    return replace(
        candidate.blank,
        ratio=None if ratio is None else (round(ratio.value, 4), round(ratio.low, 4), round(ratio.high, 4)),
        rule_us=round(finish.base_us, 3),
        rounds=finish.rounds,
    )
