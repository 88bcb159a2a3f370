"""Model and target cards: what is declared in ``models/*.toml`` and ``targets/*.toml``.

A card is a frozen dataclass read from TOML. Unknown keys, wrong types and impossible values are refused when the
card is read, so every later stage can rely on what it is given. Adding a board or a model is adding a file.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
import unicodedata
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tsm_edge.errors import CardError, TextFileError, unknown_name
from tsm_edge.files import read_text
from tsm_edge.tables import Place, from_table, shown

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
# Pixels: one number of a square, or (height, width).
Extent = int | tuple[int, int]
# The architectures that kernels are written for, as LLVM spells them: it crashes on others.
_TRIPLE = re.compile(
    r"(x86_64|aarch64)(-\w+)?-linux-(gnu|musl)|aarch64(-\w+)?-linux-android\d{0,2}"
    r"|arm(v7|v7a|v7l|v8|v8a|v8l)?(-\w+)?-linux-(gnu|musl)eabihf",
    re.ASCII,
)
# Of random weights: what PyTorch's generator takes.
LARGEST_SEED = 2**63 - 1
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
    frame_size : int or (int, int)
        Of a frame, pixels: one number of a square, or (height, width).
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
    frame_size: Extent = 224
    frames: int = 8
    shift_proportion: Fraction = Fraction(1, 8)
    shift_place: ShiftPlace = "residual"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise CardError(unknown_name("backbone", self.backbone, BACKBONES), "choose one of them")
        _check_range("classes", self.classes, 1, 100_000)
        if self.shift_proportion not in SHIFT_PROPORTIONS:
            known = ", ".join(map(str, SHIFT_PROPORTIONS))
            raise CardError(
                f"shift_proportion is {shown(str(self.shift_proportion))}, expected one of {known}",
                "choose the one it was trained with; the TSM paper's is 1/8",
            )
        if self.temporal_mode == "offline" and self.shift_proportion > Fraction(1, 2):
            raise CardError(
                "shift_proportion is 1, but an offline network shifts both ways: expected at most 1/2",
                'choose a smaller one, or temporal_mode = "online"',
            )
        if self.backbone != "mobilenet-v2" and self.width != 1.0:
            raise CardError(
                f"width is {self.width} for {self.backbone}: only mobilenet-v2 has a width multiplier",
                "leave width out",
            )
        _check_range("width", self.width, 0.1, 4.0)
        for side in height_width(self.frame_size):
            _check_range("frame_size", side, 32, 2048, " px")
        _check_range("frames", self.frames, 2 if self.temporal_mode == "offline" else 1, 128)
        if self.backbone == "resnet-50-nl" and self.temporal_mode == "online":
            raise CardError(
                "resnet-50-nl is offline only: its non-local blocks look at the whole clip",
                'set temporal_mode = "offline"',
            )


@dataclass(frozen=True)
class Preprocess:
    """How a camera frame becomes the network's input (upstream TSM: resize, centre crop, /255, normalise).

    Attributes
    ----------
    short_side : int
        The frame is resized so that its shorter side has this many pixels (aspect ratio kept). Where the crop is no
        square, the crop's shorter side is what this is compared with: the frame is resized until it covers the crop
        enlarged by ``short_side / min(crop)``, which for a square is the same.
    crop : int or (int, int)
        Then this is cut from its centre, pixels: one number of a square, or (height, width); equals the network's
        frame size.
    mean, std : tuple of 3 floats
        Per channel, in RGB order, applied to values scaled to 0..1.
    """

    short_side: int = 256
    crop: Extent = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std, default=0) <= 0:
            raise CardError(
                "mean and std must each have 3 values (R, G, B) and std must be positive",
                "ImageNet's are mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]",
            )
        if max(map(abs, self.mean)) > 1 or not all(0.001 <= value <= 2 for value in self.std):
            raise CardError(
                f"mean is {list(self.mean)} and std {list(self.std)}, expected -1 to 1 and 0.001 to 2: "
                "a frame's values are 0 to 1 here",
                "divide numbers made for 0 to 255 by 255",
            )
        _check_range("short_side", self.short_side, 1, 8192, " px")
        shorter = min(height_width(self.crop))
        if not 1 <= shorter <= self.short_side:
            raise CardError(
                f"short_side is {self.short_side} px, expected at least the crop of {extent_text(self.crop)} px",
                f"set short_side = {max(1, round(shorter * 256 / 224))}",
            )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a frame of this size is resized before the crop is cut from it, pixels."""
        rows, columns = height_width(self.crop)
        shorter = min(rows, columns)
        if width * rows >= height * columns:  # wider than the crop: the height decides
            return self.short_side * rows // shorter, self.short_side * rows * width // (shorter * height)
        return self.short_side * columns * height // (shorter * width), self.short_side * columns // shorter


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
        _check_range("smoothing window", self.window, 1, 10_000)
        _check_range("smoothing agree", self.agree, 1, 10_000)
        if any(len(pair) != 2 for pair in self.shown_as):
            raise CardError(
                "smoothing shown_as must be pairs [class, class shown instead]", "write them as: shown_as = [[0, 2]]"
            )


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
        _check_name(self.name)
        if height_width(self.preprocess.crop) != height_width(self.network.frame_size):
            wanted = extent_text(self.network.frame_size)
            raise CardError(
                f"crop is {extent_text(self.preprocess.crop)} px, expected the frame size of {wanted} px",
                f"set crop = {_extent_toml(self.network.frame_size)} in [preprocess]",
            )
        if self.labels and len(self.labels) != self.network.classes:
            raise CardError(
                f"{self.labels_file} has {len(self.labels)} labels, expected {self.network.classes} (one a class)",
                "give every class one line, or correct classes",
            )
        for index, label in enumerate(self.labels):
            _check_label(index, label)
        for index in (*self.smoothing.masked, *(index for pair in self.smoothing.shown_as for index in pair)):
            if not 0 <= index < self.network.classes:
                raise CardError(
                    f"smoothing names class {shown(index)}, expected 0 to {self.network.classes - 1}",
                    "correct [smoothing]",
                )
        if len(set(self.smoothing.masked)) == self.network.classes:
            raise CardError("smoothing masks every class, expected at least one that can be shown", "mask fewer")


