"""Labels of recorded videos: decoding runs ahead in a thread of its own, while the networks look at what it has made.

Each network's scores are averaged over the clips and crops of a video, then over the networks, by their weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsm_edge.label.batches import Batches
from tsm_edge.label.decoding import Clip, Decoded, NotLabelled, PartEnded, Sliding, VideoEnded, decoded
from tsm_edge.label.members import Ensemble
from tsm_edge.label.overlap import ahead
from tsm_edge.live.smoothing import Scores
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.sampling import Sampling

# Clips that wait for the networks: of 16 frames of 256 x 256 pixels 12.6 MB each.
_AHEAD = 3
_TOP = 5


@dataclass(frozen=True)
class Guess:
    """A class with its probability, 0..1."""

    label: str
    class_index: int
    probability: float


@dataclass(frozen=True)
class Spent:
    """What the networks were shown, and the time that they took.

    Attributes
    ----------
    clips : int
        Clips, each crop counted.
    network_s : float
        Seconds.
    """

    clips: int = 0
    network_s: float = 0.0


@dataclass(frozen=True)
class VideoLabel:
    """What a video shows: its five most probable classes, the best first."""

    top: tuple[Guess, ...]
    video: VideoEnded
    spent: Spent


@dataclass(frozen=True)
class SectionLabel:
    """The same of a section of it, from ``start_s`` on and before ``end_s``, seconds."""

    start_s: float
    end_s: float
    top: tuple[Guess, ...]


@dataclass(frozen=True)
class SectionsEnded:
    """A video was labelled section by section, up to its end."""

    video: VideoEnded
    spent: Spent


def label_videos(
    members: Ensemble, videos: Iterable[Path], sampling: Sampling, options: SourceOptions | None = None
) -> Iterator[VideoLabel | NotLabelled]:
    """Label videos, in their order; one that cannot be read is told and passed over.

    Raises
    ------
    ArtifactError, RpcError
        A network fails.
    """
    top: tuple[Guess, ...] = ()
    for event in _seen(members, videos, sampling, options):
        if isinstance(event, SectionLabel):
            top = event.top
        elif isinstance(event, SectionsEnded):
            yield VideoLabel(top, event.video, event.spent)
        else:
            yield event


def label_sections(
    members: Ensemble, video: Path, sliding: Sliding, options: SourceOptions | None = None
) -> Iterator[SectionLabel | SectionsEnded]:
    """Label a video section by section.

    Raises
    ------
    VideoError
        It cannot be read.
    ArtifactError, RpcError
        A network fails.
    """
    for event in _seen(members, [video], sliding, options):
        if isinstance(event, NotLabelled):
            raise event.error
        yield event


def _seen(
    members: Ensemble, videos: Iterable[Path], how: Sampling | Sliding, options: SourceOptions | None
) -> Iterator[SectionLabel | SectionsEnded | NotLabelled]:
    """Show the networks what is decoded."""
    told = _Telling(members)
    with closing(ahead(decoded(members.members, videos, how, options or SourceOptions()), _AHEAD)) as events:
        for event in events:
            told.add(event)
            yield from told.due()
    told.batches.run_all()
    yield from told.due()


class _Telling:
    """What happens, told in order: an end of something when networks have seen all clips before it."""

    def __init__(self, members: Ensemble) -> None:
        self.batches = Batches(members.members)
        self._members = members
        self._ends: deque[PartEnded | VideoEnded | NotLabelled] = deque()
        self._spent = Spent()

    def add(self, event: Decoded) -> None:
        if isinstance(event, Clip):
            self.batches.add(event)
            return
        if isinstance(event, NotLabelled):
            self.batches.keep_only([end.part for end in self._ends if isinstance(end, PartEnded)])
        self._ends.append(event)

    def due(self) -> Iterator[SectionLabel | SectionsEnded | NotLabelled]:
        while self._ends:
            end = self._ends[0]
            if isinstance(end, PartEnded) and self.batches.waits_for(end.part):
                return
            self._ends.popleft()
            if isinstance(end, PartEnded):
                seen = self.batches.take(end.part)
                self._spent = Spent(self._spent.clips + seen.clips, self._spent.network_s + seen.seconds)
                top = _top(self._members.probabilities(seen.logits), self._members.labels)
                yield SectionLabel(end.part.start_s, end.part.end_s, top)
            else:
                yield end if isinstance(end, NotLabelled) else SectionsEnded(end, self._spent)
                self._spent = Spent()


def _top(probabilities: Scores, labels: tuple[str, ...]) -> tuple[Guess, ...]:
    best = [int(index) for index in np.argsort(-probabilities, kind="stable")[:_TOP]]
    return tuple(
        Guess(labels[index] if labels else f"class {index}", index, float(probabilities[index])) for index in best
    )
