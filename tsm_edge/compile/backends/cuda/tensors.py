"""Where every tensor of a step lies on the GPU: planes, in the workspace, the caller's frame or a shift cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tsm_edge.compile.backends.common.workspace import Tensor, Workspace
from tsm_edge.compile.ir.graph import OnlineGraph, Shape
from tsm_edge.compile.ir.layout import Image, planar, planes
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError


@dataclass(frozen=True)
class Planes(Tensor):
    """Where a tensor is and how it lies there.

    Attributes
    ----------
    scale : float
        Its values are ``scale`` times what is stored: 6 for what was clamped to [0, 6] by saturation.
    """

    scale: float = 1.0


class Tensors:
    """Tensors by name.

    Parameters
    ----------
    graph : OnlineGraph
    dtype : str
        Of the planes that are stored.
    workspace : Workspace
    most_pixels : int or None
        Of a plane that is stored in ``dtype``: larger ones are float32; None: no limit.
    """

    def __init__(self, graph: OnlineGraph, dtype: str, workspace: Workspace, most_pixels: int | None = None) -> None:
        self._shapes: Mapping[str, Shape] = graph.shapes
        self._dtype, self._most_pixels = dtype, most_pixels
        self._tensors: dict[str, Planes] = {}
        self._workspace = workspace
        _, channels, height, width = graph.shapes[graph.frame]
        self.put(graph.frame, Planes(planar(height, width, channels), BufferRef("frame")))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    def __getitem__(self, tensor: str) -> Planes:
        return self._tensors[tensor]

    def put(self, tensor: str, at: Planes) -> Planes:
        """Note that a tensor lies somewhere already."""
        self._tensors[tensor] = at
        return at

    def new(self, tensor: str, image: Image, scale: float = 1.0) -> Planes:
        """Room for a tensor in the workspace."""
        return self.put(tensor, Planes(image, self._workspace.room(tensor, image), scale))

    def output(self, tensor: str, scale: float = 1.0) -> Planes:
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
        return self.image(height, width, channels)

    def image(self, height: int, width: int, channels: int) -> Image:
        """Planes in the element type that is stored; one pixel is a vector of float32, and so are large planes."""
        pixels = height * width
        large = self._most_pixels is not None and pixels > self._most_pixels
        return planes(height, width, channels, "float32" if pixels == 1 or large else self._dtype)
