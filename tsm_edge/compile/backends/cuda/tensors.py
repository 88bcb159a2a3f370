"""Where every tensor of a step lies on the GPU: planes, in the workspace, the caller's frame or a shift cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsm_edge.compile.ir.graph import OnlineGraph, Shape
from tsm_edge.compile.ir.layout import Image, planar, planes
from tsm_edge.compile.ir.program import BufferRef, KernelCall, WorkspaceBuffer
from tsm_edge.errors import CompileError


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is and how it lies there.

    Attributes
    ----------
    image : Image
    buffer : BufferRef
    scale : float
        Its values are ``scale`` times what is stored: 6 for what was clamped to [0, 6] by saturation.
    """

    image: Image
    buffer: BufferRef
    scale: float = 1.0


class Tensors:
    """Tensors by name.

    Parameters
    ----------
    graph : OnlineGraph
    dtype : str
        Of the planes that are stored.
    """

    def __init__(self, graph: OnlineGraph, dtype: str) -> None:
        self._shapes: Mapping[str, Shape] = graph.shapes
        self._dtype = dtype
        self._tensors: dict[str, Tensor] = {}
        self._images: list[tuple[str, Image]] = []
        _, channels, height, width = graph.shapes[graph.frame]
        self.put(graph.frame, Tensor(planar(height, width, channels), BufferRef("frame")))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    def __getitem__(self, tensor: str) -> Tensor:
        return self._tensors[tensor]

    def put(self, tensor: str, at: Tensor) -> Tensor:
        """Note that a tensor lies somewhere already."""
        self._tensors[tensor] = at
        return at

    def new(self, tensor: str, image: Image, scale: float = 1.0) -> Tensor:
        """Room for a tensor in the workspace."""
        self._images.append((tensor, image))
        return self.put(tensor, Tensor(image, BufferRef("workspace", len(self._images) - 1), scale))

    def output(self, tensor: str, scale: float = 1.0) -> Tensor:
        """Room for a tensor a rule is about to make: planes."""
        return self.new(tensor, self.planes_of(tensor), scale)

    def planes_of(self, tensor: str) -> Image:
        """The planes of a tensor; of one pixel they are a vector of float32, whatever images are stored as.

        Raises
        ------
        CompileError
            It is no image of batch 1.
        """
        shape = self._shapes[tensor]
        if len(shape) not in (2, 4) or shape[0] != 1:
            raise CompileError(
                f"tensor {tensor!r} is {list(shape)}: expected [1, channels, height, width]",
                "export the model with batch 1 and without reshapes between its convolutions",
            )
        _, channels, height, width = (*shape, 1, 1)[:4]
        return planes(height, width, channels, "float32" if height * width == 1 else self._dtype)

    def workspace(self, calls: Sequence[KernelCall], logits: int) -> tuple[WorkspaceBuffer, ...]:
        """Every workspace buffer, from the call that writes it to the last one that reads it; logits to the end."""
        first: dict[int, int] = {}
        last: dict[int, int] = {logits: len(calls)}
        for position, call in enumerate(calls):
            for ref in call.buffers:
                if ref.space == "workspace":
                    first.setdefault(ref.index, position)
                    last[ref.index] = max(last.get(ref.index, 0), position)
        return tuple(
            WorkspaceBuffer(name, image, first[index], last[index]) for index, (name, image) in enumerate(self._images)
        )
