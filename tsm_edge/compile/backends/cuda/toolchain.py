"""NVRTC and ptxas of the wheels that ``pip install 'tsm-edge[cuda]'`` brings: no CUDA toolkit, no GPU, no driver."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys
from pathlib import Path

from tsm_edge.errors import CompileError
from tsm_edge.extras import is_installed, require

# What the error messages name.
_INSTALL = "install it again with: pip install --force-reinstall 'tsm-edge[cuda]'"


def check_toolchain() -> None:
    """Refuse to go on without them.

    Raises
    ------
    TsmEdgeError
        The extra is not installed, or has nothing for this machine.
    """
    if not is_installed("cuda") and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise CompileError(
            f"compiling for a GPU needs NVRTC and ptxas: PyPI has them for x86-64 Linux, not for {platform.machine()}",
            "compile on such a machine, and copy the result with: tsm-edge deploy",
        )
    require("cuda", "compiling for a GPU")
    nvrtc_library()
    ptxas_program()


@functools.cache
def nvrtc_library() -> Path:
    """The newest NVRTC that still knows every GPU of the cards: one of CUDA 11 or 12."""
    folder = _folder("nvidia.cuda_nvrtc") / "lib"
    found = {path.suffixes[1] if len(path.suffixes) > 1 else "": path for path in sorted(folder.glob("libnvrtc.so.*"))}
    for major in (".11", ".12"):
        if major in found:
            return found[major]
    raise CompileError(f"{folder}: has no libnvrtc.so of CUDA 11 or 12", _INSTALL)


@functools.cache
def ptxas_program() -> Path:
    """The assembler, executable: wheels do not always keep that."""
    path = _folder("nvidia.cuda_nvcc") / "bin" / "ptxas"
    if not path.is_file():
        raise CompileError(f"{path}: is missing", _INSTALL)
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise CompileError(
                f"{path}: cannot be made executable ({error.strerror})", f"run: chmod +x {path}"
            ) from None
    return path


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise CompileError(f"{package} is not installed", _INSTALL)
    return Path(places[0])
