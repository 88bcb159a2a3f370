"""Model and target cards: what is declared in ``models/*.toml`` and ``targets/*.toml``.

A card is a frozen dataclass read from TOML. Unknown keys, wrong types and impossible values are refused when the
card is read, so every later stage can rely on what it is given. Adding a board or a model is adding a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
import typing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tsm_edge.errors import CardError, TextFileError, unknown_name
from tsm_edge.files import read_text

BACKBONES = (
    "mobilenet-v2",
    "resnet-18",
    "resnet-34",
    "resnet-50",
    "resnet-101",
    "resnext-101-32x8d",
    "resnet-50-nl",
)
TemporalMode = Literal["online", "offline", "none"]
ShiftPlace = Literal["residual", "in-place"]
SHIFT_PROPORTIONS = (Fraction(0), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1))


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that decides a network's tensors.

    Attributes
    ----------
    backbone : str
        One of :data:`BACKBONES`.
    classes : int
        Width of the classifier.
    temporal_mode : {"online", "offline", "none"}
        ``online``: one frame and the shift caches in, logits and the next caches out (the first
        ``shift_proportion`` of the channels come from the previous frame). ``offline``: a clip of ``frames`` frames
        in, bi-directional shift (the first ``shift_proportion`` from the next frame, as many again from the previous
        one). ``none``: no shift (TSN).
    width : float
        MobileNet-V2 width multiplier; 1.0 for every other backbone.
    frame_size : int
        Height and width of a frame, pixels.
    frames : int
        Frames of a clip in offline mode (the paper uses 8 and 16); ignored online.
    shift_proportion : fractions.Fraction
        Share of the channels taken from another frame, in each direction (TSM paper, section 3.2; 1/8 is its
        default).
    shift_place : {"residual", "in-place"}
        ``residual``: only the residual branch sees shifted channels. ``in-place``: the identity path does too
        (TSM paper, figure 3).
    """

    backbone: str
    classes: int
    temporal_mode: TemporalMode = "online"
    width: float = 1.0
    frame_size: int = 224
    frames: int = 8
    shift_proportion: Fraction = Fraction(1, 8)
    shift_place: ShiftPlace = "residual"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise CardError(unknown_name("backbone", self.backbone, BACKBONES))
        if self.classes < 1:
            raise CardError(f"classes is {self.classes}, expected at least 1")
        if self.shift_proportion not in SHIFT_PROPORTIONS:
            known = ", ".join(map(str, SHIFT_PROPORTIONS))
            raise CardError(f"shift_proportion is {self.shift_proportion}, expected one of {known}")
        if self.temporal_mode == "offline" and self.shift_proportion > Fraction(1, 2):
            raise CardError("shift_proportion is 1, but an offline network shifts both ways: expected at most 1/2")
        if self.backbone != "mobilenet-v2" and self.width != 1.0:
            raise CardError(f"width is {self.width} for {self.backbone}: only mobilenet-v2 has a width multiplier")
        if not 0.1 <= self.width <= 4.0:
            raise CardError(f"width is {self.width}, expected 0.1 to 4.0")
        if self.frame_size < 32:
            raise CardError(f"frame_size is {self.frame_size} px, expected at least 32")
        if self.temporal_mode == "offline" and self.frames < 2:
            raise CardError(f"frames is {self.frames}, expected at least 2 in an offline clip")
        if self.backbone == "resnet-50-nl" and self.temporal_mode == "online":
            raise CardError("resnet-50-nl is offline only: its non-local blocks look at the whole clip")


@dataclass(frozen=True)
class Preprocess:
    """How a camera frame becomes the network's input (upstream TSM: resize, centre crop, /255, normalise).

    Attributes
    ----------
    short_side : int
        The frame is resized so that its shorter side has this many pixels (aspect ratio kept).
    crop : int
        Then this square is cut from its centre, pixels; equals the network's frame size.
    mean, std : tuple of 3 floats
        Per channel, in RGB order, applied to values scaled to 0..1.
    """

    short_side: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std, default=0) <= 0:
            raise CardError("mean and std must each have 3 values (R, G, B) and std must be positive")
        if self.short_side < self.crop:
            raise CardError(f"short_side is {self.short_side} px, expected at least the crop of {self.crop} px")


@dataclass(frozen=True)
class Smoothing:
    """Steadies the shown label of a live stream; each rule of the upstream demo is its own setting.

    Attributes
    ----------
    window : int
        Logits of this many latest frames are summed (1: none; upstream demo: 12).
    agree : int
        The shown label changes only when this many predictions in a row are the same (1: at once; upstream: 2).
    masked : tuple of int
        Classes never shown (the shown label stays as it was).
    shown_as : tuple of (int, int)
        Pairs (class, class shown instead).
    """

    window: int = 1
    agree: int = 1
    masked: tuple[int, ...] = ()
    shown_as: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.window < 1 or self.agree < 1:
            raise CardError("smoothing window and agree must be at least 1 frame")
        if any(len(pair) != 2 for pair in self.shown_as):
            raise CardError("smoothing shown_as must be pairs [class, class shown instead]")


