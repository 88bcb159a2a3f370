"""CUDA C → PTX by NVRTC, in a process a core at a time: it works on one thread, and is the slowest stage.

The same CUDA C is the same PTX, whatever the number of cores, the user's environment and folder: what goes into one
process is decided by the kernels alone, and the process is ``nvrtc_child.py``.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.nvrtc_child import load
from tsm_edge.compile.backends.cuda.toolchain import nvrtc_library
from tsm_edge.errors import CompileError

_KERNEL = 'extern "C" __global__'
_CHILD = Path(__file__).with_name("nvrtc_child.py")
# Kernels for which another process is worth starting, and the most of those.
_FEW, _MOST_PARTS = 4, 8


def compile_ptx(source: str, gpu: GpuSpec) -> str:
    """Compile kernels to PTX of the version that the GPU's drivers take.

    Parameters
    ----------
    source : str
        What every kernel needs, then the kernels.
    gpu : GpuSpec

    Raises
    ------
    CompileError
        NVRTC refuses the code.
    """
    prelude, *kernels = re.split(f"^(?={re.escape(_KERNEL)})", source, flags=re.MULTILINE)
    sources = [prelude + "".join(part) for part in _dealt(kernels)]
    running: deque[subprocess.Popen[bytes]] = deque()
    texts = []
    with ExitStack() as started:
        for text in sources:
            if len(running) == (os.cpu_count() or 1):
                texts.append(_finished(running.popleft()))
            running.append(started.enter_context(_start(text, gpu)))
            started.callback(running[-1].kill)
        texts += [_finished(process) for process in running]
    return _joined([_with_version(text, gpu.ptx_isa) for text in texts])


def nvrtc_version() -> str:
    """The version of NVRTC: ``11.8``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    load(nvrtc_library()).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _dealt(kernels: Sequence[str]) -> list[list[str]]:
    """Kernels in parts of about the same length of text; NVRTC's code depends on what it has compiled before."""
    parts: list[list[str]] = [[] for _ in range(max(1, min(_MOST_PARTS, len(kernels) // _FEW)))]
    for kernel in sorted(kernels, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(kernel)
    return parts


def _start(source: str, gpu: GpuSpec) -> subprocess.Popen[bytes]:
    """A process that compiles; nothing of the user's environment or folder reaches it."""
    command = [sys.executable, "-I", "-S", str(_CHILD), str(nvrtc_library()), gpu.arch.replace("sm_", "compute_")]
    # An interpreter may need the one to begin at all; the other keeps Python from choosing a locale.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ} | {"LC_ALL": "C"}
    with tempfile.TemporaryFile() as file:
        file.write(source.encode())
        file.seek(0)
        return subprocess.Popen(
            command, env=environment, cwd="/", stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


def _finished(process: subprocess.Popen[bytes]) -> str:
    made, said = process.communicate()
    if process.returncode == -signal.SIGKILL:
        raise CompileError(
            "NVRTC's process was killed, most likely for lack of memory",
            "end other programs, or compile where there is more",
        )
    if process.returncode:
        lines = (made + said).decode("utf-8", "replace").strip().splitlines()
        lines = lines or [f"ended with code {process.returncode}"]
        first = next((line for line in lines if "error" in line), lines[-1])
        raise CompileError(f"NVRTC cannot compile the kernels: {first}", "please report it, with the model's name")
    return made.decode("ascii")


def _with_version(ptx: str, version: str) -> str:
    """The same text for older drivers: these kernels use nothing newer, which ptxas checks."""
    return re.sub(r"^\.version .*$", f".version {version}", ptx, count=1, flags=re.MULTILINE)


def _joined(texts: Sequence[str]) -> str:
    """Several PTX files as one: the first's header, everybody's kernels."""
    first, *others = texts
    return first + "".join(text[text.index(".address_size") + len(".address_size 64") :] for text in others)
