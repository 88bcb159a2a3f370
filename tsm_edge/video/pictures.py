"""A video as a folder of pictures, in the order of their numbers: how Jester and Something-Something come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.decoder import DecodedPicture, Decoder, count_of, video_stream
from tsm_edge.video.ffmpeg import load_ffmpeg, open_local

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".flv", ".wmv", ".3gp")
_NUMBER = re.compile(r"%(0?)(\d*)d")
# As FFmpeg takes them; nothing in a folder says how fast its pictures follow each other.
PICTURES_PER_S = 25.0


def is_film(name: str) -> bool:
    """Whether a file's name is that of a video."""
    return name.lower().endswith(_FILMS)


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(_ENDINGS)


def is_pattern(path: Path) -> bool:
    """Whether a file's name stands for numbered files, as ``%05d.jpg`` does for FFmpeg."""
    return _NUMBER.search(path.name) is not None


def matching(pattern: Path) -> list[Path]:
    """Return the files that a pattern stands for, in the order of their numbers.

    Raises
    ------
    VideoError
        There is none.
    """
    if not pattern.parent.is_dir():
        raise VideoError(f"video {pattern}: the folder {pattern.parent} does not exist", "check the path")
    number = _NUMBER.search(pattern.name)
    if number is None:
        raise ValueError(f"{pattern} has no %d")
    # As printf writes it: longer numbers have no zeros in front.
    digits = rf"(?:\d{{{number[2]}}}|[1-9]\d{{{number[2]},}})" if number[1] and number[2] else r"\d+"
    before, after = pattern.name[: number.start()], pattern.name[number.end() :]
    name = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    files = [path for path in pattern.parent.iterdir() if path.is_file()]  # a pipe would be waited for
    found = [(int(match[1]), path) for path in files if (match := name.fullmatch(path.name))]
    if not found:
        raise VideoError(f"video {pattern}: no file has such a name", f"try: ls {pattern.parent}")
    return [path for _, path in sorted(found)]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, in the order of the numbers in their names.

    Raises
    ------
    VideoError
        There is none; if there are videos, the message names one.
    """
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    pictures = [path for path in files if is_picture(path.name)]
    if not pictures:
        films = sorted(path for path in files if is_film(path.name))
        hint = f"try one of the videos in it: {films[0]}" if films else "name a file in it"
        raise VideoError(f"video {folder}: is a folder without pictures, expected a video file, or .jpg files", hint)
    return sorted(pictures, key=_by_number)


class Pictures:
    """Picture files as the frames of a video.

    Parameters
    ----------
    paths : sequence of Path
        At least one, in order.
    options : SourceOptions
        Only ``native_logs`` is used.

    Attributes
    ----------
    fps, frame_count, time_s, damaged, broke_off
        As in :class:`tsm_edge.video.capture.Recording`; the rate is not known, times are those at 25 frames/s.
    """

    def __init__(self, paths: Sequence[Path], options: SourceOptions) -> None:
        self._paths = paths
        self._av = load_ffmpeg(options)
        self._options = options
        self._next = 0
        self._picture: DecodedPicture | None = None
        self.fps = 0.0
        self.frame_count: int | None = len(paths)
        self.time_s: float | None = None
        self.damaged = 0
        self.broke_off = ""

    def grab(self) -> bool:
        """Decode the next picture that can be; False at the end."""
        while self._next < len(self._paths):
            self.time_s = self._next / PICTURES_PER_S
            self._picture = self._decode(self._paths[self._next])
            self._next += 1
            if self._picture is not None:
                return True
        return False

    def retrieve(self) -> DecodedPicture:
        """Return the picture that was grabbed."""
        if self._picture is None:
            raise RuntimeError("retrieve() before grab()")
        return self._picture

    def seek(self, time_s: float) -> bool:
        """Go to a time in seconds."""
        self._next = round(time_s * PICTURES_PER_S)
        return self._next < len(self._paths)

    def trouble(self) -> str:
        """Return how many of them could not be decoded, in words; empty if all could."""
        return count_of("picture", self.damaged) + " damaged" if self.damaged else ""

    def why_empty(self) -> tuple[str, str]:
        """Return why not a single one was decoded, and what to try."""
        return "has no picture that can be decoded", f"try to open {self._paths[0]} in another program"

    def release(self) -> None:
        """Forget the picture that was grabbed."""
        self._picture = None

    def _decode(self, path: Path) -> DecodedPicture | None:
        """Decode one picture; None if it is damaged, or no picture."""
        try:
            container = open_local(path, self._options)
        except self._av.FFmpegError:
            self.damaged += 1
            return None
        stream = video_stream(container)
        if stream is None or stream.codec_context is None:
            self.damaged += 1
            return None
        stream.codec_context.thread_count = 1  # starting threads takes longer than decoding
        decoder = Decoder(container, stream)
        picture = decoder.retrieve() if decoder.grab() else None
        self.damaged += picture is None or decoder.damaged > 0
        decoder.release()
        return picture


def _by_number(path: Path) -> list[str | int]:
    """Key that puts ``10.jpg`` behind ``9.jpg``."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
