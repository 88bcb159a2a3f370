"""People's own clips as data: a folder of videos a class, or a table of parts of videos."""

from __future__ import annotations

import csv
import io
import math
import os
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tsm_edge.cards import ModelCard, Preprocess, height_width
from tsm_edge.cards.model import is_label
from tsm_edge.errors import TsmEdgeError, VideoError
from tsm_edge.files.atomic import read_text
from tsm_edge.files.paths import printable
from tsm_edge.progress import Progress, silent
from tsm_edge.training.data import SEEN_AFTER, UNSEEN, Frames, HeldOutClips, Labels, TrainingClips
from tsm_edge.video.sampling import section_plan
from tsm_edge.video.source import open_source

Sampling = Literal["pieces", "segments"]

# Frames of a second that a network is shown, where nothing else is asked for.
FPS = 12.0
_FEWEST = 3  # clips of a class: one for each split
_COLUMNS = ["path", "label", "start", "end"]
_VIDEOS = {
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mjpeg", ".mpg", ".mpeg", ".gif"),
    *(".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".ogv"),
}
_NAMED = 4  # broken videos that are named; the others are counted
_LAID_OUT = "put videos into a folder for each class, and these into one"
# Training sees a part of the frame this much smaller than the whole, elsewhere each time.
_SHIFTED = 1 / 8
# It is played at up to this many times its speed, or as much slower.
_FASTER = 1.25
_KEPT_BYTES = 1 << 30
# The share of a training that looking at all videos first usually takes.
_LOOKED_AT = 0.03


@dataclass(frozen=True)
class Clip:
    """A video, or a part of one.

    Attributes
    ----------
    path : Path
    label : str
    start_s, end_s : float or None
        Seconds; None: from its beginning, to its end.
    """

    path: Path
    label: str
    start_s: float | None = None
    end_s: float | None = None


def find_clips(place: Path, fewest: int = _FEWEST, classes: int = 2) -> tuple[Clip, ...]:
    """Clips of a folder with a folder a class, or of a CSV file with the columns path, label, start, end.

    Parameters
    ----------
    place : Path
    fewest, classes : int
        So many clips of a class, and so many classes, are needed at least.

    Raises
    ------
    TsmEdgeError
        There is neither, or fewer than needed; a row or a label cannot be used.
    """
    labels: set[str] = set()
    if place.is_dir():
        folders = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        clips = tuple(_of_folders(folders))
        # One without videos is a class, too, that somebody means to have.
        labels = {_label(folder.name) for folder in folders}
        how = f"put videos into {place}/NAME_OF_A_CLASS/"
    elif place.suffix.lower() in _VIDEOS and place.is_file():
        raise TsmEdgeError(f"{place}: is a video, expected a folder of videos for each class", _LAID_OUT)
    elif place.is_file():
        clips = tuple(_of_table(place))
        how = f"add rows of {','.join(_COLUMNS)}"
    else:
        raise TsmEdgeError(f"{place}: no such folder or CSV file", _LAID_OUT)
    counts = dict.fromkeys(sorted(labels | {clip.label for clip in clips}), 0)
    for clip in clips:
        counts[clip.label] += 1
    for label in counts:
        if not is_label(label):
            raise TsmEdgeError(
                f"{place}: a class is called {label!r}, expected 1 to 200 characters and no control characters",
                "rename it",
            )
    found = sum(count > 0 for count in counts.values())
    few = [f"{label} {count}" for label, count in counts.items() if count < fewest]
    if found < classes:
        raise TsmEdgeError(f"{place}: has {found} classes of videos, expected at least {classes}", how)
    if few:
        raise TsmEdgeError(f"{place}: too few clips ({', '.join(few)}), expected at least {fewest} a class", how)
    return clips


def _of_folders(folders: Sequence[Path]) -> Iterator[Clip]:
    for folder in folders:
        for path in sorted(folder.iterdir()):
            # Hidden ones are thumbnails and what macOS keeps beside a file.
            if not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() in _VIDEOS):
                yield Clip(path, _label(folder.name))


def _label(text: str) -> str:
    """A label as it is compared: macOS writes ``u`` and its dots as two characters, others as one."""
    return unicodedata.normalize("NFC", text.strip())


