"""What the loader and the CPU of every target find in the files made for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import pytest
from artifacts import compile_onnx
from elf import (
    AARCH64,
    ARM,
    ARM_CPU_ARCH,
    ARM_HARD_FLOAT,
    ARM_SIMD_ARCH,
    ARM_VFP_ARGS,
    ARMV8_A,
    DT_TEXTREL,
    PT_GNU_STACK,
    PT_INTERP,
    PT_LOAD,
    PT_TLS,
    X86_64,
    Elf,
)
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import LIBRARY, RUNNER
from tsm_edge.cards import load_target, target_names
from tsm_edge.compile.package import link
from tsm_edge.errors import CompileError

TARGETS = [name for name in target_names() if name != "native" and load_target(name).device == "cpu"]
GLIBC = [name for name in TARGETS if load_target(name).libc.startswith("glibc")]
ANDROID = [name for name in TARGETS if load_target(name).libc == "bionic"]
ABI = {
    *("tsm_abi_version", "tsm_manifest", "tsm_open", "tsm_open_program", "tsm_reset", "tsm_step", "tsm_step_explicit"),
    *("tsm_step_u8", "tsm_calls", "tsm_step_profiled", "tsm_measure", "tsm_yardstick", "tsm_close", "tsm_last_error"),
    *("__tvm_ffi_step", "__tvm_ffi_stream_step", "__tvm_ffi_stream_reset", "__tvm_ffi_measure", "__tvm_ffi_yardstick"),
    *("__tvm_ffi_select", "tsm_output", "__tvm_ffi_stream_output"),
}


@dataclass(frozen=True)
class Files:
    """What was made for a target."""

    library: Elf
    runner: Elf
    assembly: str


def network() -> onnx.ModelProto:
    """A few kernels of the main kinds."""
    graph = GraphBuilder(16, 16)
    x = graph.relu(graph.conv(graph.frame, 16, 3, 2))
    y = graph.relu(graph.depthwise(graph.relu(graph.conv(graph.shift(x, 2), 32))))
    x = graph.add(graph.conv(y, 16), x)
    return graph.model(graph.head(x, 5))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """The files for a target, by its name; made once."""
    folder = tmp_path_factory.mktemp("targets")

    @cache
    def make(name: str) -> Files:
        kept = folder / f"{name}-intermediates"
        path = compile_onnx(network(), folder / name, load_target(name), runner=True, intermediates=kept).path
        return Files(Elf(path / LIBRARY), Elf(path / RUNNER), (kept / "kernels.s").read_text())

    return make


@pytest.mark.parametrize("name", TARGETS)
def test_every_target(name: str, files: Callable[[str], Files]) -> None:
    card, made = load_target(name), files(name)
    machine, bits = {"x86_64": (X86_64, 64), "aarch64": (AARCH64, 64), "armv7l": (ARM, 32)}[
        card.cpu.triple.split("-")[0]
    ]
    for elf in (made.library, made.runner):
        assert (elf.machine, elf.bits) == (machine, bits)
        # A kernel may have pages of 16 KiB (Android 15, Raspberry Pi 5): no two segments may share one.
        assert elf.of_kind(PT_LOAD)
        for segment in elf.of_kind(PT_LOAD):
            assert segment.align % 0x4000 == 0
            assert (segment.address - segment.offset) % segment.align == 0
        assert all(not segment.flags & 1 for segment in elf.of_kind(PT_GNU_STACK)), "executable stack"
        assert not elf.dynamic(DT_TEXTREL)
    assert {symbol.name for symbol in made.library.symbols if symbol.defined} == ABI
    assert not made.library.of_kind(PT_TLS)
    # With the model inside it is static: no loader, no library.
    assert bool(made.runner.of_kind(PT_INTERP)) == (name in GLIBC)
    assert bool(made.runner.needed) == (name in GLIBC)


@pytest.mark.parametrize("name", GLIBC)
def test_no_newer_glibc_than_the_card_says(name: str, files: Callable[[str], Files]) -> None:
    newest = version(load_target(name).libc.removeprefix("glibc-"))
    made = files(name)
    for elf in (made.library, made.runner):
        assert set(elf.needed) <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-armhf.so.3"}
        assert elf.versions
        for text in elf.versions:
            assert version(text.removeprefix("GLIBC_")) <= newest


def version(text: str) -> tuple[int, ...]:
    """``2.17`` as (2, 17)."""
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("name", ANDROID)
def test_android_needs_its_libc_and_nothing_else(name: str, files: Callable[[str], Files]) -> None:
    made = files(name)
    assert made.library.needed == ["libc.so"]
    assert made.library.versions == set()
    asked = {symbol.name for symbol in made.library.symbols if not symbol.defined and not symbol.weak}
    assert asked <= set(link.BIONIC["libc.so"])
    # Android has its shadow call stack in x18; a Linux target's kernels do use that register.
    assert not re.search(r"\b[wx]18\b", made.assembly)


def test_a_linux_target_uses_the_register_that_android_reserves(files: Callable[[str], Files]) -> None:
    assert re.search(r"\b[wx]18\b", files("raspberry-pi-4").assembly)


@pytest.mark.parametrize("name", [name for name in TARGETS if name.endswith("-32bit")])
def test_32_bit_code_is_armv8_with_hard_floats(name: str, files: Callable[[str], Files]) -> None:
    library = files(name).library
    assert library.flags & ARM_HARD_FLOAT
    attributes = library.arm_attributes
    assert attributes[ARM_VFP_ARGS] == 1
    assert attributes[ARM_CPU_ARCH] == ARMV8_A
    assert attributes[ARM_SIMD_ARCH] == 3


@pytest.mark.parametrize(
    ("name", "dynamic", "static"),
    [
        ("x86-64", "x86_64-linux-gnu.2.17", "x86_64-linux-musl"),
        ("raspberry-pi-4", "aarch64-linux-gnu.2.27", "aarch64-linux-musl"),
        ("raspberry-pi-3-32bit", "arm-linux-gnueabihf.2.27", "arm-linux-musleabihf"),
        ("android-arm64", "aarch64-linux-musl", "aarch64-linux-musl"),
    ],
)
def test_names_of_targets(name: str, dynamic: str, static: str) -> None:
    assert link.zig_target(load_target(name)) == dynamic
    assert link.static_target(load_target(name)) == static


def test_android_code_that_asks_for_more_than_bionic_is_known_to_have_does_not_link(tmp_path: Path) -> None:
    import tvm_ffi.libinfo

    source = tmp_path / "more.c"
    source.write_text("""
        #include <stdlib.h>
        #include "model.h"
        const tsm_model tsm_the_model;
        const tsm_model *const tsm_programs[] = {&tsm_the_model};
        const int32_t tsm_n_programs = 1;
        int more(unsigned *seed) { return rand_r(seed); }
    """)
    includes = [Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())]
    with pytest.raises(CompileError, match=r"linking for android-arm64 failed: .*undefined symbol: rand_r"):
        link.link_library(tmp_path / LIBRARY, load_target("android-arm64"), [source], [], includes)
