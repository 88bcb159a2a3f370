"""Files of records as sets: in order, merged, pruned, written whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from tsm_edge.compile.record_keys import rules_version
from tsm_edge.compile.records import Record, RecordFile
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.files.atomic import write_atomic


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sorted by kernel, the accepted record last: two files of the same records are the same."""
    return sorted(records, key=lambda found: (found.layers, found.key, found.accepted, found.line()))


def best_measured(records: Iterable[Record]) -> dict[str, Record]:
    """Of every candidate that was tried its record with the most rounds, the later of two alike.

    In which a board failed once, whatever was measured before, that is what counts.
    """
    best: dict[str, Record] = {}
    for record in records:
        known = best.get(record.candidate)
        if not record.accepted and (known is None or _rank(record) >= _rank(known)):
            best[record.candidate] = record
    return best


def _rank(record: Record) -> float:
    return math.inf if record.failed else record.rounds


def accepted_of(records: Iterable[Record]) -> list[Record]:
    """What is accepted: of a kernel the latest by the newest version of the rules."""
    by_version = sorted((record for record in records if record.accepted), key=lambda record: record.rules)
    return list({record.key: record for record in by_version}.values())


def newest_threads(records: Iterable[ThreadRecord]) -> list[ThreadRecord]:
    """Of a network the latest."""
    newest = {record.network: record for record in records}
    return [newest[network] for network in sorted(newest)]


def merged(files: Sequence[RecordFile]) -> RecordFile:
    """All that files have, once: where two accept something for a kernel, the later file's counts."""
    records = [record for file in files for record in file.records]
    threads = [record for file in files for record in file.threads]
    kept = in_order([*best_measured(records).values(), *accepted_of(records)])
    return RecordFile(tuple(kept), tuple(newest_threads(threads)), ())


def pruned(file: RecordFile) -> RecordFile:
    """What ``compile`` can use: accepted records of this version of the rules, and threads."""
    kept = [record for record in accepted_of(file.records) if record.rules == rules_version(record.device)]
    return RecordFile(tuple(in_order(kept)), tuple(newest_threads(file.threads)), ())


def write_records(path: Path, found: RecordFile) -> None:
    """Write a file of records, whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    lines = [record.line() for record in found.records] + [record.line() for record in found.threads]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode("utf-8"))
