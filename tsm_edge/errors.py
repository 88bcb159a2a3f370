"""The errors tsm-edge raises on purpose.

Each message is one line that names the thing, says what was expected, and gives the next command to try.
The command line prints it without a traceback and exits with :attr:`TsmEdgeError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

_LONGEST_NAME = 60
_LONGEST_TEXT = 120


class TsmEdgeError(Exception):
    """Base of everything a user can cause.

    Parameters
    ----------
    problem : str
        What is wrong, naming the thing (a file, a card, a device) and the expectation.
    hint : str
        The next command or step to try.
    """

    exit_code = 2

    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(f"{problem}; {hint}")


class TextFileError(TsmEdgeError):
    """A text that a person edits (a card, labels, a key) cannot be read."""


class CardError(TsmEdgeError):
    """A model or target card is unknown, malformed or inconsistent."""


class CheckpointError(TsmEdgeError):
    """A checkpoint cannot be read, or does not fit the network it was given for."""


class ModelFileError(TsmEdgeError):
    """An ONNX file cannot be used as an online TSM model."""


class CompileError(TsmEdgeError):
    """A model cannot be compiled or linked for a target."""


class ArtifactError(TsmEdgeError):
    """A compiled artifact is missing, damaged, or unfit for this machine."""


class VideoError(TsmEdgeError):
    """A video file, stream or camera cannot be opened or decoded."""


class RpcError(TsmEdgeError):
    """A device's server cannot be reached, or fails."""


class DeployError(TsmEdgeError):
    """A compiled model cannot be copied to a device, or does not fit it."""


class PowerError(TsmEdgeError):
    """A power sensor is not there, cannot be read, or reads what cannot be true."""


class BenchError(TsmEdgeError):
    """A measurement cannot begin, or cannot be believed."""


class PageError(TsmEdgeError):
    """The page cannot be served where asked."""


class EventError(TsmEdgeError):
    """Rules of events cannot be used, or events cannot go where they were asked to."""


class ServiceError(TsmEdgeError):
    """The system's service cannot be written or removed."""


class TuneError(TsmEdgeError):
    """Nothing can be tuned, or a file of records cannot be used."""


class CheckFailed(TsmEdgeError):
    """A comparison the user asked for found a mismatch (exit code 1)."""

    exit_code = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return one line for an unknown name: the closest match if there is one, and all known names."""
    names = sorted(known)
    close = closest(name, names)
    guess = "" if close is None else f" (did you mean {close!r}?)"
    cut = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    return f"unknown {kind} {cut!r}{guess}: known are {', '.join(names) or 'none'}"


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that a slip of the fingers is least away from; None: nothing is alike."""
    name = name[:_LONGEST_NAME]
    alike = difflib.get_close_matches(name, known, n=max(1, len(known)))
    return min(alike, key=lambda other: _edits(name, other), default=None)


def _edits(one: str, other: str) -> int:
    """Characters to insert, leave out or replace."""
    row = list(range(len(other) + 1))
    for index, character in enumerate(one):
        above, row = row, [index + 1]
        for column, wanted in enumerate(other):
            row.append(min(above[column] + (character != wanted), above[column + 1] + 1, row[column] + 1))
    return row[-1]


def shortened(text: str) -> str:
    """One line of it, not long, of characters that can be printed: for what comes from outside."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"
