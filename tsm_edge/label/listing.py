"""Which videos are meant by the files and folders that a person names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable
from tsm_edge.video.pictures import is_film, is_pattern, is_picture


def find_videos(places: Iterable[Path]) -> list[Path]:
    """Return videos in a fixed order, none twice: files as named, and of folders all below that has a video's name.

    A folder of pictures without a video in it is one video. So is a folder that cannot be listed: opening it says why.

    Raises
    ------
    VideoError
        A place does not exist, or a folder has no video.
    """
    found: dict[Path, None] = {}
    for place in places:
        if os.path.isdir(place):
            below = list(_below(place))
            if not below:
                raise VideoError(
                    f"{printable(place)}: has no videos, nor folders of pictures", "name the files themselves"
                )
            found |= dict.fromkeys(below)
        elif os.path.exists(place) or is_pattern(place):
            found[place] = None
        else:
            raise VideoError(f"{printable(place)}: no such file or folder", "check the path")
    return list(found)


def _below(top: Path) -> Iterator[Path]:
    """Links are followed; a folder that is reached in several ways counts once."""
    seen: set[str] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError:
            yield folder
            continue
        inner = [name for name in names if os.path.isdir(folder / name)]
        files = sorted({*names} - {*inner})
        films = [folder / name for name in files if is_film(name)]
        if films:
            yield from films
        elif any(map(is_picture, files)):
            yield folder
        waiting += [folder / name for name in reversed(inner)]
