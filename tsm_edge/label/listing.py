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

    A folder of pictures without a video in it is one video.

    Raises
    ------
    VideoError
        A place does not exist, or a folder has no video.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            below = list(_below(place))
            if not below:
                raise VideoError(
                    f"{printable(place)}: has no videos, nor folders of pictures", "name the files themselves"
                )
            found |= dict.fromkeys(below)
        elif place.exists() or is_pattern(place):
            found[place] = None
        else:
            raise VideoError(f"{printable(place)}: no such file or folder", "check the path")
    return list(found)


def _below(place: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(place):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        films = [Path(folder, name) for name in names if is_film(name)]
        if films:
            yield from films
        elif any(map(is_picture, names)):
            yield Path(folder)