@dataclass(frozen=True)
class ModelCard:
    """A model of ``models/NAME.toml``.

    Attributes
    ----------
    name, description, source : str
        ``source`` says where the figures come from (paper table, upstream file).
    network : NetworkSpec
    preprocess : Preprocess
    smoothing : Smoothing
    labels_file : str
        Relative to the models folder; empty: classes are shown as numbers.
    labels : tuple of str
        The file's lines; empty without a file, else exactly ``network.classes`` long.
    """

    name: str
    description: str
    source: str
    network: NetworkSpec
    preprocess: Preprocess = field(default_factory=Preprocess)
    smoothing: Smoothing = field(default_factory=Smoothing)
    labels_file: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preprocess.crop != self.network.frame_size:
            raise CardError(
                f"crop is {self.preprocess.crop} px, expected the frame size of {self.network.frame_size} px"
            )
        if self.labels and len(self.labels) != self.network.classes:
            raise CardError(
                f"{self.labels_file} has {len(self.labels)} labels, expected {self.network.classes} (one a class)"
            )
        shown = [index for pair in self.smoothing.shown_as for index in pair]
        for index in (*self.smoothing.masked, *shown):
            if not 0 <= index < self.network.classes:
                raise CardError(f"smoothing names class {index}, expected 0 to {self.network.classes - 1}")


@dataclass(frozen=True)
class CpuSpec:
    """What the schedule rules need to know of a CPU core and its caches.

    Attributes
    ----------
    triple, cpu : str
        LLVM target triple and ``-mcpu`` name.
    features : tuple of str
        LLVM features beyond those of ``cpu``, for example ``+neon``.
    float_abi : str
        ``hard``, ``soft`` or empty (the triple's own).
    vector_lanes : int
        float32 values in a vector register.
    vector_registers : int
        Architectural vector registers.
    l1d_kib, l2_kib, l3_kib : int
        Data caches in KiB as one core sees them; 0: none or unknown.
    cores : int
        Cores a model may use.
    clock_mhz : int
        Nominal clock, MHz; 0: unknown.
    fma_per_cycle : float
        Vector multiply-adds a core can issue each cycle.
    memory_gb_s : float
        Sustained memory bandwidth of the whole chip, GB/s; 0: unknown.
    in_order : bool
        An in-order core: loads must run ahead of their use.
    l2_shared : bool
        All cores share the L2 cache; else each has its own.
    """

    triple: str
    cpu: str
    vector_lanes: int
    vector_registers: int
    l1d_kib: int
    l2_kib: int
    cores: int
    features: tuple[str, ...] = ()
    float_abi: str = ""
    l3_kib: int = 0
    clock_mhz: int = 0
    fma_per_cycle: float = 1.0
    memory_gb_s: float = 0.0
    in_order: bool = False
    l2_shared: bool = False

    def __post_init__(self) -> None:
        if self.vector_lanes not in (4, 8, 16):
            raise CardError(f"vector_lanes is {self.vector_lanes}, expected 4, 8 or 16 float32 values")
        if self.vector_registers not in (16, 32):
            raise CardError(f"vector_registers is {self.vector_registers}, expected 16 or 32")
        for name in ("l1d_kib", "l2_kib", "cores"):
            if getattr(self, name) < 1:
                raise CardError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("l3_kib", "clock_mhz", "memory_gb_s"):
            if getattr(self, name) < 0:
                raise CardError(f"{name} is {getattr(self, name)}, expected 0 (unknown) or more")
        if self.fma_per_cycle <= 0:
            raise CardError(f"fma_per_cycle is {self.fma_per_cycle}, expected more than 0")
        if self.float_abi not in ("", "hard", "soft"):
            raise CardError(f"float_abi is {self.float_abi!r}, expected 'hard', 'soft' or empty")


@dataclass(frozen=True)
class TargetCard:
    """A machine of ``targets/NAME.toml``.

    Attributes
    ----------
    name, description, source : str
        ``source`` names the datasheets the figures come from.
    device : {"cpu", "cuda"}
        What runs the kernels.
    cpu : CpuSpec
        The CPU (for a GPU target, the host).
    libc : str
        What the artifact links against: ``glibc-2.17`` style, ``musl``, ``bionic``.
    power_sensors : tuple of str
        Sensor families that can measure this machine; empty: an external meter is needed.
    detect : bool
        The CPU fields are placeholders, to be replaced by what this machine reports (``native``).
    """

    name: str
    description: str
    source: str
    cpu: CpuSpec
    device: Literal["cpu", "cuda"] = "cpu"
    libc: str = "glibc-2.17"
    power_sensors: tuple[str, ...] = ()
    detect: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"glibc-2\.\d+|musl|bionic", self.libc):
            raise CardError(f"libc is {self.libc!r}, expected 'glibc-2.17' or another version, 'musl' or 'bionic'")


