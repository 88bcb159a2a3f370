"""A generated video in which one object does one motion after the other, and what it does in each frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsm_edge.training.clips import bank, draw_scene
from tsm_edge.training.motions import LABELS, Path, Speeds, offsets
from tsm_edge.training.render import Camera, Frames, draw_camera, render
from tsm_edge.training.textures import Random

# Frames of a second of these videos, as the clips' motions are meant.
FPS = 12.0
_SHORTEST, _LONGEST = 12, 16  # frames of a motion
_FADE = 12  # frames of one that appears or vanishes
_HIDDEN = 0.04
# Neither the slowest nor the fastest of the clips' motions.
_SPEEDS = Speeds((0.030, 0.060), (0.040, 0.060), (0.14, 0.28), (0.07, 0.16), (5, 8.5))
_DRAWS = 20  # of a motion, before another one is tried


@dataclass(frozen=True)
class Segment:
    """One motion of a stream.

    Attributes
    ----------
    label : int
        Of :data:`tsm_edge.training.motions.LABELS`.
    first, frames : int
        Where it begins, and how many frames it takes.
    """

    label: int
    first: int
    frames: int


@dataclass(frozen=True)
class Stream:
    """A generated video, of a scene no training clip shows.

    Attributes
    ----------
    segments : tuple of Segment
    path : Path
        Of the object.
    seed : int
    """

    segments: tuple[Segment, ...]
    path: Path
    seed: int

    def truth(self, frame: int) -> int:
        """The motion of a frame."""
        return next(segment.label for segment in reversed(self.segments) if segment.first <= frame)

    def frames(self, height: int, width: int) -> Iterator[Frames]:
        """Draw it motion by motion: uint8 RGB ``[n, height, width, 3]`` each."""
        random = np.random.default_rng([self.seed, 3])
        scene = dataclasses.replace(draw_scene(bank("test", self.seed), random), zoom=0.9)
        scene = dataclasses.replace(scene, scale=min(max(scene.scale, 0.45), 0.6))
        camera = draw_camera(len(self.path), random)
        for segment in self.segments:
            part = slice(segment.first, segment.first + segment.frames)
            piece = Path(*(values[part] for values in self.path.columns()))
            yield render(scene, piece, _part_of(camera, part), height, width, random)


def _part_of(camera: Camera, part: slice) -> Camera:
    """What a camera does to some frames; a picture of many pixels is neither blurred nor compressed here."""
    gain = camera.gain / camera.gain.mean() * np.float32(0.95)
    return Camera(camera.jitter[part], gain[part], camera.slope, min(camera.noise, 6.0))


def draw_stream(segments: int, seed: int = 0) -> Stream:
    """Draw motions that follow each other within the frame; every class comes about equally often."""
    random = np.random.default_rng([seed, 2])
    counts = np.zeros(len(LABELS))
    state = (np.float32(0.5), np.float32(0.5), np.float32(0.0), np.float32(0.0), np.float32(_HIDDEN))
    made: list[Segment] = []
    pieces: list[Path] = []
    label = LABELS.index("appear")
    while len(made) < segments:
        frames = int(random.integers(_SHORTEST, _LONGEST + 1))
        first = made[-1].first + made[-1].frames if made else 0
        label, piece = _next(state, counts, made[-1].label if made else -1, frames, random)
        counts[label] += 1
        made.append(Segment(label, first, len(piece)))
        pieces.append(piece)
        x, y, size, angle, opacity = (values[-1] for values in piece.columns())
        if opacity < 0.5:  # it comes back elsewhere
            x, y, size = (np.float32(value) for value in random.uniform((0.35, 0.35, -0.3), (0.65, 0.65, 0.3)))
        state = (x, y, size, angle, opacity)
    columns = zip(*(piece.columns() for piece in pieces), strict=True)
    return Stream(tuple(made), Path(*(np.concatenate(column) for column in columns)), seed)


_State = tuple[np.float32, np.float32, np.float32, np.float32, np.float32]


def _next(state: _State, counts: npt.NDArray[np.float64], before: int, frames: int, random: Random) -> tuple[int, Path]:
    """The rarest motion so far that the object has room for."""
    hidden = state[4] < 0.5
    order = np.argsort(counts + random.random(len(counts)))
    for label in map(int, order):
        name = LABELS[label]
        if label == before or (name == "appear") != hidden:
            continue
        for _ in range(_DRAWS):
            count = _FADE if name in ("appear", "vanish") else frames
            piece = _continued(state, name, offsets(label, count + 1, _SPEEDS, random))
            if _fits(piece):
                return label, piece
    still = LABELS.index("appear" if hidden else "still")
    return still, _continued(state, LABELS[still], offsets(still, frames + 1, _SPEEDS, random))


def _continued(state: _State, name: str, motion: Path) -> Path:
    """A motion from where the object is."""
    moved = [values - values[0] + start for values, start in zip(motion.columns()[:4], state[:4], strict=True)]
    fade = motion.opacity
    if name == "appear":
        opacity = state[4] + (1 - state[4]) * fade
    elif name == "vanish":
        opacity = np.float32(_HIDDEN) + (state[4] - np.float32(_HIDDEN)) * fade
    else:
        opacity = np.full(len(motion), state[4], np.float32)
    return Path(*(values[1:] for values in (*moved, opacity)))


def _fits(piece: Path) -> bool:
    """Whether the object stays in view and neither fills the frame nor gets lost in it."""
    inside = all(float(values.min()) >= 0.1 and float(values.max()) <= 0.9 for values in (piece.x, piece.y))
    return inside and float(piece.size.min()) >= -0.55 and float(piece.size.max()) <= 0.5
