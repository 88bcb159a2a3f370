"""Linking with the compiler of the ``ziglang`` wheel: the same on every host, for every target, no system toolchain.

``model.so`` against the target's C library. ``tsm-runner`` as a program for glibc that opens it, or as a static one of
the same objects and musl, which needs no library at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tsm_edge.cards import TargetCard
from tsm_edge.compile.package.zig import run_zig
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.paths import native_path
from tsm_edge.runtime import CUDA_SOURCES, RUNTIME_FOLDER, SOURCES, VERSION_SCRIPT

# What the C runtime may take from Android's libc.so and the kernels from its libm.so; anything else fails to link. All
# are in bionic since API level 21, and their types and constants are those of musl's headers on 64-bit Arm.
BIONIC = {
    "libc.so": (
        *("malloc", "calloc", "realloc", "posix_memalign", "free", "memcpy", "memmove", "memset", "memcmp", "strlen"),
        *("getauxval", "getenv", "strtol", "snprintf", "vsnprintf", "clock_gettime", "nanosleep", "syscall"),
        *("mmap", "munmap", "clock_nanosleep", "sched_getaffinity", "sched_yield", "getpid"),
        *("pthread_create", "pthread_join", "pthread_self"),
        *("pthread_key_create", "pthread_key_delete", "pthread_getspecific", "pthread_setspecific"),
        *("pthread_mutex_init", "pthread_mutex_destroy", "pthread_mutex_lock", "pthread_mutex_unlock"),
        *("pthread_cond_init", "pthread_cond_destroy", "pthread_cond_wait", "pthread_cond_broadcast"),
    ),
    "libm.so": ("erff", "exp2f", "expf", "fmodf", "log2f", "logf", "powf", "roundf", "tanhf"),
}

_COMPILE = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fno-stack-protector", "-Werror=excess-initializers")
# Pages may have 16 KiB: Android from version 15, and Raspberry Pi OS on the Pi 5.
_LINK = ("-s", "-Wl,-z,max-page-size=16384")


def zig_target(target: TargetCard) -> str:
    """The card's triple and C library as zig spells them: ``x86_64-linux-gnu.2.17``.

    Android's is musl: zig has no headers of bionic, and musl's agree with it in all that the runtime uses.
    """
    architecture = _architecture(target)
    kind, _, version = target.libc.partition("-")
    if kind == "glibc":
        suffix = "eabihf" if architecture == "arm" else ""
        return f"{architecture}-linux-gnu{suffix}.{version}"
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
    flags = ["-shared", "-Wl,-z,defs", f"-Wl,--version-script={VERSION_SCRIPT}"]
    inputs = [*(CUDA_SOURCES if target.device == "cuda" else SOURCES), *sources, *objects]
    if target.libc == "bionic":
        _link_for_android(output, target, flags, inputs, includes)
        _write_at_once(output)
    else:
        # The driver's library of a GPU is opened when it is needed, by libdl: until glibc 2.34 that is one of its own.
        libraries = ["-pthread", *(["-ldl"] if target.device == "cuda" else [])]
        _zig(target, [zig_target(target), *_COMPILE, *_LINK, *flags, *libraries], inputs, output, includes)
        _write_at_once(output)


def _link_for_android(
    output: Path, target: TargetCard, flags: Sequence[str], inputs: Sequence[Path], includes: Sequence[Path]
) -> None:
    """Compile with musl's headers, then link against Android's libraries alone.

    x18 is kept free because Android has its shadow call stack there. Atomics stay in line because the functions that
    would stand for them ask the C library what the CPU can do.
    """
    machine = zig_target(target)
    with scratch_folder() as folder:
        compiled: list[Path] = []
        for path in inputs:
            compiled.append(path if path.suffix == ".o" else folder / f"{len(compiled)}.o")
            if path.suffix != ".o":
                options = [machine, *_COMPILE, "-ffixed-x18", "-mno-outline-atomics", "-c"]
                _zig(target, options, [path], compiled[-1], includes)
        for name, symbols in BIONIC.items():
            source = folder / f"{name}.s"
            source.write_text("".join(f".globl {symbol}\n.type {symbol},%function\n{symbol}:\n" for symbol in symbols))
            # Only its name and its symbols' reach the linked file.
            compiled.append(folder / name)
            _zig(target, [machine, "-shared", "-nostdlib", f"-Wl,-soname,{name}"], [source], compiled[-1])
        options = [machine, *_LINK, *flags, "-nostdlib", "-Wl,--hash-style=both", "-Wl,--as-needed"]
        _zig(target, options, compiled, output)


def link_static_program(output: Path, target: TargetCard, inputs: Sequence[Path]) -> None:
    """Compile and link a program that needs no library, from C and assembler sources and objects.

    Raises
    ------
    CompileError
        The linker failed; its first message is in the error.
    """
    _zig(target, [static_target(target), *_COMPILE, *_LINK, "-static"], inputs, output)
    _write_at_once(output)


def link_program(output: Path, target: TargetCard, inputs: Sequence[Path]) -> None:
    """Compile and link a program for the target's glibc that opens libraries while it runs.

    Raises
    ------
    CompileError
        The linker failed; its first message is in the error.
    """
    _zig(target, [zig_target(target), *_COMPILE, *_LINK, "-pie", "-pthread", "-ldl", "-lm"], inputs, output)


def _write_at_once(path: Path) -> None:
    """Write a linked file again, as one block.

    The linker fills it page by page, and so it lies scattered in the memory it is run from until it is read from the
    disk again. Written at once, Linux lays it together: a step of MobileNet-V2 is 3 to 4 % faster on a Xeon.
    """
    path.write_bytes(path.read_bytes())


def _zig(
    target: TargetCard, flags: Sequence[str], inputs: Sequence[Path], output: Path, includes: Sequence[Path] = ()
) -> None:
    """Run ``zig cc -target`` and the flags, of which the first is the target."""
    arguments = [
        *("cc", "-target", *flags),
        *(f"-I{folder}" for folder in (RUNTIME_FOLDER, *includes)),
        *(native_path(path.resolve()) for path in inputs),
        *("-o", native_path(output.resolve())),
    ]
    run_zig(arguments, f"linking for {target.name}", output)
