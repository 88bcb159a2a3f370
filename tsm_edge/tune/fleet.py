"""Boards of one kind that work together: one that fails twice in a row is left out."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import TsmEdgeError, TuneError
from tsm_edge.tune.boards import Board
from tsm_edge.tune.race import Runner

_T = TypeVar("_T")
_FAILURES = 2
# A look at a throttled board every so often; how long it may rest at once, and in all.
A_REST_S, LONGEST_REST_S, ALL_RESTS_S = 5.0, 60.0, 120.0


class Fleet:
    """Some boards.

    Parameters
    ----------
    boards : sequence of Board
        At least one.
    notify : callable
        Is told in a line when a board fails, or has to rest.
    sleep : callable
        Waits for seconds.
    """

    def __init__(
        self,
        boards: Sequence[Board],
        notify: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._boards = list(boards)
        self._notify = notify
        self._sleep = sleep
        self._one_at_a_time = threading.Lock()
        self._rested_s: defaultdict[str, float] = defaultdict(float)
        self._rests_no_more: set[str] = set()

    @property
    def boards(self) -> tuple[Board, ...]:
        """Those that have not been left out."""
        return tuple(self._boards)

    def let_rest(self, board: Board, stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until a board that is throttled is so no more: a minute at most, for some are all the time.

        One that has rested for long in all and is throttled again is left out, if there are others; else it goes on.

        Returns
        -------
        bool
            Whether the board goes on.
        """
        rested_s = 0.0
        while rested_s < LONGEST_REST_S and board.name not in self._rests_no_more and not stop():
            try:
                reasons = board.held_back()
            except TsmEdgeError:  # it will fail where that counts
                return True
            if not reasons:
                return True
            if self._rested_s[board.name] >= ALL_RESTS_S:
                self._rests_no_more.add(board.name)
                return not self._left_out(board, f"{board.name}: {', '.join(reasons)}, and rests have not helped")
            if not rested_s:
                self._notify(f"{board.name}: {', '.join(reasons)}: it rests")
            self._sleep(A_REST_S)
            rested_s += A_REST_S
            self._rested_s[board.name] += A_REST_S
        return True

    def _left_out(self, board: Board, why: str) -> bool:
        """Leave a throttled board out, if it is not the last one; say so."""
        with self._one_at_a_time:
            others = len(self._boards) > 1
            if others:
                self._boards.remove(board)
        self._notify(f"{why}: {'left out' if others else 'it goes on, and candidates are told apart less well'}")
        return others

    def run_each(
        self,
        board: Board,
        artifact: Artifact,
        jobs: deque[_T],
        work: Callable[[Runner, _T], None],
        stop: Callable[[], bool] = lambda: False,
        lost: Callable[[_T], None] = lambda job: None,
    ) -> bool:
        """Load a trial library on a board, and do jobs with it until there are none, or ``stop`` says so.

        A job in which the board fails is lost, and ``lost`` is told: it may be what makes it fail. With a new
        connection the next one is begun. A board that fails twice in a row is left out; what it did not come to stays
        in ``jobs``.

        Returns
        -------
        bool
            Whether the board goes on.

        Raises
        ------
        TuneError
            It was the last one, or what a job found cannot be written down.
        """
        failures = 0
        while jobs and not stop():
            under_way: list[_T] = []
            try:
                with closing(board.open(artifact, None)) as runner:
                    while jobs and not stop():
                        under_way = [jobs.popleft()]
                        work(runner, *under_way)
                        under_way, failures = [], 0
            except TuneError:
                raise
            except TsmEdgeError as error:
                for job in under_way:
                    lost(job)
                failures += 1
                self._failed(board, error, failures)
            if failures == _FAILURES:
                return False
        return True

    def run_on_any(self, artifact: Artifact, work: Callable[[Runner], _T], threads: Threads | None = None) -> _T:
        """Load a library on the first board that can, and work with it; once more, with a new connection, if it fails.

        Parameters
        ----------
        artifact : Artifact
        work : callable
        threads : Threads or None
            Of a step; None: as the board was opened with.

        Returns
        -------
        object
            What ``work`` returns.

        Raises
        ------
        TuneError
            No board can.
        """
        failures = 0
        while True:
            board = self._boards[0]
            try:
                with closing(board.open(artifact, threads)) as runner:
                    return work(runner)
            except TuneError:
                raise
            except TsmEdgeError as error:
                failures = failures % _FAILURES + 1
                self._failed(board, error, failures)

    def _failed(self, board: Board, error: TsmEdgeError, failures: int) -> None:
        """Say so, and leave it out where it has failed too often."""
        self._notify(f"{board.name}: {error.problem}; {'left out' if failures == _FAILURES else 'once more'}")
        if failures < _FAILURES:
            return
        with self._one_at_a_time:
            self._boards.remove(board)
        if not self._boards:
            raise TuneError(
                f"no board is left to measure on: {error.problem}", "see to it, then go on with: --continue"
            )
