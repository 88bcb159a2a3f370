"""Tuning records: what was measured to be faster than the rules' choice, a JSON line each.

A record is of a kernel's layers by their shapes, not of a network, so another network with such layers uses it, too.
It holds for one card, one precision and one version of the rules. Lines end with a checksum: a line that was cut off is
known as such.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.cards import TargetCard, shipped_records
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cpu import rules
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.errors import CompileError, TuneError

FORMAT = 1
_SUM = "sum"


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
        Its time over that of the rules' kernel: median, and its 95 % interval; None: it computed something else.
    rule_us : float
        Microseconds of the rules' kernel.
    about : mapping of str to str
        Machine, date, versions, and the name of a layer, for people.
    """

    accepted: bool
    layers: tuple[str, ...]
    card: str
    precision: str
    rules: int
    choices: tuple[dict[str, Any], ...]
    ratio: tuple[float, float, float] | None
    rule_us: float
    about: dict[str, str]

    @property
    def key(self) -> str:
        """Of what it is a record for."""
        return key_of(self.layers, self.card, self.precision)

    @property
    def candidate(self) -> str:
        """Of what was tried for it."""
        return _hash([self.key, list(self.choices)])

    def line(self) -> str:
        """As a line of a file."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True, ensure_ascii=False)
        return f'{text[:-1]}, "{_SUM}": "{_hash(text)}"}}'


def parse_line(line: str) -> Record:
    """Read :meth:`Record.line` back.

    Raises
    ------
    ValueError
        It is none, was cut off, or is of another format.
    """
    text, separator, end = line.rpartition(f', "{_SUM}": "')
    if not separator or end != f'{_hash(text + "}")}"}}':
        raise ValueError("its checksum is not that of its content")
    table = json.loads(text + "}")
    if table.pop("format") != FORMAT:
        raise ValueError("it is of another format")
    try:
        return Record(
            accepted=bool(table["accepted"]),
            layers=tuple(map(str, table["layers"])),
            card=str(table["card"]),
            precision=str(table["precision"]),
            rules=int(table["rules"]),
            choices=tuple(table["choices"]),
            ratio=_ratio(table["ratio"]),
            rule_us=float(table["rule_us"]),
            about=dict(table["about"]),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{error} is missing or wrong") from None


def _ratio(value: Any) -> tuple[float, float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]), float(value[2]))


@dataclass(frozen=True)
class RecordFile:
    """What a file has.

    Attributes
    ----------
    records : tuple of Record
    damaged : tuple of int
        Numbers, from 1, of the lines that are no whole records.
    """

    records: tuple[Record, ...]
    damaged: tuple[int, ...]


def read_records(path: Path) -> RecordFile:
    """Read a file of records; what is damaged is left out, and told.

    Raises
    ------
    TuneError
        It cannot be read, or has no record at all.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"{path}: cannot be read ({error})", "make records with: tsm-edge tune") from None
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse_line(line))
        except ValueError:
            damaged.append(number)
    if lines and not records:
        raise TuneError(f"{path}: not a file of tuning records", "make records with: tsm-edge tune")
    return RecordFile(tuple(records), tuple(damaged))


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
    """

    choices: Choices
    covered: int
    stale: int


def recorded_choices(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    records: Iterable[Record],
) -> Recorded:
    """The choices that the accepted records make for a network's kernels; of two records the later one counts."""
    from tsm_edge.compile.backends.cpu.core import Core
    from tsm_edge.compile.backends.cpu.plan import layers_of, plan_units

    card = card_fingerprint(target)
    best = {record.key: record for record in records if record.accepted}
    names = ir.layer_names(graph, layers)
    chosen: list[Choice] = []
    covered = stale = 0
    for unit in plan_units(graph, layers, Core(target.cpu, precision.storage), Choices()):
        of_unit = layers_of(unit)
        record = best.get(key_of([signature(graph, layer) for layer in of_unit], card, precision.name))
        if record is None:
            continue
        try:
            chosen += choices_of(record, [names[layer.output] for layer in of_unit])
            covered += 1
        except CompileError:
            stale += 1
    return Recorded(Choices(tuple(chosen)), covered, stale)


def recorded_for(
    target: TargetCard,
    precision: Precision,
    files: Sequence[Path] | None,
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    warn: Callable[[str], None],
) -> Recorded:
    """What some files give for a network, or those that come with the target's card.

    Parameters
    ----------
    files : sequence of Path or None
        Where two have a record for a kernel, the later file's counts; None: those that come with the card.
    warn : callable
        Is told of damaged lines, of records of another version, and of files that have nothing for this network.

    Raises
    ------
    TuneError
        A file cannot be read.
    """
    shipped = shipped_records(target.name)
    records: list[Record] = []
    for path in ([shipped] if shipped else []) if files is None else files:
        found = read_records(path)
        records += found.records
        if found.damaged:
            warn(f"{path}: line {', '.join(map(str, found.damaged))} is damaged and not used")
    tunable = target.device == "cpu" and precision.storage != "int8"
    # Without records there is nothing to look up: most compilations.
    recorded = (
        recorded_choices(graph, layers, target, precision, records)
        if records and tunable
        else Recorded(Choices(), 0, 0)
    )
    if recorded.stale:
        warn(f"{recorded.stale} tuning records are of another version of the rules: tune again with tsm-edge tune")
    if files and not recorded.covered:
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
    if record.rules != rules.VERSION:
        raise CompileError(
            f"a record is of version {record.rules} of the rules, this is {rules.VERSION}", "tune again: tsm-edge tune"
        )
    try:
        tables = [{**table, "layers": [names[number] for number in table["layers"]]} for table in record.choices]
    except (KeyError, TypeError, IndexError):
        raise CompileError("a record names layers that are not there", "tune again: tsm-edge tune") from None
    return Choices.from_tables(tables, rules.settings_of_rules()).kernels


def tables_of(choices: Iterable[Choice], names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Choices as a record has them; the inverse of :func:`choices_of`."""
    return tuple({**choice.to_table(), "layers": [names.index(name) for name in choice.layers]} for choice in choices)


def key_of(layers: Sequence[str], card: str, precision: str) -> str:
    """Of layers on a machine."""
    return _hash([list(layers), card, precision])


def card_fingerprint(target: TargetCard) -> str:
    """Of all that the rules are told of a target: with other numbers they choose otherwise."""
    return _hash(dataclasses.asdict(target.cpu))


def signature(graph: OnlineGraph, layer: ir.Layer) -> str:
    """A layer by what its kernel depends on, whatever its name: ``conv 24>144 1x1 /1 56x56 shift 3``."""
    shape = "x".join(map(str, graph.shapes[layer.output][2:])) or "1x1"
    if not isinstance(layer, ir.Convolution):
        return f"{type(layer).__name__} {shape}"
    outputs, inputs, height, width = layer.weight.shape
    words = [
        "depthwise" if layer.depthwise else "conv",
        f"{inputs * layer.groups}>{outputs}",
        f"{height}x{width}",
        f"/{layer.strides[0]}",
        shape,
        f"pads {','.join(map(str, layer.pads))}" if any(layer.pads) else "",
        f"groups {layer.groups}" if layer.groups > 1 and not layer.depthwise else "",
        f"shift {layer.shift.channels}" if layer.shift is not None else "",
        "residual" if layer.residual is not None else "",
        "of the frame" if layer.source == graph.frame else "",
    ]
    return " ".join(filter(None, words))


def _hash(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
