"""Model cards: a network, what a frame goes through before it, and how its labels are shown."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from tsm_edge.cards.checks import check_name, check_range
from tsm_edge.cards.tables import shown
from tsm_edge.errors import CardError, unknown_name

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
# Of random weights: what PyTorch's generator takes.
LARGEST_SEED = 2**63 - 1
# Of a frame's input: RGB, or five fields of optical flow, each of x and y (two-stream networks, TSN).
RGB_CHANNELS, FLOW_CHANNELS = 3, 10
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
        Frames of a clip in offline mode (the paper uses 8 and 16), and what a network without shift is averaged over;
        ignored online.
    shift_proportion : fractions.Fraction
        Share of the channels taken from another frame, in each direction (TSM paper, section 3.2; 1/8 is its
        default).
    shift_place : {"residual", "in-place"}
        ``residual``: only the residual branch sees shifted channels. ``in-place``: the identity path does too
        (TSM paper, figure 3).
    channels : int
        Of the input: 3 (RGB), or 10, five fields of optical flow one after the other, each as x and y.
    """

    backbone: str
    classes: int
    temporal_mode: TemporalMode = "online"
    width: float = 1.0
    frame_size: Extent = 224
    frames: int = 8
    shift_proportion: Fraction = Fraction(1, 8)
    shift_place: ShiftPlace = "residual"
    channels: int = RGB_CHANNELS

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise CardError(unknown_name("backbone", self.backbone, BACKBONES), "choose one of them")
        check_range("classes", self.classes, 1, 100_000)
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
        check_range("width", self.width, 0.1, 4.0)
        for side in height_width(self.frame_size):
            check_range("frame_size", side, 32, 2048, " px")
        check_range("frames", self.frames, 2 if self.temporal_mode == "offline" else 1, 128)
        if self.backbone == "resnet-50-nl" and self.temporal_mode == "online":
            raise CardError(
                "resnet-50-nl is offline only: its non-local blocks look at the whole clip",
                'set temporal_mode = "offline"',
            )
        if self.channels not in (RGB_CHANNELS, FLOW_CHANNELS):
            raise CardError(
                f"channels is {shown(self.channels)}, expected {RGB_CHANNELS} (RGB) or {FLOW_CHANNELS} (five fields "
                "of optical flow)",
                "leave it out for RGB",
            )
        if self.channels != RGB_CHANNELS and self.temporal_mode == "online":
            raise CardError(
                f"channels is {self.channels}, but an online network takes camera frames: expected {RGB_CHANNELS}",
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
        Per channel, in RGB order, applied to values scaled to 0..1. Of optical flow three equal values, for all
        channels.
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
        check_range("short_side", self.short_side, 1, 8192, " px")
        for side in height_width(self.crop):
            check_range("crop", side, 1, 8192, " px")
        shorter = min(height_width(self.crop))
        if shorter > self.short_side:
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
        check_range("smoothing window", self.window, 1, 10_000)
        check_range("smoothing agree", self.agree, 1, 10_000)
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
    weights_file : str
        Trained weights that come with the card: relative to its folder in the file, the whole path once it is read;
        empty: it has none.
    """

    name: str
    description: str
    source: str
    network: NetworkSpec
    preprocess: Preprocess = field(default_factory=Preprocess)
    smoothing: Smoothing = field(default_factory=Smoothing)
    labels_file: str = ""
    labels: tuple[str, ...] = ()
    weights_file: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if height_width(self.preprocess.crop) != height_width(self.network.frame_size):
            wanted = extent_text(self.network.frame_size)
            raise CardError(
                f"crop is {extent_text(self.preprocess.crop)} px, expected the frame size of {wanted} px",
                f"set crop = {_extent_toml(self.network.frame_size)} in [preprocess]",
            )
        flat = len(set(self.preprocess.mean)) == len(set(self.preprocess.std)) == 1
        if self.network.channels != RGB_CHANNELS and not flat:
            raise CardError(
                "mean and std differ from channel to channel, but optical flow has one of each",
                "upstream's are mean = [0.5, 0.5, 0.5] and std = [0.226, 0.226, 0.226]",
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

    def with_frame_size(self, size: Extent) -> ModelCard:
        """The same model for frames of another size: its weights fit, and it sees as much of a picture, or more.

        A smaller crop is cut from a smaller picture. A larger one is cut from the same picture, until it is all of it:
        with 256 pixels, and pictures of 256, that is upstream's full resolution.

        Raises
        ------
        CardError
            No network has such a size.
        """
        side, before = min(height_width(size)), min(height_width(self.preprocess.crop))
        smaller = round(self.preprocess.short_side * side / before)
        short_side = smaller if side < before else max(side, self.preprocess.short_side)
        return replace(
            self,
            network=replace(self.network, frame_size=size),
            preprocess=replace(self.preprocess, crop=size, short_side=short_side),
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


def is_label(label: str) -> bool:
    """Whether a class can have this name: 1 to 200 characters, no control characters."""
    hidden = any(unicodedata.category(character) in ("Cc", "Cs") for character in label.replace("\t", " "))
    return not hidden and 1 <= len(label) <= 200


def _check_label(index: int, label: str) -> None:
    if not is_label(label):
        raise CardError(
            f"label {index} is {shown(label)}, expected 1 to 200 characters and no control characters",
            "correct that line of the label file",
        )
