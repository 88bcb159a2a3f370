"""Clips of a video, each as soon as its last frame is there; what no later clip needs is forgotten at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Image
from tsm_edge.video.indexed import IndexedVideo
from tsm_edge.video.sampling import Plan
from tsm_edge.video.views import Floats, View


@dataclass(frozen=True)
class Wanted:
    """A clip that is wanted: seen so, of these frames; ``tag`` is the caller's."""

    view: View
    plan: Plan
    tag: Any


def gather(video: IndexedVideo, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, list[Floats]]]:
    """Yield clips, float32 ``[T, channels, height, width]``, one for each crop, in the order in which they end.

    Views that are the same object share what they keep. Where the file ends before its packets said, its last frame
    stands for the missing ones, as a picture would stand still.

    Raises
    ------
    VideoError
        Not a single frame could be decoded.
    """
    pairs = [(item, item.view.needs(item.plan, video.count)) for item in wanted]
    order = sorted(pairs, key=lambda pair: max(pair[1]))
    last_use: dict[tuple[int, int], int] = {}
    views: dict[int, dict[int, View]] = {}
    for place, (item, needed) in enumerate(order):
        for index in needed:
            last_use[id(item.view), index] = place
            views.setdefault(index, {})[id(item.view)] = item.view
    kept: dict[int, dict[int, Any]] = {id(item.view): {} for item in wanted}
    done = 0
    for index, image in _all_of(video, sorted(views)):
        for key, view in views[index].items():
            kept[key][index] = view.keep(image)
        while done < len(order) and max(order[done][1]) <= index:
            item, needed = order[done]
            mine = kept[id(item.view)]
            yield item, list(item.view.clips(item.plan, video.count, mine))
            for used in needed:
                if last_use[id(item.view), used] == done:
                    del mine[used]
            done += 1


def _all_of(video: IndexedVideo, indices: Sequence[int]) -> Iterator[tuple[int, Image]]:
    """Fetch frames; the last one that there is stands for those that are missing."""
    image: Image | None = None
    fetched = 0
    for index, image in video.fetch(indices):
        fetched += 1
        yield index, image
    if image is None:
        raise VideoError(f"{video.name}: the frames wanted of it cannot be decoded", "try to play it: it is damaged")
    for index in indices[fetched:]:
        yield index, image
