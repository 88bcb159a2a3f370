"""``tsm-edge records``: files of tuning records, listed, merged, pruned."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cards import load_target, target_names
from tsm_edge.cli.group import CommandGroup
from tsm_edge.cli.output import json_option, note, print_json, print_table, warn
from tsm_edge.errors import CardError, TuneError

if TYPE_CHECKING:
    from tsm_edge.compile.records import Record, RecordFile
    from tsm_edge.compile.thread_record import ThreadRecord

_USED, _TRIAL = "uses it", "a trial"
_OTHER_CARD = "not used by a card here: another machine's, changed since, or a file of yours"
_FILES = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group("records", cls=CommandGroup)
def command() -> None:
    """List, merge and prune files of tuning records."""


@command.command("list", short_help="Show what was chosen for each kernel.")
@_FILES
@click.option("--all", "with_trials", is_flag=True, help="Also what was tried and not accepted.")
@json_option
def list_records(files: tuple[Path, ...], with_trials: bool, as_json: bool) -> None:
    """Show what files have: for each kernel what was chosen, and how its time compares with the rules'."""
    from tsm_edge.tune.record_sets import merged

    found = merged([_read(path) for path in files])
    shown = [record for record in found.records if with_trials or record.accepted]
    targets = _targets_by_fingerprint()
    if as_json:
        tables = [{**dataclasses.asdict(one), "compile": _use(one, targets)} for one in shown]
        print_json({"records": tables, "threads": found.threads, "trials": _trials(found)})
        return
    columns = ("kernel", "layer", "for", "choice", "of the rules' time", "95 %", "rules (µs)", "tuned on", "compile")
    optional = ("tuned on", "layer", "rules (µs)", "95 %")
    rows = [_row(record, targets) for record in shown]
    if rows:
        print_table("", columns, rows, optional)
    for record in found.threads:
        click.echo(_threads_line(record))
    accepted = sum(record.accepted for record in found.records)
    note(
        f"{accepted} accepted records, {len(found.threads)} of threads, {_trials(found)} trials that were not accepted"
    )
    unused = sum(_use(record, targets) not in (_USED, _TRIAL) for record in found.records)
    if unused:
        note(f"with the cards here compile does not use {unused} of them: tune again with: tsm-edge tune --target T")


@command.command("merge", short_help="Put the records of some files into one.")
@_FILES
@click.option(
    "-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="File of records to write."
)
def merge(files: tuple[Path, ...], output: Path) -> None:
    """Put all records of some files into one, sorted, each once.

    Where two files accept something for one kernel, the later file's counts.
    """
    from tsm_edge.tune.record_sets import merged

    _write(output, files, merged)


@command.command("prune", short_help="Keep only what compile can use.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="File to write.  [default: the same]"
)
def prune(file: Path, output: Path | None) -> None:
    """Keep what compile can use: accepted records of this version of the rules, and threads. Trials go.

    A file that has nothing of it stays as it is.
    """
    from tsm_edge.tune.record_sets import pruned

    def usable(found: Sequence[RecordFile]) -> RecordFile:
        kept = pruned(found[0])
        if not kept.records and not kept.threads:
            raise TuneError(
                f"{file}: compile can use none of its {len(found[0].records)} records, so none would be left",
                f"tune on: tsm-edge tune --continue -o {shlex.quote(str(file))}",
            )
        stale = sum(record.accepted for record in found[0].records) - len(kept.records)
        if stale:
            warn(f"{stale} accepted records are of another version of the rules, or came twice: left out")
        return kept

    _write(output or file, (file,), usable)


def _read(path: Path) -> RecordFile:
    from tsm_edge.compile.records import read_records

    found = read_records(path)
    if found.damaged:
        warn(f"{path}: {found.damage}")
    return found


def _write(output: Path, files: Sequence[Path], change: Callable[[Sequence[RecordFile]], RecordFile]) -> None:
    """Write what comes of some files. One of them that is written itself is held meanwhile: no tuner may add to it."""
    from tsm_edge.tune.ledger import Ledger
    from tsm_edge.tune.record_sets import write_records

    is_own = [path.resolve() == output.resolve() for path in files]
    if output.exists() and not any(is_own):
        raise TuneError(
            f"{output}: is there already, and none of the files", "name it, too, or choose another: -o FILE"
        )
    found = [None if own and output.exists() else _read(path) for path, own in zip(files, is_own, strict=True)]
    if any(is_own):
        with Ledger(output, True, warn) as ledger:
            made = change([ledger.content if one is None else one for one in found])
            ledger.replace(made)
    else:
        made = change([one for one in found if one is not None])
        try:
            write_records(output, made)
        except OSError as error:
            raise TuneError(f"{output}: cannot be written ({error.strerror})", "choose another file: -o FILE") from None
    note(f"{output}: {len(made.records)} records of kernels, {len(made.threads)} of threads")


def _trials(found: RecordFile) -> int:
    return sum(not record.accepted for record in found.records)


def _targets_by_fingerprint() -> dict[str, str]:
    from tsm_edge.compile.record_keys import card_fingerprint

    names: dict[str, str] = {}
    for name in target_names():
        try:
            names.setdefault(card_fingerprint(load_target(name)), name)
        except CardError:  # `native` where this machine cannot be detected
            continue
    return names


def _use(record: Record, targets: dict[str, str]) -> str:
    """Whether compile uses such a record, and why not."""
    from tsm_edge.compile.record_keys import rules_version

    version = rules_version(record.device)
    if not record.accepted:
        return _TRIAL
    if record.rules != version:
        return f"not used: version {record.rules} of the rules, not {version}"
    return _USED if record.card in targets else _OTHER_CARD


def _row(record: Record, targets: dict[str, str]) -> Sequence[object]:
    ratio = record.ratio
    return (
        record.about.get("layer", "-"),
        ", ".join(record.layers),
        f"{targets.get(record.card, 'another card')}, {record.precision}",
        ", ".join(str(choice["rule"]) for choice in record.choices) + ("" if record.accepted else " (not accepted)"),
        "the board failed" if record.failed else "wrong" if ratio is None else f"{ratio[0]:.3f}",
        "-" if ratio is None else f"{ratio[1]:.3f} to {ratio[2]:.3f}",
        f"{record.rule_us:.1f}",
        f"{record.about.get('machine', '-')}, {record.about.get('date', '-')}",
        _use(record, targets),
    )


def _threads_line(record: ThreadRecord) -> str:
    median, low, high = record.ratio
    step = f"; the step {record.about['step']}" if "step" in record.about else ""
    return (
        f"{record.about.get('model', '-')}: {record.threads}, {median:.3f} of one thread's time "
        f"(95 %: {low:.3f} to {high:.3f}){step}"
    )
