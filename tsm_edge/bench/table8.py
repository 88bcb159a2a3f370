"""Table 8 of the TSM paper, latency and power of seven devices, beside what tsm-edge was measured or modelled at."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tsm_edge.bench.result import SCHEMA, Result, from_json
from tsm_edge.bench.verdicts import shown_ms
from tsm_edge.errors import ArtifactError

PAPER = "Lin, Gan, Wang, Han: TSM, Table 8 (TVM, fp32, power above idle)"
_HINT = "write one with: tsm-edge bench --json FILE, or: tsm-edge compile --explain --json >FILE"
_NCNN, _XNNPACK = "ncnn, benchmark/README", "XNNPACK, README"
_LARGEST_FILE = 1 << 28  # bytes
# What the paper's table is of: MobileNet-V2, a frame of 224², one at a time.
_MODEL, _FRAME = re.compile(r"mobilenet-?v2", re.IGNORECASE), (1, 3, 224, 224)


@dataclass(frozen=True)
class Published:
    """The best latency anyone published for MobileNet-V2 at 224², batch 1, with a plain head: within 1 % of the work.

    Attributes
    ----------
    ms : str
        A range where the source has one.
    engine, precision : str
    source : str
        Where it stands, and on what machine, if it is not quite this one.
    """

    ms: str
    engine: str
    precision: str
    source: str


@dataclass(frozen=True)
class PaperDevice:
    """A row of the table.

    Attributes
    ----------
    name : str
    targets : tuple of str
        Target cards of this device.
    board : str
        Pattern of what such a board calls itself.
    device : {"cpu", "cuda"}
    paper_ms : float
    paper_w : float or None
        None: the paper gives none.
    best, best_fp32 : Published
        In any precision, and in the paper's.
    """

    name: str
    targets: tuple[str, ...]
    board: str
    device: Literal["cpu", "cuda"]
    paper_ms: float
    paper_w: float | None
    best: Published
    best_fp32: Published | None


def _only_fp32(ms: str, engine: str, source: str) -> tuple[Published, Published]:
    found = Published(ms, engine, "fp32", source)
    return found, found


DEVICES = (
    PaperDevice(
        *("Jetson Nano CPU", ("jetson-nano-cpu",), r"Jetson Nano", "cpu", 47.8, 4.8),
        *_only_fp32("33.5", "ncnn", f"{_NCNN}, 4 threads"),
    ),
    PaperDevice(
        *("Jetson Nano GPU", ("jetson-nano",), r"Jetson Nano", "cuda", 13.4, 4.5),
        Published("12.8–13.0", "ncnn", "fp16", f"{_NCNN}, Vulkan"),
        None,
    ),
    PaperDevice(
        *("Jetson TX2 CPU", ("jetson-tx2-cpu",), r"TX2|quill", "cpu", 36.4, 5.6),
        *_only_fp32("22", "ncnn", f"{_NCNN}, a TX2 NX, 6 threads"),
    ),
    PaperDevice(
        *("Jetson TX2 GPU", ("jetson-tx2",), r"TX2|quill", "cuda", 8.5, 5.8),
        Published("6.65", "ncnn", "fp16", f"{_NCNN}, a TX2 NX, Vulkan"),
        None,
    ),
    PaperDevice(
        *("Raspberry Pi 4B", ("raspberry-pi-4", "raspberry-pi-4-32bit"), r"Raspberry Pi 4", "cpu", 69.6, 3.8),
        Published("17", "XNNPACK", "int8", _XNNPACK),
        Published("41", "XNNPACK", "fp32", f"{_XNNPACK}, 32-bit system; 46 on a 64-bit one"),
    ),
    PaperDevice(
        *("Galaxy Note8", ("android-note8",), r"SM-N950|Note ?8", "cpu", 34.5, None),
        *_only_fp32("18", "XNNPACK", f"{_XNNPACK}, a Pixel 2, which has the same chip"),
    ),
    PaperDevice(
        *("Pixel 1", ("android-pixel-1",), r"^Pixel$|^Pixel XL$|^sailfish|^marlin", "cpu", 47.4, None),
        Published("21.9", "ncnn", "any", f"{_NCNN}, a Snapdragon 821 at 2.35 GHz, fastest frame, 4 threads"),
        Published("26", "XNNPACK", "fp32", f"{_XNNPACK}, big cores"),
    ),
)


@dataclass(frozen=True)
class Modelled:
    """What ``tsm-edge compile --explain --json`` says of a target.

    Attributes
    ----------
    target, model : str
    ms : float
    precision : str
    source : str
        The file.
    """

    target: str
    model: str
    ms: float
    precision: str
    source: str


@dataclass(frozen=True)
class Row:
    """A device with what is known of it.

    Attributes
    ----------
    device : PaperDevice
    status : {"measured", "modelled", "not measured"}
    ms, net_w : float or None
        Median of a frame; power above idle.
    precision, boundary : str or None
        Of the model, and of the power sensor.
    doubts : tuple of str
        Why the measurement is not to be relied on: names of its bad verdicts.
    source : str or None
        Name of the result, or file of the model.
    """

    device: PaperDevice
    status: Literal["measured", "modelled", "not measured"]
    ms: float | None = None
    net_w: float | None = None
    precision: str | None = None
    boundary: str | None = None
    doubts: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class Table8:
    """The whole table.

    Attributes
    ----------
    entries : tuple of Row
        In the paper's order.
    left_out : tuple of str
        Results that belong to no row, and why.
    """

    entries: tuple[Row, ...]
    left_out: tuple[str, ...]

    columns = ("device", "paper", "best published", "tsm-edge")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells, 79 columns wide at most."""
        return [(row.device.name, _paper(row.device), _best(row.device.best), _here(row)) for row in self.entries]

    @property
    def notes(self) -> list[str]:
        """Where the figures come from, and what was left out."""
        lines = [f"paper: {PAPER}", "best published: MobileNet-V2 224², batch 1, no shift, no power"]
        sources: dict[str, list[str]] = {}
        for row in self.entries:
            sources.setdefault(row.device.best.source, []).append(row.device.name)
        lines += [f"  {', '.join(names)}: {source}" for source, names in sources.items()]
        if any(row.status == "modelled" for row in self.entries):
            lines.append("modelled: a roofline of the target card, a CPU's on one core; not a measurement")
        for row in self.entries:
            if row.doubts:
                lines.append(f"! {row.device.name}: do not rely on it ({', '.join(row.doubts)})")
            elif row.boundary:
                lines.append(f"{row.device.name}: power above idle of the {row.boundary}")
        return [*lines, *(f"left out: {reason}" for reason in self.left_out)]

    def to_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "paper": PAPER,
            "devices": [dataclasses.asdict(row) for row in self.entries],
            "left_out": list(self.left_out),
        }


