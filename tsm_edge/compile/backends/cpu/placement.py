"""Where every tensor of a step lies, and the copies that give a reader the layout it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tsm_edge.compile.backends.common.workspace import Tensor, Workspace
from tsm_edge.compile.backends.cpu.borders import NO_BORDER, fits
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.kernels.copying import CopySpec
from tsm_edge.compile.ir.graph import OnlineGraph, Shape
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layout import Border, Image, nhwc, planar
from tsm_edge.compile.ir.layout import dense as dense_image
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError

# Spec, buffers by argument name, the tensor made.
EmitCall = Callable[[KernelSpec, Mapping[str, BufferRef], str], None]


class Placement:
    """Tensors by name. A tensor asked for in a layout it does not have is copied, once.

    Parameters
    ----------
    graph : OnlineGraph
    core : Core
    borders : dict of str to Border
        The border each tensor is made with.
    workspace : Workspace
    emit_call : callable
        Takes the calls of the copies.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        core: Core,
        borders: Mapping[str, Border],
        workspace: Workspace,
        emit_call: EmitCall,
    ) -> None:
        self._shapes: Mapping[str, Shape] = graph.shapes
        self._frames = graph.frames
        self._lanes, self._dtype = core.lanes, core.dtype
        self._borders = borders
        self._emit_call = emit_call
        self._tensors: dict[str, Tensor] = {}
        self._dense: dict[str, BufferRef] = {}  # tensors that also lie there without gaps, in ONNX's own layout
        self._workspace = workspace

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    def __getitem__(self, tensor: str) -> Tensor:
        return self._tensors[tensor]

    def put(self, tensor: str, at: Tensor) -> Tensor:
        """Note that a tensor lies somewhere already: in the caller's memory, a cache, or another's place."""
        self._tensors[tensor] = at
        return at

    def new(self, tensor: str, image: Image) -> Tensor:
        """Room for a tensor in the workspace."""
        return self.put(tensor, Tensor(image, self._workspace.room(tensor, image)))

    def output(self, tensor: str) -> Tensor:
        """Room for a tensor a rule is about to make, as :meth:`output_image` says."""
        return self.new(tensor, self.output_image(tensor))

    def output_image(self, tensor: str) -> Image:
        """NHWC, with the border its readers need.

        Raises
        ------
        CompileError
            Its batch is not 1, or of a clip its frames.
        """
        shape = self._shapes[tensor]
        if len(shape) == 1:  # the mean over a clip's frames
            return nhwc(1, 1, shape[0], self._lanes, NO_BORDER, self._dtype)
        batch, channels, height, width = shape if len(shape) == 4 else (*shape, 1, 1)[:4]
        if batch != self._frames:
            expected = "an online model has batch 1" if self._frames == 1 else f"its clip has {self._frames} frames"
            raise CompileError(f"tensor {tensor!r} has batch {batch}; {expected}", "export the model with batch 1")
        border = self._borders.get(tensor, NO_BORDER)
        return nhwc(height, width, channels, self._lanes, border, self._dtype, batch)

    def with_border(self, tensor: str, border: Border) -> Tensor:
        """The tensor in the type that is stored, with at least this border; copied if it was not made so."""
        found = self._tensors[tensor]
        if fits(found.image.border, border) and found.image.dtype == self._dtype:
            return found
        key = f"{tensor} padded {border}"
        if key not in self._tensors:
            image = found.image
            size = (image.height, image.width, image.channels)
            if image.channel > 1:
                padded = planar(*size, border, self._dtype, image.frames)
            else:
                padded = nhwc(*size, self._lanes, border, self._dtype, image.frames)
            self._copy(found, self.new(key, padded), key)
        return self._tensors[key]

    def vectors(self, tensor: str, border: Border = NO_BORDER) -> Tensor:
        """The tensor as NHWC with whole vectors of channels, for rules that read vectors."""
        found = self.with_border(tensor, border)
        image = found.image
        if image.channel == 1 and image.pixel % self._lanes == 0:
            return found
        key = f"{tensor} as NHWC {border}"
        if key not in self._tensors:
            size = (image.height, image.width, image.channels)
            made = self.new(key, nhwc(*size, self._lanes, border, self._dtype, image.frames))
            self._copy(self._tensors[tensor], made, key)
        return self._tensors[key]

    def dense(self, tensor: str) -> BufferRef:
        """The tensor in float32 without gaps, in ONNX's own layout; copied if it does not lie like that."""
        if tensor not in self._dense:
            found = self._tensors[tensor]
            image = found.image
            plain = dense_image(image.frames, image.height, image.width, image.channels)
            one_pixel = (image.frames, image.height, image.width) == (1, 1, 1) and image.border == NO_BORDER
            if image == plain or (one_pixel and image.dtype == plain.dtype):
                self._dense[tensor] = found.buffer
            else:
                made = self.new(f"{tensor} as NCHW", plain)
                self._copy(found, made, f"{tensor} as NCHW")
                self._dense[tensor] = made.buffer
        return self._dense[tensor]

    def put_dense(self, tensor: str, buffer: BufferRef) -> None:
        """Note where a tensor lies without gaps, in ONNX's own layout."""
        self._dense[tensor] = buffer

    def to_nhwc(self, tensor: str, plain: Tensor) -> Tensor:
        """Copy a dense tensor to the layout rules read."""
        made = self.output(tensor)
        self._copy(plain, made, f"{tensor} as NHWC")
        return made

    def alias(self, tensor: str, of: str) -> None:
        """A tensor that lies where another does."""
        if of in self._tensors:
            self._tensors[tensor] = self._tensors[of]
        if of in self._dense:
            self._dense[tensor] = self._dense[of]

    def sharing(self, buffer: BufferRef) -> list[str]:
        """Names of all tensors that lie in a buffer."""
        return [name for name, tensor in self._tensors.items() if tensor.buffer == buffer]

    def _copy(self, source: Tensor, target: Tensor, made: str) -> None:
        spec = CopySpec(source.image, target.image, self._lanes)
        self._emit_call(spec, {"source": source.buffer, "target": target.buffer}, made)
