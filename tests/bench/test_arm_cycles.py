"""What ``benchmarks/arm_cycles.py`` counts and models, of a loop whose numbers are known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tsm_edge.compile.package.zig import zig_command

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import arm_cycles  # noqa: E402

LOOP = """\
.globl _start
_start:
  mov x9, #1000
1:
  subs x9, x9, #1
  b.ne 1b
  mov x0, #0
  mov x8, #93
  svc #0
"""
SUBS, BRANCH = "f1000529", "54ffffe1"


def test_blocks_are_counted(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    (tmp_path / "loop.s").write_text(LOOP, "ascii")
    program = tmp_path / "loop"
    build = [*zig_command(), "cc", "-target", "aarch64-linux-musl", "-nostdlib", "-static", str(tmp_path / "loop.s")]
    subprocess.run([*build, "-o", str(program)], check=True)
    plugin = arm_cycles.build_plugin([qemu], tmp_path)
    blocks = tmp_path / "blocks.txt"
    command = [qemu, "-plugin", str(plugin), str(program)]
    subprocess.run(command, env={**os.environ, "TSM_BLOCKS": str(blocks)}, check=True)
    found = {tuple(line.split()[1:]): int(line.split()[0]) for line in blocks.read_text("ascii").splitlines()}
    assert found[SUBS, BRANCH] == 999, "after the first time round, which begins above the loop"
    assert sum(found.values()) == 1001


def test_the_hottest_blocks_come_first() -> None:
    blocks = Counter({("a",): 10_000, ("b", "c"): 3_000, ("d",): 3})
    assert arm_cycles.hottest(blocks) == [("a",), ("b", "c")]


def test_a_loop_of_one_addition_is_modelled() -> None:
    """Four multiply-adds that do not wait for each other take two cycles of two units; a chain of them, four each."""
    if shutil.which("llvm-mca-19") is None:
        pytest.skip("llvm-mca-19 is not installed: apt-get install llvm-19")
    apart = tuple(f"4e22cc{20 + index:02x}" for index in range(4))  # fmla v0…v3.4s, v1.4s, v2.4s
    found = arm_cycles.modelled([apart, (SUBS, BRANCH)], "neoverse-n1")
    assert found[0][1] == pytest.approx(2, abs=0.1)
    assert found[1][0] == pytest.approx(1, abs=0.2)
