"""How many candidates a library should have: few at first, then as many as time allows."""

from __future__ import annotations

FIRST, MOST = 6, 24
# Of the time that is left, a library may take this share: then what it teaches helps to choose the later ones. A small
# one may take more: what each costs beside its candidates counts then.
A_SHARE, A_SMALL_ONES = 1 / 6, 1 / 2


class LibrarySizes:
    """Follows how long libraries take, to compile, to bring to a board and to measure.

    Attributes
    ----------
    seconds_each : float
        Of a candidate, in the last library; 0: there was none.
    """

    def __init__(self) -> None:
        self.seconds_each = 0.0
        self._last = 0

    def next(self, left_s: float) -> int:
        """Candidates of the next library: at most twice as many as the last one had; ``left_s``: for all of them."""
        if not self._last:
            return FIRST
        in_time = left_s / self.seconds_each if self.seconds_each else MOST / A_SHARE
        wanted = max(A_SHARE * in_time, min(A_SMALL_ONES * in_time, FIRST))
        return int(max(1, min(wanted, 2 * self._last, MOST)))

    def took(self, candidates: int, seconds: float) -> None:
        """A library with so many candidates is done; of one that was broken off, those that were measured."""
        if candidates:
            self.seconds_each, self._last = seconds / candidates, candidates
