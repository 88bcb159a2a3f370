"""Static memory plan: an offset for every temporary tensor, so that tensors alive together never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.program import WorkspaceBuffer

ALIGNMENT = 64
GPU_ALIGNMENT = 256  # what cuMemAlloc gives


@dataclass(frozen=True)
class MemoryPlan:
    """Byte offset of each workspace buffer, in the program's order, and the workspace's size in bytes."""

    offsets: tuple[int, ...]
    bytes: int


def plan_memory(buffers: Sequence[WorkspaceBuffer], alignment: int = ALIGNMENT) -> MemoryPlan:
    """Place buffers, largest first, each at the lowest offset free for its whole life, a multiple of ``alignment``."""
    sizes = [ceil_div(buffer.bytes, alignment) * alignment for buffer in buffers]
    offsets: dict[int, int] = {}
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].bytes, i)):
        buffer = buffers[index]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if buffers[other].first <= buffer.last and buffer.first <= buffers[other].last
        )
        offset = 0
        for start, end in taken:
            if offset + sizes[index] <= start:
                break
            offset = max(offset, end)
        offsets[index] = offset
    total = max((offsets[i] + sizes[i] for i in offsets), default=0)
    return MemoryPlan(tuple(offsets[i] for i in range(len(buffers))), total)