def _of_table(place: Path) -> Iterator[Clip]:
    rows = csv.DictReader(io.StringIO(read_text(place)), restkey="")
    try:
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise TsmEdgeError(
                f"{place}: its first line is {','.join(rows.fieldnames or ())!r}, expected the columns "
                f"{','.join(_COLUMNS)}",
                "begin the file with: path,label,start,end",
            )
        for row in rows:
            yield _of_row(row, place, f"{place}: line {rows.line_num}")
    except csv.Error as error:
        raise TsmEdgeError(f"{place}: line {rows.reader.line_num}: {error}", "correct that line") from None


def _of_row(row: Mapping[str, Any], place: Path, where: str) -> Clip:
    if any(row.get("") or ()):
        raise TsmEdgeError(
            f"{where}: has more values than the first line has columns",
            'put values with a comma in quotes ("a, b"); seconds take a point',
        )
    try:
        start, end = (float(row[name]) if row.get(name) else None for name in ("start", "end"))
    except ValueError:
        start = end = math.nan
    if not all(time is None or math.isfinite(time) for time in (start, end)):
        raise TsmEdgeError(f"{where}: start and end are seconds", "correct that line")
    label = _label(row["label"] or "")
    first = start or 0.0
    if not row["path"] or not label or first < 0 or (end is not None and end <= first):
        raise TsmEdgeError(
            f"{where}: expected a path, a label, and an end after its start, which is not negative",
            "correct that line",
        )
    if label.splitlines() != [label]:
        raise TsmEdgeError(f"{where}: the label has several lines, expected one", "correct that line")
    return Clip(place.parent / row["path"], label, start, end)


def read_clip(clip: Clip, preprocess: Preprocess, fps: float, margin: float = 0.0) -> Frames:
    """Decode a clip at a rate, to the size the network takes: uint8 RGB ``[T, H, W, 3]``.

    Parameters
    ----------
    clip : Clip
    preprocess : Preprocess
    fps : float
        Frames of a second that are kept; 0: all.
    margin : float
        So much more of the frame is kept around the crop, a share of it.

    Raises
    ------
    VideoError
        It cannot be decoded, or has no frame in its time.
    """
    import cv2

    height, width = (round(side * (1 + margin)) for side in height_width(preprocess.crop))
    frames: list[Frames] = []
    due_s = clip.start_s or 0.0
    with open_source(clip.path) as source:
        for frame in source:
            if clip.end_s is not None and frame.time_s >= clip.end_s:
                break
            if frame.time_s + 1e-6 < due_s:
                continue
            due_s = max(due_s + 1 / fps, frame.time_s) if fps else 0.0
            rows, columns = preprocess.resized(*frame.image.shape[:2])
            rows, columns = max(round(rows * (1 + margin)), height), max(round(columns * (1 + margin)), width)
            image = cv2.resize(frame.image, (columns, rows), interpolation=cv2.INTER_LINEAR)
            top, left = round((rows - height) / 2), round((columns - width) / 2)
            frames.append(image[top : top + height, left : left + width].copy())
            if len(frames) * frames[0].nbytes > _KEPT_BYTES:
                raise VideoError(
                    f"{clip.path}: more than {frame.time_s - (clip.start_s or 0):.0f} s of it do not fit into memory, "
                    "expected a short clip",
                    f"cut it, or name its parts in a CSV file with {','.join(_COLUMNS)}",
                )
    if not frames:
        raise VideoError(f"{clip.path}: no frames from {clip.start_s or 0:g} s on", "correct its start and end")
    return np.stack(frames)


