"""Reading what the files of a kernel say, which may be missing or nonsense."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

# Text by path, as System.gather gives it.
Files = Mapping[str, str]


def text_of(files: Files, path: str) -> str:
    """A file's text without the NUL bytes that end strings of a device tree; empty if there is none."""
    return files.get(path, "").replace("\0", "").strip()


def number_of(files: Files, path: str) -> float | None:
    """A file's number; None if there is none."""
    return to_number(text_of(files, path))


def to_number(text: str) -> float | None:
    """A decimal number; None if it is none."""
    return float(text) if re.fullmatch(r"[+-]?\d{1,15}(\.\d{1,9})?", text, re.ASCII) else None


def to_cpus(text: str) -> tuple[int, ...]:
    """The numbers of CPUs in a list of the kernel, ``0-3,6`` or ``0 1 2 3``; empty if it is none."""
    numbers: list[int] = []
    for part in re.split(r"[\s,]+", text.strip()):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        if found is None:
            return ()
        numbers.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(numbers)


def shown_cpus(cpus: tuple[int, ...]) -> str:
    """The list as the kernel writes it: ``0-3,6``."""
    runs: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def ask(run: Callable[..., str], program: str, *arguments: str) -> str:
    """What a program of the machine says; empty if it is not there, or fails."""
    with contextlib.suppress(OSError):
        return run(program, *arguments)
    return ""


def folders(files: Files, pattern: str) -> list[str]:
    """The folders of the files whose paths match a pattern, sorted by the numbers in their names."""
    found = {path.rpartition("/")[0] for path in files if re.fullmatch(pattern, path)}
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])
