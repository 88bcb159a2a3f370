"""From videos to the clips that networks are shown, part by part: what runs ahead of the networks."""

from __future__ import annotations

import os
import stat
import time
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from tsm_edge.errors import TsmEdgeError, VideoError
from tsm_edge.files.paths import printable
from tsm_edge.label.members import Member
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.gather import Wanted, gather
from tsm_edge.video.indexed import IndexedVideo, open_indexed
from tsm_edge.video.sampling import Plan, Sampling, section_plan
from tsm_edge.video.views import Floats

_SHORTEST_S, _LONGEST_S = 0.1, 3600.0


@dataclass(frozen=True)
class Sliding:
    """Sections of ``seconds`` each, which overlap by half."""

    seconds: float

    def __post_init__(self) -> None:
        if not _SHORTEST_S <= self.seconds <= _LONGEST_S:
            raise VideoError(
                f"sections of {self.seconds:g} s, expected {_SHORTEST_S:g} to {_LONGEST_S:g} s",
                "2 s suit many actions: --sliding 2",
            )

    @property
    def step_s(self) -> float:
        """From the beginning of a section to that of the next, seconds."""
        return self.seconds / 2


@dataclass(frozen=True)
class Part:
    """A section of a video, or all of it: it is given one label.

    Attributes
    ----------
    start_s, end_s : float
        Seconds.
    plans : tuple
        For each network the plans of its clips.
    """

    start_s: float
    end_s: float
    plans: tuple[tuple[Plan, ...], ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip of a part for a network, by its number: float32 ``[frames, channels, height, width]``."""

    part: Part
    member: int
    values: Floats


@dataclass(frozen=True)
class PartEnded:
    """All clips of a part have been given."""

    part: Part


@dataclass(frozen=True)
class VideoEnded:
    """All of a video has been given.

    Attributes
    ----------
    video : str
        As it was named.
    frames : int
    duration_s : float
        From its first frame to its last, seconds.
    decode_s : float
        Time for decoding, cropping and flow, seconds.
    trouble : str
        What was wrong with what was read of it, in words; empty: nothing.
    bytes : int or None
        As of :func:`size_of`.
    """

    video: str
    frames: int
    duration_s: float
    decode_s: float
    trouble: str
    bytes: int | None = None


@dataclass(frozen=True)
class NotLabelled:
    """A video that cannot be labelled: why, and what to try; its size as of :func:`size_of`."""

    video: str
    error: TsmEdgeError
    bytes: int | None = None


Decoded = Clip | PartEnded | VideoEnded | NotLabelled


def size_of(path: Path) -> int | None:
    """Bytes of a file; None of what is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def decoded(
    members: tuple[Member, ...], videos: Iterable[Path], how: Sampling | Sliding, options: SourceOptions
) -> Generator[Decoded, None, None]:
    """Make the clips of videos, in their order; one that cannot be read is told and passed over."""
    for path in videos:
        name, size = printable(path), size_of(path)
        try:
            with open_indexed(path, options) as video:
                yield from _of_video(members, video, name, how, size)
        except TsmEdgeError as error:
            yield NotLabelled(name, error, size)
        except OSError as error:
            problem = f"video {name}: cannot be read ({error.strerror or error})"
            yield NotLabelled(name, VideoError(problem, "check the file"), size)


def _of_video(
    members: tuple[Member, ...], video: IndexedVideo, name: str, how: Sampling | Sliding, size: int | None
) -> Iterator[Decoded]:
    began_s = time.perf_counter()
    parts = [_whole(members, video, how)] if isinstance(how, Sampling) else _sections(members, video, how)
    wanted = [
        Wanted(members[number].view, plan, (part, number))
        for part in parts
        for number, plans in enumerate(part.plans)
        for plan in plans
    ]
    missing = {id(part): sum(map(len, part.plans)) for part in parts}
    made = gather(video, wanted)
    decode_s = time.perf_counter() - began_s
    while True:
        began_s = time.perf_counter()
        found = next(made, None)
        decode_s += time.perf_counter() - began_s
        if found is None:
            break
        item, clips = found
        part, number = item.tag
        yield from (Clip(part, number, clip) for clip in clips)
        missing[id(part)] -= 1
        if not missing[id(part)]:
            yield PartEnded(part)
    yield VideoEnded(name, video.count, video.times_s[-1] - video.times_s[0], decode_s, video.trouble(), size)


def _whole(members: tuple[Member, ...], video: IndexedVideo, sampling: Sampling) -> Part:
    plans = tuple(
        sampling.plans(member.view.steps(video.count), member.frames, member.view.length) for member in members
    )
    return Part(video.times_s[0], video.times_s[-1], plans)


def _sections(members: tuple[Member, ...], video: IndexedVideo, sliding: Sliding) -> list[Part]:
    """The last section takes what is left after it; one without a frame is left out."""
    first_s = video.times_s[0]
    count = max(1, ceil((video.times_s[-1] - first_s) / sliding.step_s) - 1)
    parts, number = [], 0
    while number < count:
        start_s = first_s + number * sliding.step_s
        end_s = start_s + sliding.seconds
        begin = bisect_left(video.times_s, start_s)
        end = bisect_left(video.times_s, end_s) if number < count - 1 else video.count
        number += 1
        if begin < end:
            plans = tuple((_in_section(member, video, begin, end),) for member in members)
            parts.append(Part(start_s, end_s, plans))
        else:  # damage can make a gap of years: on to the sections of the frame after it
            number = max(number, int((video.times_s[begin] - first_s) / sliding.step_s) - 2)
    return parts


def _in_section(member: Member, video: IndexedVideo, begin: int, end: int) -> Plan:
    steps = member.view.steps(video.count)  # of flow one fewer than frames
    begin = min(begin, steps - 1)
    return section_plan(begin, min(end, steps) - begin, member.frames, member.view.length)
