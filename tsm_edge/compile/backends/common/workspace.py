"""Room for what a step makes on the way, and how long each piece of it is in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.compile.ir.layout import Image, planar
from tsm_edge.compile.ir.program import BufferRef, KernelCall, WorkspaceBuffer


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is and how it lies there."""

    image: Image
    buffer: BufferRef


class Workspace:
    """Images that calls write and read."""

    def __init__(self) -> None:
        self._images: list[tuple[str, Image]] = []

    def room(self, name: str, image: Image) -> BufferRef:
        """Room for an image; ``name`` is for people."""
        self._images.append((name, image))
        return BufferRef("workspace", len(self._images) - 1)

    def bytes_room(self, name: str, size: int) -> BufferRef:
        """Room for ``size`` bytes."""
        return self.room(name, planar(1, size, 1, dtype="uint8"))

    def buffers(self, calls: Sequence[KernelCall], outputs: Sequence[int]) -> tuple[WorkspaceBuffer, ...]:
        """Every buffer, from the call that writes it to the last one that reads it; outputs to the end."""
        first: dict[int, int] = {}
        last = dict.fromkeys(outputs, len(calls))
        for position, call in enumerate(calls):
            for ref in call.buffers:
                if ref.space == "workspace":
                    first.setdefault(ref.index, position)
                    last[ref.index] = max(last.get(ref.index, 0), position)
        return tuple(
            WorkspaceBuffer(name, image, first[index], last[index]) for index, (name, image) in enumerate(self._images)
        )