def table8(results: Sequence[Result], modelled: Sequence[Modelled] = ()) -> Table8:
    """Lay results beside the paper's figures; of several for a device, the fastest that can be relied on."""
    reasons = {index: _unfit(result) for index, result in enumerate(results)}
    fit = [result for index, result in enumerate(results) if reasons[index] is None]
    left_out = [f"{results[index].name}: {reason}" for index, reason in reasons.items() if reason]
    for item in modelled:
        if _device_of(item.target) is None:
            left_out.append(f"{item.source}: target {item.target} is none of the paper's devices")
        elif not _MODEL.search(item.model):
            left_out.append(f"{item.source}: model {item.model}, the paper's is MobileNet-V2")
    rows = tuple(_row(device, fit, modelled) for device in DEVICES)
    return Table8(rows, tuple(left_out))


def read_files(paths: Sequence[Path]) -> tuple[list[Result], list[Modelled]]:
    """Read what ``bench --json`` and ``compile --explain --json`` wrote.

    Raises
    ------
    ArtifactError
        A file is neither.
    """
    results: list[Result] = []
    modelled: list[Modelled] = []
    for path in paths:
        table = _read(path)
        if isinstance(table, dict) and table.get("schema") is not None:
            results += from_json(table, str(path)).results
        elif isinstance(table, dict) and isinstance(table.get("explain"), dict):
            modelled.append(_modelled(table, path))
        else:
            raise ArtifactError(f"{path} is no result: it has neither schema {SCHEMA!r} nor an explanation", _HINT)
    return results, modelled


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(_LARGEST_FILE))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", _HINT) from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path} is not JSON", _HINT) from None