def model_names() -> list[str]:
    """Names of the shipped model cards, sorted."""
    return _card_names("models")


def target_names() -> list[str]:
    """Names of the shipped target cards, sorted."""
    return _card_names("targets")


def load_model(name: str | Path) -> ModelCard:
    """Read a model card by name (``mobilenetv2-jester``) or by path (``./mine.toml``).

    Raises
    ------
    CardError
        The card is unknown, has unknown keys, wrong types or impossible values.
    """
    path = _card_path("models", "model", name)
    table = _read_toml(path)
    table.setdefault("name", path.stem)
    if "labels" in table:
        raise CardError(f"{path}: key 'labels' is not read from a card: name a file with labels_file")
    labels_file = table.get("labels_file")
    if isinstance(labels_file, str) and labels_file:
        table["labels"] = _read_labels(path.parent / labels_file, path)
    return _build(ModelCard, table, str(path))


def model_to_table(card: ModelCard) -> dict[str, Any]:
    """Return a model card as plain values that JSON and TOML can hold; :func:`model_from_table` is its inverse."""
    table = dataclasses.asdict(card)
    table["network"]["shift_proportion"] = str(card.network.shift_proportion)
    return table


def model_from_table(table: Any, where: str) -> ModelCard:
    """Rebuild a model card from :func:`model_to_table`'s values; ``where`` names their origin in error messages.

    Raises
    ------
    CardError
        Unknown or missing keys, wrong types or impossible values.
    """
    return _build(ModelCard, table, where)


def load_target(name: str | Path) -> TargetCard:
    """Read a target card by name or path; ``native`` comes back filled in with what this machine reports.

    Raises
    ------
    CardError
        The card is unknown, has unknown keys, wrong types or impossible values, or detection failed.
    """
    path = _card_path("targets", "target", name)
    table = _read_toml(path)
    table.setdefault("name", path.stem)
    card = _build(TargetCard, table, str(path))
    if card.detect:
        from tsm_edge.host import detect_cpu, detect_libc

        card = dataclasses.replace(card, cpu=detect_cpu(), libc=detect_libc())
    return card


@functools.cache
def _data_folder(kind: str) -> Path:
    """``models`` or ``targets``: inside an installed package, or at the top of a source checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise CardError(
        f"the {kind} folder of tsm-edge is missing", "reinstall with: pip install --force-reinstall tsm-edge"
    )


def _card_names(kind: str) -> list[str]:
    return sorted(path.stem for path in _data_folder(kind).glob("*.toml"))


def _card_path(kind: str, noun: str, name: str | Path) -> Path:
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not os.path.isfile(path):  # also where the name is too long to be one
            raise CardError(f"{noun} card {text}: no such file", f"see the shipped ones with: tsm-edge {kind}")
        return path
    if text not in _card_names(kind):
        raise CardError(unknown_name(noun, text, _card_names(kind)), f"see them with: tsm-edge {kind}")
    return _data_folder(kind) / f"{text}.toml"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(read_text(path))
    except TextFileError as error:
        raise CardError(error.problem, error.hint) from None
    # ValueError: also a number of thousands of digits; RecursionError: thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise CardError(
            f"{path}: not a readable TOML file ({error})", "correct it; toml.io explains the format"
        ) from None
    return table


def _read_labels(path: Path, card: Path) -> list[str]:
    """Read a label file: one class a line, empty lines left out."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise TextFileError(f"{path}: is not a file", "name a text file with one class a line")
        lines = read_text(path).splitlines()
    except TextFileError as error:
        raise CardError(f"{card}: labels_file {error.problem}", error.hint) from None
    return [line.strip() for line in lines if line.strip()]


_Card = TypeVar("_Card")


def _build(cls: type[_Card], table: Any, where: str) -> _Card:
    """Turn a TOML table into a frozen dataclass, refusing unknown and missing keys and wrong types."""
    if not isinstance(table, dict):
        raise CardError(f"{where}: expected a table, found {table!r}")
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise CardError(f"{where}: {unknown_name('key', key, fields)}")
    hints = typing.get_type_hints(cls)
    values = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise CardError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except CardError as error:
        raise CardError(f"{where}: {error.problem}", error.hint) from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check one TOML value against a field's annotation and convert it."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise CardError(f"{where}: {unknown_name('value', str(value), map(str, typing.get_args(hint)))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise CardError(f"{where} is {value!r}, expected a list")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(entry, inner, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is Fraction:
        return _fraction(value, where)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:  # exactly: true is not a whole number
        raise CardError(f"{where} is {value!r}, expected {_TYPE_NAMES[hint]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise CardError(f"{where} is {value!r}, expected a finite number")
    return value


_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _fraction(value: Any, where: str) -> Fraction:
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if type(value) in (str, int):
            return Fraction(value)
    raise CardError(f'{where} is {value!r}, expected a fraction such as "1/8"')
