"""Reading what another process may replace at any moment: the folder of an artifact.

Who has read the manifest of the old one and then opens a file of the new one finds that they do not belong together.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from tsm_edge.errors import TsmEdgeError

P = ParamSpec("P")
T = TypeVar("T")
_TRIES = 20
_PAUSE_S = 0.005


def again_if_replaced(read: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Decorate a function of an artifact's path: where it fails while the folder is replaced, it is called again.

    The function has to notice itself when what it reads does not belong together. Where it is given something that was
    read already, it is called once.
    """

    @functools.wraps(read)
    def reading(path: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_TRIES if isinstance(path, (str, Path)) else 0):
            before = _state(path)
            try:
                return read(path, *args, **kwargs)
            except (TsmEdgeError, OSError):
                time.sleep(_PAUSE_S)
                if _state(path) == before:
                    raise
        return read(path, *args, **kwargs)

    return reading


def _state(path: str | Path) -> tuple[int, int, int]:
    """Changes when the folder becomes another one, or a file in it gets another name. ``path`` may be a file in it."""
    place = Path(path)
    try:
        found = os.stat(place if place.is_dir() else place.parent)
    except OSError:
        return 0, 0, 0
    return found.st_dev, found.st_ino, found.st_ctime_ns