# What a core's instructions can do beyond vector multiply-adds; the rules ask for these, never for a triple.
Ability = Literal[
    "memory-operands",
    "broadcast-operands",
    "broadcast-pairs",
    "multiply-by-lane",
    "prefetch",
    "dot-product",
    "fp16-arithmetic",
]


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
        ``hard`` or empty (the triple's own).
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
    abilities : tuple of str
        ``memory-operands``: arithmetic takes an operand from memory, so that few registers go far.
        ``broadcast-operands``: and repeats one value from there over a vector (AVX-512). ``broadcast-pairs``: a load
        repeats two neighbouring values over a vector (AVX2). ``multiply-by-lane``: multiply-adds take one lane of a
        vector (64-bit Arm). ``prefetch``: asking for data ahead of its use pays, as the core does not follow streams
        by itself. ``dot-product``: 8-bit dot products. ``fp16-arithmetic``: half-precision vectors.
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
    abilities: tuple[Ability, ...] = ()

    @property
    def vector_bytes(self) -> int:
        """Size of a vector register."""
        return 4 * self.vector_lanes

    def __post_init__(self) -> None:
        if not _TRIPLE.fullmatch(self.triple):
            raise CardError(
                f"triple is {shown(self.triple)}, expected 'x86_64-unknown-linux-gnu', 'aarch64-unknown-linux-gnu', "
                "'aarch64-unknown-linux-android' or 'armv7l-unknown-linux-gnueabihf'",
                "take one of them ('musl' may stand for 'gnu')",
            )
        if not re.fullmatch(r"[\w.+-]{1,40}", self.cpu, re.ASCII):
            raise CardError(f"cpu is {shown(self.cpu)}, expected a name of LLVM's", "for example cpu = 'cortex-a72'")
        for feature in self.features:
            if not re.fullmatch(r"\+[\w.-]{1,40}", feature, re.ASCII):
                raise CardError(
                    f"features has {shown(feature)}, expected a name of LLVM's after +", "for example '+neon'"
                )
        if self.vector_lanes not in (4, 8, 16):
            raise CardError(
                f"vector_lanes is {shown(self.vector_lanes)}, expected 4, 8 or 16 float32 values",
                "4 for NEON and SSE, 8 for AVX2, 16 for AVX-512",
            )
        if self.vector_registers not in (16, 32):
            raise CardError(
                f"vector_registers is {shown(self.vector_registers)}, expected 16 or 32",
                "32 for AVX-512 and 64-bit Arm, 16 for others",
            )
        _check_range("l1d_kib", self.l1d_kib, 1, 4096)
        _check_range("l2_kib", self.l2_kib, 1, 1 << 20)
        _check_range("l3_kib", self.l3_kib, 0, 1 << 22)
        _check_range("cores", self.cores, 1, 4096)
        _check_range("clock_mhz", self.clock_mhz, 0, 20_000)
        _check_range("memory_gb_s", self.memory_gb_s, 0, 100_000)
        _check_range("fma_per_cycle", self.fma_per_cycle, 0.01, 16)
        if self.float_abi not in ("", "hard"):
            raise CardError(
                f"float_abi is {shown(self.float_abi)}, expected 'hard' or empty", "leave it out: the triple says it"
            )


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
        _check_name(self.name)
        if not re.fullmatch(r"glibc-2\.(1[7-9]|[2-9]\d)|musl|bionic", self.libc, re.ASCII):
            raise CardError(
                f"libc is {shown(self.libc)}, expected 'glibc-2.17' or a later version, 'musl' or 'bionic'",
                "the device says its glibc's version with: ldd --version",
            )
        if (self.libc == "bionic") != ("android" in self.cpu.triple):
            raise CardError(
                f"libc is {self.libc!r}, but triple is {self.cpu.triple!r}: bionic is Android's, alone",
                "correct one of the two",
            )


def height_width(extent: Extent) -> tuple[int, int]:
    """Both sides of an :data:`Extent`, pixels."""
    return (extent, extent) if isinstance(extent, int) else extent


def extent_of(height: int, width: int) -> Extent:
    """Both sides as an :data:`Extent`: one number where they are equal."""
    return height if height == width else (height, width)


def extent_text(extent: Extent) -> str:
    """For people: ``224``, or ``128x224``, the height first."""
    return str(extent) if isinstance(extent, int) else "x".join(map(str, extent))


def _extent_toml(extent: Extent) -> str:
    return str(extent) if isinstance(extent, int) else str(list(extent))


def _check_range(name: str, value: float, least: float, most: float, unit: str = "") -> None:
    if not least <= value <= most:
        raise CardError(f"{name} is {shown(value)}{unit}, expected {least:g} to {most}{unit}", f"correct {name}")


def _check_name(name: str) -> None:
    """Refuse a name that cannot be part of a folder's: ``out/MODEL-TARGET``."""
    plain = name.isprintable() and name == name.strip() and name[:1] not in ("", ".", "-") and not {*name} & {*"/\\"}
    if not plain or len(name.encode()) > 100:
        raise CardError(
            f"name is {shown(name)}, expected a plain name: no '/' or '\\\\', no leading '.' or '-', at most 100 bytes",
            'set another one, as in name = "my-model"',
        )


def _check_label(index: int, label: str) -> None:
    hidden = any(unicodedata.category(character) in ("Cc", "Cs") for character in label.replace("\t", " "))
    if hidden or not 1 <= len(label) <= 200:
        raise CardError(
            f"label {index} is {shown(label)}, expected 1 to 200 characters and no control characters",
            "correct that line of the label file",
        )


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
        raise CardError(f"{path}: key 'labels' is not read from a card", 'name a file: labels_file = "labels.txt"')
    labels_file = table.get("labels_file")
    if isinstance(labels_file, str) and labels_file:
        table["labels"] = _read_labels(path.parent / labels_file, path)
    return from_table(ModelCard, table, _place(path, "models"))


def model_files(name: str | Path, card: ModelCard) -> tuple[Path, ...]:
    """The files that :func:`load_model` has read ``card`` from."""
    path = _card_path("models", "model", name)
    return (path, path.parent / card.labels_file) if card.labels_file else (path,)


def target_file(name: str | Path) -> Path:
    """The file that :func:`load_target` reads."""
    return _card_path("targets", "target", name)


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
    return from_table(ModelCard, table, _place(where, "models"))


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
    card = from_table(TargetCard, table, _place(path, "targets"))
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
            shipped = f"the shipped one is called {path.stem}, " if path.stem in _card_names(kind) else ""
            raise CardError(f"{noun} card {text}: no such file", f"{shipped}see them with: tsm-edge {kind}")
        return path
    if text not in _card_names(kind):
        here = f"for the file here, ./{text}.toml; " if os.path.isfile(f"{text}.toml") else ""
        raise CardError(unknown_name(noun, text, _card_names(kind)), f"{here}see them with: tsm-edge {kind}")
    return _data_folder(kind) / f"{text}.toml"


def _place(where: str | Path, kind: str) -> Place:
    return Place(str(where), CardError, f"compare with the shipped cards: tsm-edge {kind} --json")


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
