"""C sources of what runs on the device; compiled and linked into every ``model.so``."""

from __future__ import annotations

from pathlib import Path

RUNTIME_FOLDER = Path(__file__).resolve().parent
HEADER = RUNTIME_FOLDER / "tsm_edge.h"
SOURCES = tuple(RUNTIME_FOLDER / name for name in ("stream.c", "pool.c", "packed.c"))
VERSION_SCRIPT = RUNTIME_FOLDER / "exports.map"
