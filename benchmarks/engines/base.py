"""What an engine is to the race: converted once, opened with a number of threads, then stepped frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CacheTensor:
    """One shift cache of the ONNX model: ``output`` of a frame is ``input`` of the next; float32, NCHW."""

    input: str
    output: str
    shape: tuple[int, ...]

    @property
    def zeros(self) -> Floats:
        """The cache before the first frame."""
        return np.zeros(self.shape, np.float32)


@dataclass(frozen=True)
class OnlineModel:
    """The ONNX file every engine runs.

    Attributes
    ----------
    path : Path
    frame, logits : str
        Names of the frame input and the logits output.
    frame_shape : tuple of int
        [1, 3, height, width], float32; of a clip [frames, 3, height, width].
    classes : int
    caches : tuple of CacheTensor
        In the order of the model's inputs after the frame.
    """

    path: Path
    frame: str
    logits: str
    frame_shape: tuple[int, ...]
    classes: int
    caches: tuple[CacheTensor, ...]

    @property
    def logits_shape(self) -> tuple[int, int]:
        """[1, classes]; of a clip the logits of every frame, [frames, classes]."""
        return self.frame_shape[0], self.classes


class Stepper(Protocol):
    """A model ready to run one video stream."""

    def reset(self) -> None:
        """Zero the shift caches."""

    def step(self, frame: Floats) -> Floats:
        """Run one frame or clip (float32, C-contiguous); return the logits, float32, as the model's.

        The returned array need only stay valid until the next call.
        """


class Engine(Protocol):
    """One inference engine."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules that must be importable for the engine to count as installed."""

    @property
    def distributions(self) -> tuple[str, ...]:
        """Distributions whose versions are reported."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Ways of calling it; a short race among them decides which one is measured."""

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        """Convert the model to the engine's own files in ``folder``; may be slow and import anything."""

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        """Load the converted model."""


def read_model(path: Path) -> OnlineModel:
    """Read names and shapes of an online model exported by tsm-edge.

    Raises
    ------
    ValueError
        The file has an input without an output ``NAME_next`` to feed it from, or symbolic shapes.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_named_shape(value) for value in graph.input if value.name not in weights]
    outputs = dict(_named_shape(value) for value in graph.output)
    (frame, frame_shape), *caches = inputs
    for name, shape in caches:
        if outputs.get(f"{name}_next") != shape:
            raise ValueError(f"{path}: input {name} has no output {name}_next of its shape; expected an online model")
    (logits,) = (name for name in outputs if not name.endswith("_next"))
    return OnlineModel(
        path,
        frame,
        logits,
        frame_shape,
        outputs[logits][-1],
        tuple(CacheTensor(name, f"{name}_next", shape) for name, shape in caches),
    )


def _named_shape(value: Any) -> tuple[str, tuple[int, ...]]:
    shape = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    if not all(shape):
        raise ValueError(f"{value.name} has shape {shape}: expected a model with fixed shapes")
    return value.name, shape
