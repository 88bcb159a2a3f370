"""C sources of what runs on the device: the runtime inside every ``model.so``, and ``tsm-runner`` around it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

RUNTIME_FOLDER = Path(__file__).resolve().parent
HEADER = RUNTIME_FOLDER / "tsm_edge.h"
_TABLES = RUNTIME_FOLDER / "model.h"
# On every device.
_ANYWHERE = ("caches.c", "input.c", "measure.c", "yardstick.c", "error.c", "opening.c")
_SHARED = ("stream.c", *_ANYWHERE, "pool.c")
SOURCES = tuple(RUNTIME_FOLDER / name for name in (*_SHARED, "packed.c"))
_CUDA = ("cuda/stream.c", "cuda/device.c", "cuda/driver.c", "cuda/jit.c", "cuda/waiting.c")
CUDA_SOURCES = tuple(RUNTIME_FOLDER / name for name in (*_CUDA, *_ANYWHERE, "packed.c"))
_RUNNER = (
    *(RUNTIME_FOLDER / name for name in ("runner.c", "golden.c", "image.c")),
    *sorted((RUNTIME_FOLDER / "bench").glob("*.c")),
)
# tsm-runner with the model inside, and as it opens the model.so beside it.
RUNNER_SOURCES = (*_RUNNER, *(RUNTIME_FOLDER / name for name in ("model_inside.c", "no_nvidia.c", *_SHARED)))
OPENING_RUNNER_SOURCES = (*_RUNNER, *(RUNTIME_FOLDER / name for name in ("model_beside.c", "nvidia.c", "input.c")))
VERSION_SCRIPT = RUNTIME_FOLDER / "exports.map"


def abi_version() -> int:
    """Version of the C interface: ``TSM_ABI_VERSION`` of ``tsm_edge.h``."""
    return _number(HEADER, "TSM_ABI_VERSION")


def most_buffers() -> int:
    """Pointer arguments a kernel may have: ``TSM_MAX_BUFFERS`` of ``model.h``."""
    return _number(_TABLES, "TSM_MAX_BUFFERS")


def bytes_behind_caches() -> int:
    """Bytes behind the shift caches that a kernel may read: ``TSM_READ_BEHIND`` of ``model.h``."""
    return _number(_TABLES, "TSM_READ_BEHIND")


@functools.cache
def _number(header: Path, name: str) -> int:
    """What a header gives a name: by ``#define``, or alone in an ``enum``."""
    found = re.search(rf"\b{name}(?: =)? (\d+)\b", header.read_text("utf-8"))
    if found is None:
        raise LookupError(f"{header}: has no number {name}")
    return int(found[1])
