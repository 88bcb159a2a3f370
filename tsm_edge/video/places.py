"""Frames at a few places spread over a file: what a model in integers is calibrated with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tsm_edge.cards import Preprocess
from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable
from tsm_edge.video.base import VideoSource
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.source import open_source

PLACES, FRAMES = 8, 16


def open_clip(path: Path) -> VideoSource:
    """Open a video file or a folder of pictures.

    Raises
    ------
    VideoError
        It cannot be read, or is no file.
    """
    if not path.exists():
        raise VideoError(f"{printable(str(path))}: no such file or folder", "name a video file: --calibrate CLIP")
    return open_source(str(path), SourceOptions())


def frames_at_places(
    path: Path, preprocess: Preprocess, places: int = PLACES, frames: int = FRAMES
) -> list[npt.NDArray[np.float32]]:
    """Read frames of a clip.

    Parameters
    ----------
    path : Path
        A video file or a folder of pictures.
    preprocess : Preprocess
    places : int
        Spread evenly; fewer where the clip is short.
    frames : int
        That follow each other, at every place.

    Returns
    -------
    list of numpy.ndarray
        For each place float32 [frames, 3, height, width], the last one maybe with fewer frames.

    Raises
    ------
    VideoError
        The clip cannot be read, or has no frame.
    """
    with open_clip(path) as source:
        count = source.info.frame_count
    if not count:
        with open_clip(path) as source:
            count = sum(1 for _ in source)
    places = max(1, min(places, count // frames))
    starts = {index * count // places: index for index in range(places)}
    found: dict[int, list[npt.NDArray[np.float32]]] = {}
    place, left = -1, 0
    process = Preprocessor(preprocess)
    with open_clip(path) as source:
        for index, frame in enumerate(source):
            if index in starts:
                place, left = starts[index], frames
            if left:
                found.setdefault(place, []).append(process(frame.image)[0].copy())
                left -= 1
            if place == places - 1 and not left:
                break
    if not found:
        raise VideoError(f"{printable(str(path))}: has no frame to calibrate with", "give another clip")
    return [np.stack(clip) for clip in found.values()]
