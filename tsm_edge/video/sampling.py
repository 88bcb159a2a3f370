"""Which frames of a video a network of clips is shown: by numbers alone, as upstream samples them.

The rules are those of the public TSM code for testing (``ops/dataset.py``, ``_get_test_indices``), counted from 0:

- uniform: the video is cut into as many equal segments as the network takes frames, and the frame in the middle of each
  is taken; a second clip (``--twice_sample``) takes the first frame of each segment;
- dense: a clip is spread over 64 consecutive frames, and ten clips begin at equal distances (as I3D samples; non-local
  networks). A video of fewer frames is played again from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tsm_edge.errors import VideoError

# Numbers of frames, from 0; a clip's, in the order in which the network takes them.
Plan = tuple[int, ...]
Kind = Literal["uniform", "dense"]

# Frames over which a dense clip is spread, and how many clips upstream takes.
DENSE_SPAN = 64
DENSE_CLIPS = 10
CLIPS = (1, 2, DENSE_CLIPS)


@dataclass(frozen=True)
class Sampling:
    """How clips are chosen from a video.

    Attributes
    ----------
    kind : {"uniform", "dense"}
    clips : int
        Of a video, whose scores are averaged: 1 or 2 uniform ones; 1, 2 or 10 dense ones. A single dense clip is the
        middle one, which upstream has no rule for.
    """

    kind: Kind = "uniform"
    clips: int = 1

    def __post_init__(self) -> None:
        known = CLIPS if self.kind == "dense" else CLIPS[:2]
        if self.clips not in known:
            raise VideoError(
                f"{self.clips} {self.kind} clips, expected {' or '.join(map(str, known))}",
                "for ten clips: --sampling dense" if self.kind == "uniform" else "upstream takes 10",
            )

    def check_frames(self, frames: int) -> None:
        """Refuse a network of more frames than a dense clip has.

        Raises
        ------
        VideoError
            It would be shown one frame again and again.
        """
        if self.kind == "dense" and frames > DENSE_SPAN:
            raise VideoError(
                f"a dense clip is of {DENSE_SPAN} consecutive frames, the network takes {frames}",
                "leave out --sampling dense",
            )

    def plans(self, count: int, frames: int, length: int = 1) -> tuple[Plan, ...]:
        """The frames of each clip.

        Parameters
        ----------
        count : int
            Frames of the video, at least 1.
        frames : int
            That the network takes at once.
        length : int
            Consecutive frames that belong to each of these; the plan has the first (5 for fields of optical flow).

        Returns
        -------
        tuple of tuple of int
            ``clips`` of them, of ``frames`` numbers each.

        Raises
        ------
        VideoError
            More frames than a dense clip spans.
        """
        self.check_frames(frames)
        if self.kind == "uniform":
            return tuple(_uniform(0, count - length + 1, frames, start) for start in (0.5, 0.0)[: self.clips])
        latest = max(0, count - DENSE_SPAN)
        # NumPy's, as upstream: its rounding decides here and there.
        starts = [latest // 2] if self.clips == 1 else np.linspace(0, latest, self.clips, dtype=int).tolist()
        stride = DENSE_SPAN // frames
        return tuple(tuple((start + index * stride) % count for index in range(frames)) for start in starts)


def section_plan(first: int, count: int, frames: int, length: int = 1) -> Plan:
    """A uniform clip of ``count`` frames of a video from ``first`` on; else as :meth:`Sampling.plans`."""
    return _uniform(first, count - length + 1, frames, 0.5)


def _uniform(first: int, count: int, frames: int, start: float) -> Plan:
    """A frame of each of ``frames`` segments: ``start`` 0 is its first, 0.5 the one in its middle."""
    segment = max(count, 1) / frames
    return tuple(first + int(segment * start + segment * index) for index in range(frames))
