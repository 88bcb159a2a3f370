"""What tuning records make of a network: choices for its kernels, and threads for its step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.cards import TargetCard, shipped_records
from tsm_edge.cards.precision import Precision
from tsm_edge.cards.threads import Threads
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import Quantisation
from tsm_edge.compile.record_keys import card_fingerprint, key_of, network_key, rules_version, signature
from tsm_edge.compile.records import Record, read_records
from tsm_edge.errors import CompileError


@dataclass(frozen=True)
class Recorded:
    """What records give for a network.

    Attributes
    ----------
    choices : Choices
    covered : int
        Kernels of the rules that have a record.
    stale : int
        Records for its kernels that the rules of this version cannot follow.
    threads : Threads or None
        What its step is fastest with; None: there is no record.
    """

    choices: Choices
    covered: int
    stale: int
    threads: Threads | None = None


NO_RECORDS = Recorded(Choices(), 0, 0)


def recorded_choices(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    records: Iterable[Record],
    quantisation: Quantisation | None = None,
) -> Recorded:
    """The choices that the accepted records make for a network's kernels; of two records the later one counts.

    One of another version of the rules counts only where there is none of this one. ``quantisation`` is that of a
    network in integers.
    """
    card, version = card_fingerprint(target), rules_version(target.device)
    accepted = (record for record in records if record.accepted and record.device == target.device)
    best = {record.key: record for record in sorted(accepted, key=lambda record: record.rules == version)}
    names = ir.layer_names(graph, layers)
    chosen: list[Choice] = []
    covered = stale = 0
    done: set[str] = set()
    for of_unit in _kernels_of_rules(graph, layers, target, precision, quantisation):
        record = best.get(key_of([signature(graph, layer) for layer in of_unit], card, precision.name))
        own = [names[layer.output] for layer in of_unit]
        if record is None or not done.isdisjoint(own):
            continue
        try:
            chosen += choices_of(record, own)
            covered += 1
            done.update(own)
        except CompileError:
            stale += 1
    return Recorded(Choices(tuple(chosen)), covered, stale)


def _kernels_of_rules(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    quantisation: Quantisation | None,
) -> Iterator[tuple[ir.Layer, ...]]:
    """The layers of each kernel that the rules would make; before them, those of two that may be one."""
    if target.gpu is not None:
        from tsm_edge.compile.backends.cuda.lower import walked
        from tsm_edge.compile.backends.cuda.space import groups

        names = ir.layer_names(graph, layers)
        by_name = {names[layer.output]: layer for layer in layers}
        lowering, _ = walked(graph, layers, target, precision, Choices())
        for kernels in groups(lowering, layers):
            yield tuple(by_name[name] for kernel in kernels for name in kernel.layers)
        return
    from tsm_edge.compile.backends.cpu.core import Core
    from tsm_edge.compile.backends.cpu.int8 import plan as int8
    from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
    from tsm_edge.compile.backends.cpu.plan import layers_of, plan_units

    if quantisation is None:
        yield from map(layers_of, plan_units(graph, layers, Core(target.cpu, precision.storage), Choices()))
    else:
        at = ByteLowering(graph, layers, target, quantisation, Choices())
        yield from map(layers_of, int8.plan_units(at, layers, Choices()))


def recorded_for(
    target: TargetCard,
    precision: Precision,
    files: Sequence[Path] | None,
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    warn: Callable[[str], None],
    quantisation: Quantisation | None = None,
) -> Recorded:
    """What some files give for a network, or those that come with the target's card.

    Parameters
    ----------
    files : sequence of Path or None
        Where two have a record for a kernel, the later file's counts; None: those that come with the card.
    warn : callable
        Is told of damaged lines, of records of another version, and of files that have nothing for this network.
    quantisation : Quantisation or None
        Of a network in integers.

    Raises
    ------
    TuneError
        A file cannot be read.
    """
    shipped = shipped_records(target.name)
    records: list[Record] = []
    threads: dict[str, Threads] = {}
    for path in ([shipped] if shipped else []) if files is None else files:
        found = read_records(path)
        records += found.records
        threads.update((record.network, record.threads) for record in found.threads)
        if found.damaged:
            warn(f"{path}: {found.damage}")
    recorded = NO_RECORDS
    # Without records there is nothing to look up: most compilations.
    if records or threads:
        recorded = recorded_choices(graph, layers, target, precision, records, quantisation)
        advised = threads.get(network_key(graph, layers, target, precision.name)) if threads else None
        recorded = dataclasses.replace(recorded, threads=advised)
    if recorded.stale:
        warn(f"{recorded.stale} tuning records are of another version of the rules: tune again with tsm-edge tune")
    if files and not recorded.covered and recorded.threads is None:
        names = ", ".join(str(path) for path in files)
        warn(f"{names}: no record is for this network on {target.name} in {precision.name}")
    return recorded


def choices_of(record: Record, names: Sequence[str]) -> tuple[Choice, ...]:
    """A record's choices for layers of these names.

    Raises
    ------
    CompileError
        It is of another version of the rules, or they do not understand it.
    """
    version = rules_version(record.device)
    if record.rules != version:
        raise CompileError(
            f"a record is of version {record.rules} of the rules, this is {version}", "tune again: tsm-edge tune"
        )
    try:
        tables = [{**table, "layers": [names[number] for number in table["layers"]]} for table in record.choices]
    except (KeyError, TypeError, IndexError):
        raise CompileError("a record names layers that are not there", "tune again: tsm-edge tune") from None
    return Choices.from_tables(tables, _settings_of_rules(record.device)).kernels


def _settings_of_rules(device: str) -> dict[str, type | None]:
    """Rule → the type of what it chooses; None: it has nothing to choose."""
    from tsm_edge.compile.backends.cpu import rules as cpu
    from tsm_edge.compile.backends.cpu.int8.rules import SETTINGS
    from tsm_edge.compile.backends.cuda import rules as cuda

    return cuda.settings_of_rules() if device == "cuda" else {**cpu.settings_of_rules(), **SETTINGS}


def tables_of(choices: Iterable[Choice], names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Choices as a record has them; the inverse of :func:`choices_of`."""
    return tuple({**choice.to_table(), "layers": [names.index(name) for name in choice.layers]} for choice in choices)
