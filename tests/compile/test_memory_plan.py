"""Workspace placement: buffers alive together never share a byte, and no byte is wasted where none need be."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from tsm_edge.compile.ir.layout import nhwc, planes
from tsm_edge.compile.ir.memory_plan import ALIGNMENT, GPU_ALIGNMENT, plan_memory
from tsm_edge.compile.ir.program import WorkspaceBuffer


def buffer(kib: int, first: int, last: int) -> WorkspaceBuffer:
    """A temporary of ``kib`` KiB, written by call ``first`` and read last by call ``last``."""
    return WorkspaceBuffer("x", nhwc(1, kib, 256, 4), first, last)


def most_alive(buffers: Sequence[WorkspaceBuffer]) -> int:
    """The largest sum of sizes alive at one call: no plan is smaller."""
    calls = range(max(item.last for item in buffers) + 1)
    return max(sum(item.bytes for item in buffers if item.first <= call <= item.last) for call in calls)


@pytest.mark.parametrize("seed", range(50))
def test_lives_never_overlap(seed: int) -> None:
    generator = random.Random(seed)
    buffers = []
    for index in range(generator.randint(1, 40)):
        channels, first = generator.randint(1, 70), generator.randint(0, 30)
        image = nhwc(generator.randint(1, 9), generator.randint(1, 9), channels, generator.choice((4, 8, 16)))
        buffers.append(WorkspaceBuffer(f"t{index}", image, first, first + generator.randint(0, 8)))
    plan = plan_memory(buffers)
    assert len(plan.offsets) == len(buffers)
    for offset, item in zip(plan.offsets, buffers, strict=True):
        assert offset >= 0
        assert offset % ALIGNMENT == 0
        assert offset + item.bytes <= plan.bytes
    for (one, a), (other, b) in itertools.combinations(zip(plan.offsets, buffers, strict=True), 2):
        together = a.first <= b.last and b.first <= a.last
        apart = one + a.bytes <= other or other + b.bytes <= one
        assert apart or not together, f"{a} at {one} and {b} at {other}"
    assert most_alive(buffers) <= plan.bytes <= sum(item.bytes + ALIGNMENT for item in buffers)


@pytest.mark.parametrize(
    ("buffers", "kib"),
    [
        pytest.param([buffer(3, 0, 1)], 3, id="one"),
        pytest.param([buffer(3, 0, 1), buffer(3, 2, 3)], 3, id="one after the other"),
        pytest.param([buffer(3, 0, 1), buffer(2, 1, 2)], 5, id="a call reads one and writes the other"),
        pytest.param([buffer(4, i, i + 1) for i in range(6)], 8, id="a chain of equal layers"),
        pytest.param([buffer(k, i, i + 1) for i, k in enumerate((8, 6, 4, 2))], 14, id="a narrowing chain"),
        pytest.param([buffer(2, 0, 3), buffer(6, 1, 2), buffer(6, 2, 3)], 14, id="a residual kept over two layers"),
        pytest.param([buffer(5, 0, 4), buffer(1, 1, 2), buffer(2, 3, 4)], 7, id="a hole used again"),
    ],
)
def test_tight(buffers: list[WorkspaceBuffer], kib: int) -> None:
    plan = plan_memory(buffers)
    assert plan.bytes == kib * 1024 == most_alive(buffers)


def test_nothing_to_place() -> None:
    plan = plan_memory([])
    assert (plan.offsets, plan.bytes) == ((), 0)


def test_offsets_of_a_gpu_are_multiples_of_256_bytes() -> None:
    image = planes(7, 7, 5)
    buffers = [WorkspaceBuffer(str(index), image, index, index + 1) for index in range(4)]
    plan = plan_memory(buffers, GPU_ALIGNMENT)
    assert [offset % 256 for offset in plan.offsets] == [0] * 4
    assert image.bytes == 5 * 52 * 4
    assert plan.bytes == 2 * 1280
