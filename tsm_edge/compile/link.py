"""Linking with the compiler of the ``ziglang`` wheel: the same on every host, for every target, no system toolchain.

Two links of the same objects: ``model.so`` against the target's C library, and a static program against musl that
needs no library at all.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tsm_edge.cards import TargetCard
from tsm_edge.errors import CompileError
from tsm_edge.runtime import RUNTIME_FOLDER, SOURCES, VERSION_SCRIPT

# What the C runtime may take from Android's libc.so and the kernels from its libm.so; anything else fails to link. All
# are in bionic since API level 21, and their types and constants are those of musl's headers on 64-bit Arm.
_BIONIC = {
    "libc.so": (
        *("calloc", "free", "memcpy", "memmove", "memset", "getenv", "strtol", "snprintf", "vsnprintf"),
        *("clock_gettime", "sched_getaffinity", "sched_yield", "pthread_create", "pthread_join"),
        *("pthread_mutex_init", "pthread_mutex_destroy", "pthread_mutex_lock", "pthread_mutex_unlock"),
        *("pthread_cond_init", "pthread_cond_destroy", "pthread_cond_wait", "pthread_cond_broadcast"),
    ),
    "libm.so": ("erff", "exp2f", "expf", "fmodf", "log2f", "logf", "powf", "roundf", "tanhf"),
}

# Pages may have 16 KiB: Android from version 15, and Raspberry Pi OS on the Pi 5.
_COMPILE = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fno-stack-protector", "-s", "-Wl,-z,max-page-size=16384")


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
    """The card's triple and C library as zig spells them: ``x86_64-linux-gnu.2.17``.

    Android's is musl: zig has no headers of bionic, and musl's agree with it in all that the runtime uses.
    """
    architecture = _architecture(target)
    kind, _, version = target.libc.partition("-")
    if kind == "glibc":
        suffix = "eabihf" if architecture == "arm" else ""
        return f"{architecture}-linux-gnu{suffix}.{version}"
    if kind == "bionic" and architecture != "aarch64":
        raise CompileError(f"target {target.name}: {target.cpu.triple} with bionic, expected 64-bit Arm on Android")
    return static_target(target)


def static_target(target: TargetCard) -> str:
    """The target of a program that needs no C library on the device, as zig spells it: ``arm-linux-musleabihf``."""
    architecture = _architecture(target)
    return f"{architecture}-linux-musl{'eabihf' if architecture == 'arm' else ''}"


def _architecture(target: TargetCard) -> str:
    name = target.cpu.triple.split("-")[0]
    return "arm" if name.startswith("arm") else name


def link_library(
    output: Path, target: TargetCard, sources: Sequence[Path], objects: Sequence[Path], includes: Sequence[Path]
) -> None:
    """Compile the C runtime and the generated sources, and link them with the kernels into a shared library.

    Raises
    ------
    CompileError
        The linker failed; its first message is in the error.
    """
    inputs = [*SOURCES, *sources, *objects]
    flags = ["-shared", "-Wl,-z,defs", f"-Wl,--version-script={VERSION_SCRIPT}"]
    if target.libc != "bionic":
        _link(output, target, [zig_target(target), *flags, "-pthread"], inputs, includes)
        return
    # x18 holds Android's shadow call stack; outlined atomics would ask the C library for the CPU's features.
    flags += ["-nostdlib", "-ffixed-x18", "-mno-outline-atomics", "-Wl,--hash-style=both", "-Wl,--as-needed"]
    with tempfile.TemporaryDirectory(prefix="tsm-edge-") as folder:
        stubs = [_bionic_stub(target, Path(folder) / name, symbols) for name, symbols in _BIONIC.items()]
        _link(output, target, [zig_target(target), *flags], [*inputs, *stubs], includes)


def link_program(output: Path, target: TargetCard, inputs: Sequence[Path]) -> None:
    """Compile and link a static program from C and assembler sources and objects.

    Raises
    ------
    CompileError
        The linker failed; its first message is in the error.
    """
    _link(output, target, [static_target(target), "-static"], inputs, [])


def _bionic_stub(target: TargetCard, path: Path, symbols: Sequence[str]) -> Path:
    """An empty library that stands for Android's: only its name and its symbols' reach the linked file."""
    source = path.with_suffix(".s")
    source.write_text(".text\n" + "".join(f".globl {name}\n.type {name},%function\n{name}:\n" for name in symbols))
    _link(path, target, [zig_target(target), "-shared", "-nostdlib", f"-Wl,-soname,{path.name}"], [source], [])
    return path


def _link(
    output: Path, target: TargetCard, flags: Sequence[str], inputs: Sequence[Path], includes: Sequence[Path]
) -> None:
    """Run ``zig cc``; the first of ``flags`` is its target."""
    command = [
        *(*zig_command(), "cc", "-target", *flags, *_COMPILE),
        *(f"-I{folder}" for folder in (RUNTIME_FOLDER, *includes)),
        *(str(path.resolve()) for path in inputs),
        *("-o", str(output.resolve())),
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
