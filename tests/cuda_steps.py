"""Steps of a program for a GPU on the stand-in driver, launch by launch, every buffer in device memory of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx_graphs import Floats, Reference, assert_close
from standin_device import run_kernel

from tsm_edge.cards import GpuSpec, Preprocess, load_target
from tsm_edge.cards.precision import FP32, Precision
from tsm_edge.compile.backends.cuda.codegen import cuda_source
from tsm_edge.compile.backends.cuda.lower import lower
from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program
from tsm_edge.compile.passes.fuse import fuse


@dataclass(frozen=True, eq=False)
class Lowered:
    """A network and its program."""

    graph: OnlineGraph
    program: Program


def lowered(
    model: onnx.ModelProto,
    folder: Path,
    target: str = "jetson-nano",
    precision: Precision = FP32,
    preprocess: Preprocess | None = None,
    choices: Choices | None = None,
) -> Lowered:
    """Lower a model for a target's GPU."""
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    graph = load_onnx(path)
    return Lowered(graph, lower(graph, fuse(graph), load_target(target), precision, choices, preprocess))


def compiled(networks: Mapping[str, Lowered], gpu: GpuSpec) -> str:
    """The kernels of several programs as one PTX: NVRTC starts slowly. Their names begin with the network's."""
    functions = {
        f"{prefix}_{call.kernel}": call.spec
        for prefix, network in networks.items()
        for call in (*network.program.byte_calls, *network.program.calls)
    }
    return compile_ptx(cuda_source({name: spec.write(name) for name, spec in functions.items()}, gpu), gpu)


def addresses_can_be_fixed() -> bool:
    """Whether a process may ask for addresses that are not random: in some containers it may not."""
    code = "import ctypes; c = ctypes.CDLL(None); raise SystemExit(c.personality(c.personality(~0) | 0x40000) == -1)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of a kernel, with what its buffers held before it."""

    kernel: str
    blocks: tuple[int, int, int]
    threads: int
    before: tuple[np.ndarray, ...]

    def repeat(self, ptx: str) -> tuple[np.ndarray, ...]:
        """Launch it again on copies; what these hold after it."""
        copies = {id(buffer): buffer.copy() for buffer in self.before}
        buffers = [copies[id(buffer)] for buffer in self.before]
        run_kernel(ptx, self.kernel, self.blocks, self.threads, buffers)
        return tuple(buffers)


class Step:
    """A program's memory, and its launches.

    Every workspace buffer begins as NaN, as do outputs: what is read without having been written shows.

    Attributes
    ----------
    launches : list of Launch
        Of the last frame.
    """

    def __init__(self, network: Lowered, ptx: str, prefix: str = "") -> None:
        self._program, self._graph = network.program, network.graph
        self._ptx, self._prefix = ptx, f"{prefix}_" if prefix else ""
        self._workspace = [_nan(buffer.image) for buffer in network.program.workspace]
        self._weights = [np.ascontiguousarray(array) for array in network.program.weights]

    def __call__(self, frame: Floats, caches: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
        """Logits and next caches of one frame, in ONNX's layout."""
        self._frame, self._bytes = np.ascontiguousarray(frame.reshape(-1)), np.empty(0, np.uint8)
        return self._run(self._program.calls, caches)

    def from_bytes(self, frame: np.ndarray, caches: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
        """The same of a frame as a camera gives it: uint8 [H][W][RGB]."""
        program = self._program
        self._frame = np.full(frame.size, np.nan, np.float32)
        self._bytes = np.ascontiguousarray(frame.reshape(-1))
        return self._run((*program.byte_calls, *program.calls[program.replaced_calls :]), caches)

    def _run(self, calls: Sequence[KernelCall], caches: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
        program = self._program
        for memory, buffer in zip(self._workspace, program.workspace, strict=True):
            memory[:] = _nan(buffer.image)
        self._caches = [to_device(values, image) for values, image in zip(caches, program.caches, strict=True)]
        self._next = [_nan(image) for image in program.caches]
        self.launches: list[Launch] = []
        for call in calls:
            self._launch(call)
        logits = self._workspace[program.logits][: np.prod(self._graph.shapes[self._graph.logits])]
        return (
            logits.reshape(self._graph.shapes[self._graph.logits]).copy(),
            [from_device(memory, image) for memory, image in zip(self._next, program.caches, strict=True)],
        )

    def _launch(self, call: KernelCall) -> None:
        grid = call.grid
        buffers = [self._memory(ref) for ref in call.buffers]
        kept = {id(buffer): buffer.copy() for buffer in buffers}
        before = tuple(kept[id(buffer)] for buffer in buffers)
        self.launches.append(Launch(self._prefix + call.kernel, grid.blocks, grid.threads[0], before))
        run_kernel(self._ptx, self._prefix + call.kernel, grid.blocks, grid.threads[0], buffers)

    def _memory(self, ref: BufferRef) -> np.ndarray:
        spaces = {"workspace": self._workspace, "weights": self._weights, "cache": self._caches}
        if ref.space in ("frame", "frame_bytes"):
            return self._frame if ref.space == "frame" else self._bytes
        return self._next[ref.index] if ref.space == "next_cache" else spaces[ref.space][ref.index]


def assert_computes(network: Lowered, model: onnx.ModelProto, gpu: GpuSpec, tolerance: float) -> None:
    """One frame from caches of other values than zero: logits and next caches are those of ONNX Runtime."""
    reference, step = Reference(model), Step(network, compiled({"net": network}, gpu), "net")
    (frame,) = reference.frames(1)
    caches = [cache + 0.5 for cache in reference.zeros()]
    found, expected = step(frame, caches), reference.step(frame, caches)
    for mine, wanted in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert_close(mine, wanted, tolerance)


def assert_follows(
    network: Lowered, model: onnx.ModelProto, gpu: GpuSpec, tolerance: float, cache_tolerance: float
) -> None:
    """Frames one after the other, the caches fed back: all is what ONNX Runtime makes of them."""
    reference, step = Reference(model), Step(network, compiled({"net": network}, gpu), "net")
    caches = expected_caches = reference.zeros()
    for frame in reference.frames(2):
        logits, caches = step(frame, caches)
        expected, expected_caches = reference.step(frame, expected_caches)
        assert_close(logits, expected, tolerance)
        for found, wanted in zip(caches, expected_caches, strict=True):
            assert_close(found, wanted, cache_tolerance)


def to_device(values: Floats, image: Image) -> np.ndarray:
    """ONNX's layout → the image's, NaN between planes."""
    memory = _nan(image)
    _view(memory, image)[:] = values[0]
    return memory


def from_device(memory: np.ndarray, image: Image) -> Floats:
    """The way back of :func:`to_device`."""
    return _view(memory, image)[None].astype(np.float32)


def _view(memory: np.ndarray, image: Image) -> np.ndarray:
    size = memory.itemsize
    strides = (image.channel * size, image.row * size, image.pixel * size)
    return np.lib.stride_tricks.as_strided(memory, (image.channels, image.height, image.width), strides)


def _nan(image: Image) -> np.ndarray:
    memory = np.empty(image.elements, image.dtype)
    memory.view(np.uint8)[:] = 0xFF
    return memory
