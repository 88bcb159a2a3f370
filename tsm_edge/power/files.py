"""What sensors that are files of the kernel have in common."""

from __future__ import annotations

from collections.abc import Sequence

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import LOOK, number
from tsm_edge.power.system import System

_ROOT = "read it as root: sudo tsm-edge …"


def read_text(system: System, path: str, sensor: str, allow: str = _ROOT) -> str:
    """Read one file while a sensor is opened; ``allow`` says how to get at one that is not ours to read.

    Raises
    ------
    PowerError
        It cannot be read.
    """
    try:
        return system.read([path])[0]
    except PermissionError:
        raise PowerError(f"power sensor {sensor}: {path} may not be read by this user", allow) from None
    except OSError as error:
        raise PowerError(f"power sensor {sensor}: {path} cannot be read ({error.strerror})", LOOK) from None


def read_numbers(system: System, paths: Sequence[str]) -> list[float]:
    """Read files that hold one number each.

    Raises
    ------
    OSError
        One of them cannot be read.
    PowerError
        One of them holds something else.
    """
    return [number(text, path) for path, text in zip(paths, system.read(paths), strict=True)]


def folder_of(path: str) -> str:
    """The folder a file lies in."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """A path's last part."""
    return path.rpartition("/")[2]
