"""How far a long job is: what is done now, and the share of the job that usually lies behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# What is being done, and the share of the whole that is done already, 0 to 1.
Progress = Callable[[str, float], None]


def silent(text: str, done: float) -> None:
    """Tell nobody."""


class Stages:
    """Tells of stages as they begin.

    Parameters
    ----------
    progress : callable
    usual_s : mapping of str to float
        The stages of this job in their order, with the seconds each usually takes somewhere: only ratios count.
    """

    def __init__(self, progress: Progress, usual_s: Mapping[str, float]) -> None:
        self._progress = progress
        self._usual_s = usual_s

    def begin(self, name: str, text: str) -> None:
        """Say that a stage begins, and what it does."""
        names = list(self._usual_s)
        before_s = sum(self._usual_s[earlier] for earlier in names[: names.index(name)])
        self._progress(text, before_s / sum(self._usual_s.values()))
