"""Clips to scores: those of a network wait until there are as many as it takes at once, whatever video they are of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tsm_edge.label.decoding import Clip, Part
from tsm_edge.label.members import Member
from tsm_edge.live.smoothing import Scores


@dataclass(frozen=True)
class Seen:
    """What networks made of a part.

    Attributes
    ----------
    logits : list of numpy.ndarray
        Of each network, the mean over its clips, float64 ``[classes]``.
    clips : int
        Of all networks.
    seconds : float
        That these took, each its share of a batch.
    """

    logits: list[Scores]
    clips: int
    seconds: float


@dataclass
class _Found:
    """The same of a part that is not complete yet: of each network, clip by clip."""

    logits: list[list[Scores]]
    seconds: float = 0.0


@dataclass
class Batches:
    """Of networks that label together.

    Parameters
    ----------
    members : sequence of Member
    """

    members: Sequence[Member]
    _waiting: dict[int, list[Clip]] = field(default_factory=dict)
    _found: dict[int, _Found] = field(default_factory=dict)

    def add(self, clip: Clip) -> None:
        """Show a clip to its network, as soon as a batch is full."""
        waiting = self._waiting.setdefault(clip.member, [])
        waiting.append(clip)
        if len(waiting) == self.members[clip.member].batch:
            self._run(clip.member)

    def run_all(self) -> None:
        """Show the clips that wait; the rest of their batches stays empty."""
        for member in list(self._waiting):
            self._run(member)

    def waits_for(self, part: Part) -> bool:
        """Whether a clip of a part waits."""
        return any(clip.part is part for clips in self._waiting.values() for clip in clips)

    def keep_only(self, parts: Sequence[Part]) -> None:
        """Forget the clips and scores of other parts: their video cannot be read to its end."""
        kept = {id(part) for part in parts}
        self._waiting = {
            member: [clip for clip in clips if id(clip.part) in kept] for member, clips in self._waiting.items()
        }
        self._found = {part: found for part, found in self._found.items() if part in kept}

    def take(self, part: Part) -> Seen:
        """What was made of a part, all of whose clips have been shown."""
        found = self._found.pop(id(part))
        means: list[Scores] = [np.mean(logits, axis=0) for logits in found.logits]
        return Seen(means, sum(map(len, found.logits)), found.seconds)

    def _run(self, member: int) -> None:
        clips = self._waiting.pop(member, [])
        if not clips:
            return
        began_s = time.perf_counter()
        logits = self.members[member].logits([clip.values for clip in clips])
        each_s = (time.perf_counter() - began_s) / len(clips)
        for clip, of_clip in zip(clips, logits, strict=True):
            found = self._found.setdefault(id(clip.part), _Found([[] for _ in self.members]))
            found.logits[member].append(of_clip)
            found.seconds += each_s
