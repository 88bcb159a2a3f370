from __future__ import annotations

import dataclasses
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards import architecture as machine
from tsm_edge.errors import ArtifactError
from tsm_edge.runtime import RUNTIME_FOLDER


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x86_64", "x86_64"),
        ("AMD64", "x86_64"),
        ("x86_64-conda-linux-gnu", "x86_64"),
        ("arm64\n", "aarch64"),
        ("aarch64-linux-android", "aarch64"),
        ("armv7l", "arm"),
        ("armv8l", "arm"),
        ("armv7l-linux-gnueabihf", "arm"),
        ("i386", "i686"),
        ("riscv64", "riscv64"),
    ],
)
def test_architecture(name: str, expected: str) -> None:
    assert machine.architecture(name) == expected


def test_a_32_bit_process_on_a_64_bit_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.this_architecture() == "aarch64"
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert machine.this_architecture() == "arm"


def test_elf_architecture() -> None:
    with Path(sys.executable).open("rb") as stream:
        assert machine.elf_architecture(stream.read(20)) == machine.this_architecture()
    head = b"\x7fELF\x01\x02" + bytes(10)
    assert machine.elf_architecture(head + struct.pack(">HH", 2, 40)) == "arm"
    assert machine.elf_architecture(b"#!/bin/sh\nexec python") is None
    assert machine.elf_architecture(b"\x7fELF") is None


PI_ZERO = "half thumb fastmult vfp edsp java tls"
PI_2 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
PI_3_32_BIT = f"{PI_2} crc32"
PI_4 = "fp asimd evtstrm crc32 cpuid"
PI_5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
HASWELL = "fpu cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"


@pytest.mark.parametrize(
    ("card", "flags", "missing"),
    [
        ("x86-64-v3", HASWELL, []),
        ("x86-64-v4", HASWELL, ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"]),
        ("x86-64-v3", HASWELL.replace(" movbe", ""), ["movbe"]),
        ("x86-64-v4", "", []),
        ("raspberry-pi-3-32bit", PI_ZERO, ["neon", "vfpv4", "crc32"]),
        ("raspberry-pi-4-32bit", PI_2, ["crc32"]),
        ("raspberry-pi-3-32bit", PI_3_32_BIT, []),
        ("raspberry-pi-3-32bit", PI_4, []),  # a 64-bit kernel under a 32-bit system
        ("raspberry-pi-3-32bit", "", []),
        ("raspberry-pi-4", PI_4, []),
        ("raspberry-pi-5", PI_4, ["atomics", "fphp"]),
        ("raspberry-pi-5", PI_5, []),
        ("android-pixel-1", "fp asimd aes pmull sha1 sha2 crc32", []),
    ],
)
def test_missing_features(card: str, flags: str, missing: list[str], tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert machine.missing_features(target(card), machine.cpu_flags(tmp_path)) == missing


def test_the_runtime_has_as_many_threads_at_most() -> None:
    header = (RUNTIME_FOLDER / "tsm_edge.h").read_text("ascii")
    assert re.findall(r"TSM_MOST_THREADS = (\d+)", header) == [str(machine.MOST_THREADS)]
    with pytest.raises(ArtifactError, match=f"expected 1 to {machine.MOST_THREADS}"):
        machine.check_threads(machine.MOST_THREADS + 1)
    machine.check_threads(machine.MOST_THREADS)


def test_features_in_a_table_of_their_own(tmp_path: Path) -> None:
    """As kernels before 3.8 wrote them on 32-bit Arm; the board comes last."""
    (tmp_path / "proc").mkdir()
    text = f"Processor\t: ARMv7\nprocessor\t: 0\n\nprocessor\t: 1\n\nFeatures\t: {PI_2}\nHardware\t: BCM2709\n"
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert machine.cpu_flags(tmp_path) == tuple(PI_2.split())
    assert [table.get("processor") for table in machine.cpuinfo(tmp_path)] == ["0", "1", None]


def test_features_beyond_the_cpus_own() -> None:
    native = target("raspberry-pi-5", cpu="generic", features=("+neon", "+dotprod", "+fullfp16"))
    assert machine.missing_features(native, PI_5.split()) == []
    assert machine.missing_features(native, PI_4.split()) == ["asimddp", "fphp"]


def test_an_old_arm_is_known_by_its_name_where_cpuinfo_is_hidden(tmp_path: Path) -> None:
    flags = machine.cpu_flags(tmp_path)
    assert machine.missing_features(target("raspberry-pi-3-32bit"), flags, "armv6l")[0] == "neon"
    assert machine.missing_features(target("raspberry-pi-3-32bit"), flags, "armv7l") == []


def target(card: str, **changes: Any) -> TargetCard:
    """A shipped card; ``changes`` to its CPU, or its C library."""
    found = load_target(card)
    libc = changes.pop("libc", found.libc)
    return dataclasses.replace(found, libc=libc, cpu=dataclasses.replace(found.cpu, **changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        (
            {"triple": "aarch64-unknown-linux-gnu"},
            "this machine is x86_64, the model is compiled for x86-64 (aarch64)",
        ),
        (
            {"triple": "aarch64-unknown-linux-android", "libc": "bionic"},
            "this machine is x86_64, the model is compiled for x86-64 (aarch64)",
        ),
        ({"libc": "musl"}, "this machine's C library is glibc, the model is compiled for x86-64 (musl)"),
        (
            {"cpu": "x86-64-v4"},
            "this machine's CPU lacks avx512f, avx512bw, avx512dq, avx512vl, avx512cd, the model is compiled for "
            "x86-64 (x86-64-v4)",
        ),
    ],
)
def test_what_runs_here_and_why_not(changes: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(machine, "cpu_flags", lambda: tuple(HASWELL.split()))
    assert machine.runs_here(target("x86-64", **changes)) == (not why)
    assert machine.why_not_here(target("x86-64", **changes)) == why
