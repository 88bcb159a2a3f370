"""The PTX inside a ``model.so``: what the driver will be given, to the byte."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from tsm_edge.errors import ArtifactError

_HEAD = re.compile(rb"[\t\n\r -~]*?^\.version \d+\.\d+\s+\.target sm_\d+", re.MULTILINE)
_TEXT = re.compile(rb"[\t\n\r -~]+\0")


def shipped_ptx(library: Path) -> str:
    """The PTX of a library.

    Raises
    ------
    ArtifactError
        There is none: it is not for a GPU.
    """
    with library.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(b".version ")
        while at >= 0:
            begin = content.rfind(b"\0", 0, at) + 1
            text = _TEXT.match(content, begin)
            if text and _HEAD.match(text[0]):
                return text[0][:-1].decode("ascii")
            at = content.find(b".version ", at + 1)
    raise ArtifactError(
        f"{library}: has no PTX inside, expected a model for a GPU", "compile it again with: tsm-edge compile"
    )
