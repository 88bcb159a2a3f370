"""Words of another machine, or of TVM, as they may stand in one line of output."""

from __future__ import annotations


def last_line(text: str) -> str:
    """What went wrong, of an error message with a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception")) and ":" in line]
    # The outermost wrapper says only that an RPC call failed.
    told = [line for line in named if not line.endswith("Error caught from RPC call:")]
    return printable((told or lines or ["an error without a message"])[-1])


def printable(text: str, most: int = 500) -> str:
    """Another machine's words as they may stand in one line: at most so many characters, all of which print."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:most])
    return shown if len(text) <= most else f"{shown} ..."