@dataclass(frozen=True)
class VideoData:
    """Clips of people, split by chance but always in the same way.

    Attributes
    ----------
    labels : tuple of str
    splits : tuple of 3 tuples of Clip
        To train, to validate, to test.
    preprocess : Preprocess
    frames : int
        Of a piece that is learned from, and of a held-out clip: shorter ones stand still at their end.
    fps : float
    seed : int
    origin : str
    repeats : int
        How often an epoch has each clip.
    mixed : bool
        Clips of one video are in several splits: there are too few videos. Accuracy looks better than it is.
    sampling : {"pieces", "segments"}
        ``pieces``: consecutive frames, as an online network sees them. ``segments``: one frame of each of ``frames``
        equal parts of a clip, anywhere in them to learn from and in their middle to be measured on (TSN's, upstream's).
    """

    labels: tuple[str, ...]
    splits: tuple[tuple[Clip, ...], tuple[Clip, ...], tuple[Clip, ...]]
    preprocess: Preprocess
    frames: int
    fps: float
    seed: int
    origin: str
    repeats: int = 1
    mixed: bool = False
    sampling: Sampling = "pieces"

    @classmethod
    def of(
        cls, place: Path, card: ModelCard, seed: int, fps: float = FPS, repeats: int = 1, progress: Progress = silent
    ) -> VideoData:
        """Find a folder's or table's clips and split them: of each class a fifth to validate, a fifth to test.

        Clips of one video are of one split, where each class has videos enough. A network that is not online gets
        segments, as ``tsm-edge label`` gives it.

        Raises
        ------
        TsmEdgeError
            As from :func:`find_clips`.
        VideoError
            As from :func:`check_clips`.
        """
        clips = find_clips(place)
        labels = tuple(sorted({clip.label for clip in clips}))
        check_clips(clips, card.preprocess, fps, progress)
        of_video = _split(clips, labels, [os.path.realpath(clip.path) for clip in clips], seed)
        mixed = not all({clip.label for clip in part} == {*labels} for part in of_video)
        splits = _split(clips, labels, range(len(clips)), seed) if mixed else of_video
        origin = place.name + (" (clips of one video are learned from and tested on)" if mixed else "")
        network = card.network
        sampling: Sampling = "pieces" if network.temporal_mode == "online" else "segments"
        return cls(labels, splits, card.preprocess, network.frames, fps, seed, origin, repeats, mixed, sampling)

    def train(self) -> TrainingClips:
        """Pieces that begin anywhere, a little faster or slower, of parts of the frame, in another order each epoch."""
        return _Pieces(self)

    def validation(self) -> HeldOutClips:
        """Whole, from the middle."""
        return Held(self, self.splits[1])

    def test(self) -> HeldOutClips:
        """Whole, from the middle."""
        return Held(self, self.splits[2])

    def class_of(self, clip: Clip) -> int:
        """Its class."""
        return self.labels.index(clip.label)


def check_clips(clips: Sequence[Clip], preprocess: Preprocess, fps: float, progress: Progress) -> None:
    """Find what cannot be decoded before hours of training, not behind them.

    Raises
    ------
    VideoError
        Some cannot be opened, or have no frame in a clip's time: the first five are named, the others counted.
    """
    latest: dict[Path, float] = {}
    for clip in clips:
        latest[clip.path] = max(latest.get(clip.path, 0.0), clip.start_s or 0.0)
    broken: dict[Path, VideoError] = {}
    for number, (path, start_s) in enumerate(latest.items(), 1):
        try:
            with open_source(path) as source:
                length_s = (source.info.frame_count or 0) / source.info.fps if source.info.fps else 0.0
            if start_s > 0 and start_s >= length_s - 1:  # what a file says of its length is a hint
                read_clip(Clip(path, "", start_s), preprocess, fps)
        except VideoError as error:
            broken[path] = error
        progress(f"looking at video {number} of {len(latest)}", _LOOKED_AT * number / len(latest))
    if broken:
        first, *others = broken
        also = f" (nor can be used: {_some(others)})" if others else ""
        raise VideoError(f"{broken[first].problem}{also}", broken[first].hint)


def _some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(printable(path) for path in paths[:_NAMED]) + more


