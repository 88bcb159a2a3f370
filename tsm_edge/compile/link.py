"""Linking with the compiler of the ``ziglang`` wheel: the same on every host, for every target, no system toolchain."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tsm_edge.cards import TargetCard
from tsm_edge.errors import CompileError
from tsm_edge.runtime import RUNTIME_FOLDER, SOURCES, VERSION_SCRIPT


@functools.cache
def zig_command() -> tuple[str, ...]:
    """How to call zig.

    Raises
    ------
    CompileError
        The ``ziglang`` package is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise CompileError("the ziglang package is missing: it links model.so", "install it with: pip install ziglang")
    binary = Path(next(iter(spec.submodule_search_locations))) / ("zig.exe" if sys.platform == "win32" else "zig")
    return (str(binary),)


@functools.cache
def zig_version() -> str:
    """Version of the linker."""
    return subprocess.run([*zig_command(), "version"], capture_output=True, text=True, check=True).stdout.strip()


def zig_target(target: TargetCard) -> str:
    """The card's triple and C library as zig spells them: ``x86_64-linux-gnu.2.17``."""
    architecture = target.cpu.triple.split("-")[0].replace("armv7l", "arm").replace("armv7a", "arm")
    kind, _, version = target.libc.partition("-")
    if kind == "glibc":
        suffix = "eabihf" if architecture == "arm" else ""
        return f"{architecture}-linux-gnu{suffix}.{version}"
    if kind == "musl":
        return f"{architecture}-linux-musl{'eabihf' if architecture == 'arm' else ''}"
    raise CompileError(f"target {target.name}: libc {target.libc!r} cannot be linked against yet")


def link_library(
    output: Path, target: TargetCard, sources: Sequence[Path], objects: Sequence[Path], includes: Sequence[Path]
) -> None:
    """Compile the C runtime and the generated sources, and link them with the kernels into a shared library.

    Raises
    ------
    CompileError
        The linker failed; its first message is in the error.
    """
    command = [
        *zig_command(),
        "cc",
        "-target",
        zig_target(target),
        "-O2",
        "-std=c11",
        "-fPIC",
        "-fno-stack-protector",
        "-D_GNU_SOURCE",
        "-shared",
        "-s",
        "-pthread",
        "-Wl,-z,max-page-size=16384",
        f"-Wl,--version-script={VERSION_SCRIPT}",
        *(f"-I{folder}" for folder in (RUNTIME_FOLDER, *includes)),
        *(str(path.resolve()) for path in (*SOURCES, *sources, *objects)),
        "-o",
        str(output.resolve()),
    ]
    environment = dict(os.environ)
    # zig builds its C library stubs once for each target; keep them where they last.
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsm-edge" / "zig"
    environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(cache))
    environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(cache))
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if "error" in line] or finished.stderr.splitlines()
        reason = lines[0].strip() if lines else f"exit code {finished.returncode}"
        raise CompileError(f"linking for {target.name} failed: {reason}", "try: pip install --force-reinstall ziglang")
