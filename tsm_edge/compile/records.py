"""Tuning records: what was measured to be faster than the rules' choice, a JSON line each.

A record is of a kernel's layers by their shapes, not of a network, so another network with such layers uses it, too.
It holds for one card, one precision and one version of the rules. Lines end with a checksum: a line that was cut off is
known as such.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tsm_edge.compile.record_keys import key_of
from tsm_edge.compile.record_lines import hashed, opened, ratio_from, sealed
from tsm_edge.compile.thread_record import ThreadRecord, thread_record
from tsm_edge.errors import TuneError

_MOST_NAMED = 5


@dataclass(frozen=True)
class Record:
    """One measured candidate.

    Attributes
    ----------
    accepted : bool
        It was measured again and is faster beyond doubt; else it is only what was tried.
    layers : tuple of str
        The layers of the kernel that the rules would make, by :func:`signature`.
    card : str
        :func:`card_fingerprint`.
    precision : str
    rules : int
        Version of the rules.
    choices : tuple of mapping
        As :meth:`tsm_edge.compile.ir.choices.Choice.to_table`, the layers by their numbers; for the same layers, in
        one kernel or several.
    ratio : tuple of float or None
        Its time over that of the rules' kernel: median, and its 95 % interval; None: it computed something else, or
        the board failed in it.
    rule_us : float
        Microseconds of the rules' kernel.
    rounds : int
        How often each of the two was timed: of two records of a candidate the one with more rounds is the better one.
        0: the board failed in it (:attr:`failed`).
    about : mapping of str to str
        Machine, date, versions, and the name of a layer, for people.
    device : str
        Whose rules: ``cpu`` or ``cuda``.
    """

    accepted: bool
    layers: tuple[str, ...]
    card: str
    precision: str
    rules: int
    choices: tuple[dict[str, Any], ...]
    ratio: tuple[float, float, float] | None
    rule_us: float
    rounds: int
    about: dict[str, str]
    device: str = "cpu"

    @cached_property
    def key(self) -> str:
        """Of what it is a record for."""
        return key_of(self.layers, self.card, self.precision)

    @cached_property
    def candidate(self) -> str:
        """Of what was tried for it, against what this version of the rules chooses."""
        return hashed([self.key, self.rules, list(self.choices)])

    @property
    def failed(self) -> bool:
        """The board failed in it, hung or crashed: it is not to be tried again."""
        return self.ratio is None and not self.rounds

    def line(self) -> str:
        """As a line of a file."""
        return sealed(dataclasses.asdict(self))


def parse_line(line: str) -> Record | ThreadRecord:
    """Read :meth:`Record.line` or :meth:`ThreadRecord.line` back.

    Raises
    ------
    ValueError
        It is none, was cut off, or is of another format.
    """
    table = opened(line)
    try:
        return thread_record(table) if "threads" in table else _kernel_record(table)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{error} is missing or wrong") from None


def _kernel_record(table: Mapping[str, Any]) -> Record:
    return Record(
        accepted=bool(table["accepted"]),
        layers=tuple(map(str, table["layers"])),
        card=str(table["card"]),
        precision=str(table["precision"]),
        rules=int(table["rules"]),
        choices=tuple(table["choices"]),
        ratio=ratio_from(table["ratio"]),
        rule_us=float(table["rule_us"]),
        rounds=int(table["rounds"]),
        about=dict(table["about"]),
        device=str(table.get("device", "cpu")),
    )


@dataclass(frozen=True)
class RecordFile:
    """What a file has.

    Attributes
    ----------
    records : tuple of Record
        Of kernels.
    threads : tuple of ThreadRecord
    damaged : tuple of int
        Numbers, from 1, of the lines that are no whole records.
    """

    records: tuple[Record, ...]
    threads: tuple[ThreadRecord, ...]
    damaged: tuple[int, ...]

    @property
    def damage(self) -> str:
        """For people; empty: there is none."""
        if len(self.damaged) < 2:
            return "".join(f"line {number} is damaged and not used" for number in self.damaged)
        more = len(self.damaged) - _MOST_NAMED
        named = ", ".join(map(str, self.damaged[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
        return f"lines {named} are damaged and not used"


def read_records(path: Path) -> RecordFile:
    """Read a file of records; what is damaged is left out, and told.

    Raises
    ------
    TuneError
        It cannot be read, or has no record at all.
    """
    try:
        # A line may end within a letter; only a newline ends one that does not.
        lines = path.read_text("utf-8", "replace").removesuffix("\n").split("\n")
    except OSError as error:
        raise TuneError(f"{path}: cannot be read ({error.strerror})", "make records with: tsm-edge tune") from None
    records: list[Record] = []
    threads: list[ThreadRecord] = []
    damaged: list[int] = []
    for number, line in enumerate(lines if any(lines) else (), 1):
        try:
            found = parse_line(line)
        except ValueError:
            damaged.append(number)
            continue
        if isinstance(found, ThreadRecord):
            threads.append(found)
        else:
            records.append(found)
    if damaged and not (records or threads):
        raise TuneError(f"{path}: not a file of tuning records", "make records with: tsm-edge tune")
    return RecordFile(tuple(records), tuple(threads), tuple(damaged))
