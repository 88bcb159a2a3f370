"""How an object moves through a generated clip: place, size, angle and opacity, frame by frame.

Each class with a direction has an opposite, and the opposite's motion is drawn from the same distribution and played
backwards, so that no single frame, and no bag of frames without their order, tells the two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Random = np.random.Generator

_VISIBLE = 0.5
LABELS = (
    "still",
    "left",
    "right",
    "up",
    "down",
    "towards",
    "away",
    "rotate clockwise",
    "rotate counterclockwise",
    "shake",
    "appear",
    "vanish",
)
# Classes that are each other played backwards: what a network of single frames cannot tell apart.
PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (10, 11))


@dataclass(frozen=True)
class Speeds:
    """Ranges that motions are drawn from, per frame.

    Attributes
    ----------
    travel : (float, float)
        Frame widths a frame.
    growth : (float, float)
        Natural logarithm of the size's change a frame.
    turn : (float, float)
        Radians a frame.
    shake_reach : (float, float)
        Frame widths to either side.
    shake_period : (float, float)
        Frames.
    """

    travel: tuple[float, float]
    growth: tuple[float, float]
    turn: tuple[float, float]
    shake_reach: tuple[float, float]
    shake_period: tuple[float, float]


@dataclass(frozen=True)
class Path:
    """Where the object is, one value a frame.

    Attributes
    ----------
    x, y : ndarray
        Centre, in frame widths and heights from the upper left.
    size : ndarray
        Natural logarithm of the size, relative to the object's own.
    angle : ndarray
        Radians, clockwise as seen.
    opacity : ndarray
        0..1.
    """

    x: Values
    y: Values
    size: Values
    angle: Values
    opacity: Values

    def __len__(self) -> int:
        return len(self.x)

    def columns(self) -> tuple[Values, Values, Values, Values, Values]:
        """All five."""
        return self.x, self.y, self.size, self.angle, self.opacity


def joined(first: Path, second: Path) -> Path:
    """One path after the other."""
    return Path(*(np.concatenate(pair) for pair in zip(first.columns(), second.columns(), strict=True)))


def offsets(label: int, frames: int, speeds: Speeds, random: Random) -> Path:
    """Draw a motion relative to its first frame; its opacity is 0..1 of a fade, or all ones.

    Every motion carries a little of the others (drift), as a hand does, far below what makes a class.
    """
    time = _time(frames, random)
    span = np.float32(frames - 1)
    x, y, size, angle = (time * span * np.float32(drift) for drift in _drifts(speeds, random))
    opacity = np.ones(frames, np.float32)
    name = LABELS[label]
    if name in ("left", "right", "up", "down"):
        step = random.uniform(*speeds.travel) * (1 if name in ("right", "down") else -1)
        tilt = random.uniform(-0.2, 0.2)
        along, across = time * span * np.float32(step), time * span * np.float32(step * tilt)
        x, y = (x + along, y + across) if name in ("left", "right") else (x + across, y + along)
    elif name in ("towards", "away"):
        size = size + time * span * np.float32(random.uniform(*speeds.growth) * (1 if name == "towards" else -1))
    elif name in ("rotate clockwise", "rotate counterclockwise"):
        step = random.uniform(*speeds.turn) * (1 if name == "rotate clockwise" else -1)
        angle = angle + time * span * np.float32(step)
    elif name == "shake":
        x, y, angle = _shaken(x, y, angle, speeds, random)
    elif name in ("appear", "vanish"):
        opacity = _fade(frames, random)
        opacity = opacity if name == "appear" else opacity[::-1].copy()
    return Path(x, y, size, angle, opacity)


def _time(frames: int, random: Random) -> Values:
    """0..1 over the frames, at a speed that varies; symmetric under reversal in distribution."""
    even = np.linspace(0, 1, frames, dtype=np.float32)
    sway = random.uniform(-0.06, 0.06)
    swayed: Values = even + np.float32(sway) * np.sin(2 * math.pi * even)
    return swayed


def _drifts(speeds: Speeds, random: Random) -> Values:
    """Of x, y, size and angle a frame: a sixth of the slowest motion at most."""
    slowest = np.array((speeds.travel[0], speeds.travel[0], speeds.growth[0], speeds.turn[0]), np.float32)
    return (slowest / 6 * random.uniform(-1, 1, 4)).astype(np.float32)


def _shaken(x: Values, y: Values, angle: Values, speeds: Speeds, random: Random) -> tuple[Values, Values, Values]:
    phase = random.uniform(0, 2 * math.pi) + 2 * math.pi / random.uniform(*speeds.shake_period) * np.arange(len(x))
    swing = np.sin(phase).astype(np.float32)
    reach, tilt = random.uniform(*speeds.shake_reach), random.uniform(-0.4, 0.4)
    wobble = random.uniform(-0.15, 0.15)
    return x + swing * np.float32(reach), y + swing * np.float32(reach * tilt), angle + swing * np.float32(wobble)


def _fade(frames: int, random: Random) -> Values:
    """From 0 to 1 within half to four fifths of the frames; it begins as late as it ends early, on the whole."""
    begin, end = random.uniform(0.1, 0.25, 2) * (frames - 1)
    fade: Values = np.clip((np.arange(frames) - begin) / (frames - 1 - end - begin), 0, 1).astype(np.float32)
    return fade


def fade_seen(opacity: Values) -> int:
    """Frames until a fade is seen: a third of its way. 0 for what does not fade."""
    way = np.abs(opacity - opacity[0])
    return int(np.argmax(way >= way.max() / 3))


def placed(motion: Path, still: bool, random: Random) -> Path:
    """Put a motion into the frame: its middle is where a still object is, whatever the class."""
    x, y = random.uniform(0.3, 0.7, 2)
    angle = random.uniform(-math.pi, math.pi)
    centred = [values - np.float32((values.max() + values.min()) / 2) for values in motion.columns()[:3]]
    return Path(
        centred[0] + np.float32(x),
        centred[1] + np.float32(y),
        centred[2],
        motion.angle + np.float32(angle),
        _opaque(motion.opacity, still, random),
    )


def _opaque(fade: Values, still: bool, random: Random) -> Values:
    """A fade between faint and plain; other motions keep one opacity from the same range, nearly none where still."""
    low, high = np.float32(random.uniform(0, 0.2)), np.float32(random.uniform(0.75, 1))
    if fade.min() < fade.max():
        faded: Values = low + (high - low) * fade
        return faded
    draw = random.random()
    if still and draw < 0.2:
        return np.full_like(fade, low)
    level = high if draw < 0.65 else low + (high - low) * np.float32(random.uniform(0.3, 1))
    return np.full_like(fade, level)


def led_into(path: Path, label: int, frames: int, speeds: Speeds, random: Random) -> Path:
    """Put another motion, of class ``label``, before a path, so that the object passes from one to the other.

    Where its fade does not fit to the path's first frame, the object rests instead.
    """
    visible = path.opacity[0] >= _VISIBLE
    if LABELS[label] == ("vanish" if visible else "appear"):
        label = LABELS.index("still")
    motion = offsets(label, frames + 1, speeds, random)
    before = [
        values[:-1] - values[-1] + start[0]
        for values, start in zip(motion.columns()[:4], path.columns()[:4], strict=True)
    ]
    fade = motion.opacity[:-1]
    last = path.opacity[0]
    opacity = fade * last if visible else last + fade * (1 - last)
    if fade.min() == fade.max():
        opacity = np.full(frames, last, np.float32)
    return joined(Path(before[0], before[1], before[2], before[3], opacity), path)
