from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from tsm_edge import machine


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


def test_missing_features(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma bmi2 f16c\n\nprocessor\t: 1\n")
    flags = machine.cpu_flags(tmp_path)
    assert flags == ("fpu", "avx2", "fma", "bmi2", "f16c")
    assert machine.missing_features("x86-64-v3", flags) == []
    assert machine.missing_features("x86-64-v4", flags)[0] == "avx512f"
    assert machine.missing_features("cortex-a72", flags) == []
    assert machine.missing_features("x86-64-v4", machine.cpu_flags(tmp_path / "nowhere")) == []
