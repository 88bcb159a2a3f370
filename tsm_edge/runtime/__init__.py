"""C sources of what runs on the device: the runtime inside every ``model.so``, and ``tsm-runner`` around it."""

from __future__ import annotations

from pathlib import Path

RUNTIME_FOLDER = Path(__file__).resolve().parent
HEADER = RUNTIME_FOLDER / "tsm_edge.h"
SOURCES = tuple(RUNTIME_FOLDER / name for name in ("stream.c", "pool.c", "packed.c"))
RUNNER_SOURCES = tuple(RUNTIME_FOLDER / name for name in ("runner.c", "golden.c", "image.c", "stream.c", "pool.c"))
VERSION_SCRIPT = RUNTIME_FOLDER / "exports.map"
