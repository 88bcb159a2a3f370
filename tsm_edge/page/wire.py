"""What the run and the page's process say to each other over a socket: JSON with a picture, and a byte back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct
from dataclasses import dataclass
from typing import Any

_HEAD = struct.Struct("!II")
# The page's process is ready for the next message; with the picture, or without because nobody looks.
WITH_PICTURE, WITHOUT_PICTURE = b"p", b"s"
# How far back labels are remembered, how many changes of them, and how many step times.
HISTORY_S = 300.0
KEPT_SEGMENTS = 2_000
KEPT_STEPS = 600
# Upper bounds of durations that are counted, seconds: from a small network on a PC to a large one on a Raspberry Pi 3.
BOUNDS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """What does not change in a run.

    Attributes
    ----------
    model, source : str
        Names to show.
    labels : tuple of str
        Of the classes.
    random_weights : bool
        Predictions mean nothing.
    token : str
        What a browser must show; empty: only this machine can connect.
    """

    model: str
    source: str
    labels: tuple[str, ...]
    random_weights: bool
    token: str

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> About:
        """From JSON."""
        return cls(**{**plain, "labels": tuple(plain["labels"])})


def pack(document: dict[str, Any], picture: bytes = b"") -> bytes:
    """A message; ``picture`` is a JPEG or empty."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((_HEAD.pack(len(text), len(picture)), text, picture))


async def unpack(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """The next message.

    Raises
    ------
    asyncio.IncompleteReadError
        The other side has gone.
    """
    text_bytes, picture_bytes = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    text = await reader.readexactly(text_bytes)
    return json.loads(text), await reader.readexactly(picture_bytes)
