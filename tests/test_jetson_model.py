"""The simulator behind ``benchmarks/jetson_model.py``, on code so simple that its time is known."""

from __future__ import annotations

import pytest

from benchmarks.jetson.sass import Instruction, Kernel
from benchmarks.jetson.simulator import cycles, trace_of
from tsm_edge.cards import GpuSpec, load_target


def nano() -> GpuSpec:
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    return gpu


def instruction(text: str, **timing: int) -> Instruction:
    operation, _, operands = text.partition(" ")
    return Instruction(0, text, operation, operation.split(".")[0], operands, False, **{"stall": 1, **timing})


def straight(count: int, text: str = "FFMA R0, R1, R2, R3", **timing: int) -> Kernel:
    return Kernel([*(instruction(text, **timing) for _ in range(count)), instruction("EXIT")])


def time(kernel: Kernel, threads: int = 32, blocks: int = 1, resident: int = 1, missed: float = 0.0) -> int:
    trace = trace_of(kernel, {})
    return cycles(kernel, trace, threads, blocks, resident, nano(), lambda index, item: missed)


def test_loops_run_as_often_as_they_are_told() -> None:
    kernel = straight(6)
    assert trace_of(kernel, {(1, 3): 3, (2, 2): 2}) == [0, *[1, 2, 2, 3] * 3, 4, 5, 6]


def test_a_backward_branch_is_a_loop() -> None:
    kernel = straight(3)
    branch = instruction("BRA `(.L_1)")
    branch.predicated = True
    kernel.instructions.insert(2, branch)
    kernel.labels[".L_1"] = 1
    assert kernel.loops() == [(1, 2)]


@pytest.mark.parametrize(("warps", "share"), [(1, 1), (4, 1), (8, 2), (16, 4)])
def test_four_schedulers_issue_an_instruction_a_cycle_each(warps: int, share: int) -> None:
    assert time(straight(1000), threads=32 * warps) == pytest.approx(1000 * share, rel=0.02)


def test_pairs_are_issued_together_and_bank_conflicts_cost_slots() -> None:
    code = [instruction("FFMA R0, R1, R2, R3", stall=index % 2) for index in range(1000)]
    assert time(Kernel([*code, instruction("EXIT")])) == pytest.approx(500, rel=0.02)
    assert time(straight(1000, conflict=1)) == pytest.approx(2000, rel=0.02)


def test_memory_moves_at_the_cards_bandwidth() -> None:
    loads = straight(200, "LDG.E.128 R0, [R4]")
    moved = 200 * 32 * 16 * 64  # bytes of 64 blocks of a warp
    seconds = time(loads, blocks=64, resident=32, missed=1.0) / nano().clock_mhz / 1e6
    assert moved / seconds / 1e9 == pytest.approx(nano().memory_gb_s, rel=0.05)


def test_blocks_beyond_the_resident_ones_wait() -> None:
    one, three = time(straight(5000)), time(straight(5000), blocks=3)
    assert three == pytest.approx(3 * one, rel=0.15)
    assert time(straight(5000), blocks=3, resident=3) == pytest.approx(one, rel=0.05)