def _split(
    clips: Sequence[Clip], labels: Sequence[str], videos: Sequence[Hashable], seed: int
) -> tuple[tuple[Clip, ...], tuple[Clip, ...], tuple[Clip, ...]]:
    """Clips to train, to validate and to test; those of the same video are together."""
    of_label = {
        label: list(dict.fromkeys(video for clip, video in zip(clips, videos, strict=True) if clip.label == label))
        for label in labels
    }
    split_of: dict[Hashable, int] = {}
    # Where videos show several classes, the class of the fewest videos chooses first.
    for label in sorted(labels, key=lambda label: len(of_label[label])):
        mine = of_label[label]
        free = [video for video in mine if video not in split_of]
        held = max(len(mine) // 5, 1)
        wanted = [max(held - sum(split_of.get(video) == split for video in mine), 0) for split in (2, 1)]
        order = np.random.default_rng([seed, labels.index(label)]).permutation(len(free))
        for place, index in enumerate(order):
            split_of[free[index]] = 2 if place < wanted[0] else 1 if place < sum(wanted) else 0
    of_video: dict[Hashable, list[Clip]] = {}
    for clip, video in zip(clips, videos, strict=True):
        of_video.setdefault(video, []).append(clip)
    parts: tuple[list[Clip], list[Clip], list[Clip]] = ([], [], [])
    for video, split in split_of.items():
        parts[split].extend(of_video[video])
    return tuple(parts[0]), tuple(parts[1]), tuple(parts[2])


class _Kept:
    """Decoded clips, as many as fit into a GiB; threads may ask at the same time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._frames: dict[int, Frames] = {}

    def get(self, index: int, read: Callable[[], Frames]) -> Frames:
        """The frames of a clip, read if they are not kept."""
        frames = self._frames.get(index)
        if frames is None:
            frames = read()
            if self.bytes + frames.nbytes <= _KEPT_BYTES:
                self.bytes += frames.nbytes
                self._frames[index] = frames
        return frames


class _Pieces:
    def __init__(self, data: VideoData) -> None:
        self._data, self._clips = data, data.splits[0]
        self._kept = _Kept()
        self.per_epoch = len(self._clips) * data.repeats

    def training_batch(self, epoch: int, places: Sequence[int]) -> tuple[Frames, Labels]:
        data = self._data
        order = np.random.default_rng([data.seed, 7, epoch]).permutation(self.per_epoch)
        pieces = [self._piece(int(order[place]) % len(self._clips), [data.seed, 8, epoch, place]) for place in places]
        truth = [data.class_of(self._clips[int(order[place]) % len(self._clips)]) for place in places]
        labels = np.repeat(np.array(truth, np.int64)[:, None], data.frames, 1)
        labels[:, :SEEN_AFTER] = UNSEEN
        return np.stack(pieces), labels

    def _piece(self, index: int, seed: list[int]) -> Frames:
        data, random = self._data, np.random.default_rng(seed)
        whole = self._whole(index)
        draw = _piece if data.sampling == "pieces" else _segments
        shown = draw(len(whole), data.frames, random)
        height, width = height_width(data.preprocess.crop)
        top = int(random.integers(whole.shape[1] - height + 1))
        left = int(random.integers(whole.shape[2] - width + 1))
        part = whole[np.minimum(shown, len(whole) - 1)]  # a clip that is too short stands still at its end
        part = part[:, top : top + height, left : left + width]
        gain, lift = random.uniform(0.8, 1.2), random.uniform(-12, 12)
        table = np.clip(np.arange(256) * gain + lift, 0, 255).astype(np.uint8)
        piece: Frames = table[part]
        return piece

    def _whole(self, index: int) -> Frames:
        data = self._data
        return self._kept.get(index, lambda: read_clip(self._clips[index], data.preprocess, data.fps, _SHIFTED))


@dataclass(frozen=True)
class Held:
    """Clips that nothing was learned from."""

    data: VideoData
    clips: tuple[Clip, ...]
    _kept: _Kept = field(default_factory=_Kept, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, index: int) -> str:
        """Of its file, and its time in it."""
        clip = self.clips[index]
        return printable(clip.path) + ("" if clip.start_s is None else f" from {clip.start_s:g} s")

    def batch(self, indices: Sequence[int]) -> tuple[Frames, Labels]:
        """As they are, from the middle, or of each segment the middle frame."""
        pieces = [self._middle(index) for index in indices]
        truth = np.array([self.data.class_of(self.clips[index]) for index in indices], np.int64)
        labels = np.repeat(truth[:, None], self.data.frames, 1)
        labels[:, :SEEN_AFTER] = UNSEEN
        return np.stack(pieces), labels

    def _middle(self, index: int) -> Frames:
        return self._kept.get(index, lambda: self._read_middle(self.clips[index]))

    def _read_middle(self, clip: Clip) -> Frames:
        whole = read_clip(clip, self.data.preprocess, self.data.fps)
        if self.data.sampling == "segments":
            segments: Frames = whole[list(section_plan(0, len(whole), self.data.frames))]
            return segments
        first = max(len(whole) - self.data.frames, 0) // 2
        # A copy, so that the rest of a long clip is not kept with it.
        middle: Frames = _lengthened(whole[first : first + self.data.frames], self.data.frames).copy()
        return middle


def _piece(count: int, frames: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Frames that follow each other from anywhere on, a little faster or slower; the last ones may not be there."""
    speed = float(_FASTER ** random.uniform(-1, 1))
    first = int(random.integers(count - min(math.ceil(frames * speed), count) + 1))
    return first + (np.arange(frames) * speed).astype(np.int64)


def _segments(count: int, frames: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """A frame of each segment, anywhere in it."""
    return ((np.arange(frames) + random.random(frames)) * (count / frames)).astype(np.int64)


def _lengthened(frames: Frames, count: int) -> Frames:
    """A clip that is too short stands still at its end."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate((frames, np.repeat(frames[-1:], missing, 0)))
