"""The stand-in for a program of another machine: the driver under the emulator, the GPU as a process of this machine.

A GPU is no part of the CPU that is emulated, so its kernels need not be, either: they run as fast as this machine can.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tsm_edge.errors import ArtifactError
from tsm_edge.verify.standin.build import StandIn, build_apart
from tsm_edge.verify.standin.translate import Image

_MEMORY_BYTES = 1 << 32  # APART_BYTES of apart.h; the file has holes


@contextlib.contextmanager
def gpu_apart(folder: Path, images: Sequence[Image], standin: StandIn, machine: str) -> Iterator[dict[str, str]]:
    """Build driver and GPU into a folder, start the GPU, yield the variables with which a program finds both.

    Parameters
    ----------
    folder : Path
    images : sequence of Image
    standin : StandIn
    machine : str
        Architecture of the program.

    Raises
    ------
    ArtifactError
        As :func:`~tsm_edge.verify.standin.build.build_standin`; or the GPU does not start.
    """
    program = build_apart(folder, images, standin, machine)
    with (folder / "memory").open("wb") as memory:
        memory.truncate(_MEMORY_BYTES)
    for name in ("questions", "answers"):
        os.mkfifo(folder / name, 0o600)
    # It waits for the driver to open the other end, and ends when the program does.
    with subprocess.Popen([str(program), str(folder)], stderr=subprocess.DEVNULL) as gpu:
        try:
            if gpu.poll() is not None:
                raise ArtifactError("the stand-in for a GPU did not start", "report it; is there memory for it?")
            yield {"LD_LIBRARY_PATH": str(folder), "STANDIN_GPU": str(folder)}
        finally:
            gpu.kill()
