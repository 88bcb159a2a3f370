"""CUDA C → PTX by NVRTC, in one process a core: it works on one thread, and is the slowest stage."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.toolchain import nvrtc_library
from tsm_edge.errors import CompileError
from tsm_edge.files.atomic import scratch_folder

_KERNEL = 'extern "C" __global__'
_ASK, _FIXED_ADDRESSES = 0xFFFFFFFF, 0x0040000  # <sys/personality.h>
# Kernels for which another process is worth starting.
_FEW = 4


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
    processes = max(1, min(os.cpu_count() or 1, len(kernels) // _FEW))
    parts = _dealt(kernels, processes)
    with scratch_folder() as folder:
        running = [_start(folder / f"{index}", prelude + "".join(part), gpu) for index, part in enumerate(parts)]
        try:
            texts = [_finished(process, folder / f"{index}") for index, process in enumerate(running)]
        finally:
            for process in running:
                process.kill()
                process.wait()
    return _joined([_with_version(text, gpu.ptx_isa) for text in texts])


def nvrtc_version() -> str:
    """The version of NVRTC: ``11.8``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _load().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _dealt(kernels: Sequence[str], processes: int) -> list[list[str]]:
    """Kernels in parts of about the same length of text."""
    parts: list[list[str]] = [[] for _ in range(processes)]
    for kernel in sorted(kernels, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(kernel)
    return parts


def _start(path: Path, source: str, gpu: GpuSpec) -> subprocess.Popen[bytes]:
    path.with_suffix(".cu").write_text(source, "utf-8")
    folders = [str(Path(__file__).parents[4]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    arch = gpu.arch.replace("sm_", "compute_")
    command = [sys.executable, "-m", __name__, str(nvrtc_library()), arch, str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _finished(process: subprocess.Popen[bytes], path: Path) -> str:
    said, _ = process.communicate()
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines() or [f"ended with code {process.returncode}"]
        first = next((line for line in lines if "error" in line), lines[-1])
        raise CompileError(f"NVRTC cannot compile the kernels: {first}", "please report it, with the model's name")
    return path.with_suffix(".ptx").read_text("ascii")


def _with_version(ptx: str, version: str) -> str:
    """The same text for older drivers: these kernels use nothing newer, which ptxas checks."""
    return re.sub(r"^\.version .*$", f".version {version}", ptx, count=1, flags=re.MULTILINE)


def _joined(texts: Sequence[str]) -> str:
    """Several PTX files as one: the first's header, everybody's kernels."""
    first, *others = texts
    return first + "".join(text[text.index(".address_size") + len(".address_size 64") :] for text in others)


def _load(library: Path | None = None) -> ctypes.CDLL:
    library = library or nvrtc_library()
    for builtins in sorted(library.parent.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # which NVRTC looks for by name
    return ctypes.CDLL(str(library))


def _compile_here(library: Path, arch: str, path: Path) -> int:
    """Compile ``path``.cu to ``path``.ptx in this process; what NVRTC says goes to standard output."""
    nvrtc = _load(library)
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = path.with_suffix(".cu").read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--use_fast_math", "-default-device"]
    values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = int(nvrtc.nvrtcCompileProgram(program, len(options), values))
    kind = "Log" if failed else "PTX"
    names = (f"nvrtcGetProgram{kind}Size", f"nvrtcGetProgram{kind}") if failed else ("nvrtcGetPTXSize", "nvrtcGetPTX")
    getattr(nvrtc, names[0])(program, ctypes.byref(size))
    made = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, names[1])(program, made)
    if failed:
        sys.stdout.write(made.value.decode("utf-8", "replace"))
    else:
        path.with_suffix(".ptx").write_bytes(made.value)
    return failed


def _settle() -> None:
    """Begin this process again at addresses that are not drawn at random: NVRTC orders instructions by them.

    Where that is not allowed (in some containers), the same source may give other instructions the next time.
    """
    libc = ctypes.CDLL(None)
    now = libc.personality(_ASK)
    if not now & _FIXED_ADDRESSES and libc.personality(now | _FIXED_ADDRESSES) != -1:
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    _settle()
    sys.exit(_compile_here(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