def _modelled(table: dict[str, Any], path: Path) -> Modelled:
    ms = table["explain"].get("modelled_milliseconds")
    names: list[object] = []
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        manifest = table["manifest"]
        names = [manifest["target"]["name"], manifest["model"], manifest.get("precision", "fp32")]
    usable = isinstance(ms, (int, float)) and not isinstance(ms, bool) and 0 < ms < 1e9
    texts = [name for name in names if isinstance(name, str)]
    if not usable or len(texts) != 3:
        raise ArtifactError(f"{path}: its explanation has no modelled time of a model for a target", _HINT)
    target, model, precision = texts
    return Modelled(target, model, float(ms), precision, str(path))


def _device_of(target: str) -> PaperDevice | None:
    return next((device for device in DEVICES if target in device.targets), None)


def _unfit(result: Result) -> str | None:
    """Why a result belongs to no row; None if it does."""
    device = _device_of(result.model.target)
    if not _MODEL.search(result.model.name) or tuple(result.model.frame_shape) != _FRAME:
        size = "×".join(map(str, result.model.frame_shape[-2:]))
        return f"model {result.model.name}, {size}; the paper's is MobileNet-V2, 224×224"
    board = result.environment_before.board if result.environment_before else None
    if device is None:
        # A result for a general target says by its board what it is of.
        return None if _by_board(result) is not None else f"target {result.model.target} is none of the paper's devices"
    if board is not None and not re.search(device.board, board):
        return f"target {result.model.target}, but measured on: {board}"
    if result.latency_ms.p50 is None:
        return "nothing was measured"
    return None


def _by_board(result: Result) -> PaperDevice | None:
    board = result.environment_before.board if result.environment_before else None
    fitting = (device for device in DEVICES if board and re.search(device.board, board))
    return next((device for device in fitting if device.device == result.model.device), None)


def _row(device: PaperDevice, results: Sequence[Result], modelled: Sequence[Modelled]) -> Row:
    own = [result for result in results if (_device_of(result.model.target) or _by_board(result)) is device]
    if own:
        return min((_measured(device, result) for result in own), key=lambda row: (bool(row.doubts), row.ms))
    models = [item for item in modelled if item.target in device.targets and _MODEL.search(item.model)]
    if models:
        best = min(models, key=lambda item: item.ms)
        return Row(device, "modelled", best.ms, precision=best.precision, source=best.source)
    return Row(device, "not measured")


def _measured(device: PaperDevice, result: Result) -> Row:
    power = result.power
    return Row(
        device,
        "measured",
        result.latency_ms.p50,
        net_w=None if power is None else power.net_w,
        precision=result.model.precision,
        boundary=None if power is None else power.boundary,
        doubts=tuple(_doubts(result)),
        source=result.name,
    )


def _doubts(result: Result) -> Iterator[str]:
    yield from dict.fromkeys(verdict.name for verdict in result.verdicts if verdict.level == "bad")


def _paper(device: PaperDevice) -> str:
    return f"{device.paper_ms:.1f} ms" + ("" if device.paper_w is None else f", {device.paper_w:.1f} W")


def _best(best: Published) -> str:
    precision = "" if best.precision == "any" else f" {best.precision}"
    return f"{best.ms} ms, {best.engine}{precision}"


def _here(row: Row) -> str:
    if row.ms is None:
        return row.status
    words = shown_ms(row.ms) if row.status == "measured" else f"{row.status} {shown_ms(row.ms)}"
    if row.net_w is not None:
        words += f", {row.net_w:.1f} W"
    if row.precision not in (None, "fp32"):
        words += f" {row.precision}"
    return f"{words} !" if row.doubts else words
