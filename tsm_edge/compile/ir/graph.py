"""The operator graph of a network: ONNX's own nodes, constants and static shapes, with its shift caches known.

``tsm_edge.compile.frontend.onnx_reader`` makes it from a file. Of a network over clips three things are no operators of
ONNX, but many of them: a shift between frames, and both ways between images and the positions of non-local attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsm_edge.compile.ir.scale import Scale

Shape = tuple[int, ...]
# The first in which everything read here takes the form it has now.
OLDEST_OPSET = 13
# [frames, C, H, W] to the same; attribute ``runs``: (channels, offset), …, as of ``layers.FrameRun``.
FRAME_SHIFT = "FrameShift"
# [frames, C, H, W] to [1, frames · H · W, C], or with the attribute ``transposed`` [1, C, frames · H · W]; and back.
TO_POSITIONS = "ToPositions"
FROM_POSITIONS = "FromPositions"


@dataclass(frozen=True)
class CachePair:
    """One shift cache: a graph input and the output fed back to it for the next frame (NCHW, float32)."""

    input: str
    output: str
    shape: Shape


@dataclass(frozen=True)
class Node:
    """One ONNX operator with its attributes as plain Python values.

    Attributes
    ----------
    op : str
    inputs : tuple of str
        Tensor names; empty for an operand that is left out.
    outputs : tuple of str
        Of a graph that was read: the name of one.
    attributes : dict of str to value
    name : str
        For people.
    result : int
        Which of the operator's results ``outputs[0]`` is.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    result: int = 0


@dataclass(frozen=True, eq=False)
class FileScales:
    """What a quantised ONNX file says of its precision, without the nodes that said it.

    Attributes
    ----------
    tensors : mapping of str to Scale
    weight_steps : mapping of str to numpy.ndarray
        float64 [out channels]: what one level stands for, by the constant that holds the weights.
    """

    tensors: Mapping[str, Scale]
    weight_steps: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class OnlineGraph:
    """A TSM network: one frame and the caches in, logits and the next caches out; or a clip in.

    Attributes
    ----------
    nodes : tuple of Node
        In execution order.
    constants : dict of str to numpy.ndarray
        Weights and other constants by tensor name.
    shapes : dict of str to tuple of int
        Static shape of every tensor.
    frame, logits : str
        Names of the frame input (float32, NCHW, batch 1; of a clip [frames, 3, height, width]) and of the logits
        output (float32, [1, classes]; of a clip their mean over the frames, [classes]).
    caches : tuple of CachePair
    sha256 : str
        Of the ONNX file.
    opset : int
        ONNX operator set the nodes are written in.
    scales : FileScales or None
        Of a file that was quantised before.
    frame_logits : str
        Of a clip: name of the logits of every frame, [frames, classes]; else empty.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    frame: str
    logits: str
    caches: tuple[CachePair, ...]
    sha256: str
    opset: int
    scales: FileScales | None = None
    frame_logits: str = ""

    @property
    def frames(self) -> int:
        """Frames of a step."""
        return self.shapes[self.frame][0]

    @property
    def results(self) -> tuple[str, ...]:
        """What a step tells: the logits, and of a clip those of every frame."""
        return (self.logits, self.frame_logits) if self.frame_logits else (self.logits,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a step is for: its results and the next caches."""
        return (*self.results, *(cache.output for cache in self.caches))

    def is_output(self, tensor: str) -> bool:
        """Whether ``tensor`` is one of the outputs."""
        return tensor in self.outputs
