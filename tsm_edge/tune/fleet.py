"""Boards of one kind that work together: one that fails is tried once more, then left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from tsm_edge.artifact.folder import Artifact
from tsm_edge.errors import TsmEdgeError, TuneError
from tsm_edge.tune.boards import Board
from tsm_edge.tune.race import Runner

_T = TypeVar("_T")


class Fleet:
    """Some boards.

    Parameters
    ----------
    boards : sequence of Board
        At least one.
    notify : callable
        Is told in a line when a board fails.
    """

    def __init__(self, boards: Sequence[Board], notify: Callable[[str], None] = lambda text: None) -> None:
        self._boards = list(boards)
        self._notify = notify

    @property
    def boards(self) -> tuple[Board, ...]:
        """Those that have not been left out."""
        return tuple(self._boards)

    def run(self, board: Board, artifact: Artifact, work: Callable[[Runner], _T]) -> _T | None:
        """Load a trial library on a board and work with it; once more, with a new connection, if the board fails.

        Returns
        -------
        object
            What ``work`` returns; None: the board failed twice and is left out now.

        Raises
        ------
        TuneError
            It was the last one.
        """
        problem: TsmEdgeError | None = None
        for attempt in ("once more", "left out"):
            try:
                with closing(board.open(artifact)) as runner:
                    return work(runner)
            except TsmEdgeError as error:
                problem = error
                self._notify(f"{board.name}: {error.problem}; {attempt}")
        self._boards.remove(board)
        if not self._boards:
            said = problem.problem if problem is not None else "it failed"
            raise TuneError(f"no board is left to measure on: {said}", "see to it, then go on with: --continue")
        return None

    def run_on_any(self, artifact: Artifact, work: Callable[[Runner], _T]) -> _T:
        """As :meth:`run`, on the first board that can.

        Raises
        ------
        TuneError
            None can.
        """
        while True:
            if (done := self.run(self._boards[0], artifact, work)) is not None:
                return done
