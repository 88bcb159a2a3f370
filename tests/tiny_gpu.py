"""A model for a GPU that is small enough to be built in each test session: two layers, one shift cache, made by hand.

``ptx/tiny.cu`` has its kernels; here are its program, its artifact, and what it computes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsm_edge.artifact.folder import HEADER_FILE, LIBRARY, MANIFEST
from tsm_edge.artifact.manifest import CacheInfo, KernelInfo, Manifest, MemoryInfo, StageInfo, TensorInfo
from tsm_edge.cards import GpuSpec, Preprocess, Smoothing, TargetCard, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.graph import CachePair, OnlineGraph
from tsm_edge.compile.ir.kernel import Argument, Grid, Stage
from tsm_edge.compile.ir.layout import planes
from tsm_edge.compile.ir.memory_plan import GPU_ALIGNMENT, plan_memory
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program, WorkspaceBuffer
from tsm_edge.compile.package.device_tables import write_device_sources
from tsm_edge.compile.package.link import link_library
from tsm_edge.files.atomic import file_sha256
from tsm_edge.runtime import HEADER, abi_version
from tsm_edge.verify.standin.build import StandIn, build_standin
from tsm_edge.verify.standin.translate import Image

PTX = (Path(__file__).parent / "ptx" / "tiny.ptx").read_text("ascii")
# An ELF file of which nothing is known but its size, for drivers that never look inside.
CUBIN = b"\x7fELF" + bytes(36) + (64).to_bytes(8, "little") + bytes(16)
SIZE, CHANNELS, CLASSES = 7, 4, 5
FRAME, CACHE, LOGITS = (1, 3, SIZE, SIZE), (1, 1, SIZE, SIZE), (1, CLASSES)
# byte * 2 / 256 - 1, as the kernel for frames of bytes has it.
PREPROCESS = Preprocess(short_side=SIZE, crop=SIZE, mean=(128 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Spec:
    """Of a kernel that was written by hand."""

    rule: str
    blocks: int
    flops: int = 0
    bytes: int = 0
    arguments: tuple[Argument, ...] = ()
    scratch_bytes: int = 0
    stages: tuple[Stage, ...] = ()

    @property
    def parallel(self) -> Grid:
        return Grid((self.blocks, 1, 1), (64, 1, 1))

    def describe(self) -> str:
        return "by hand"

    def write(self, name: str) -> str:
        raise NotImplementedError(name)


def target(name: str = "native", arch: str = "5.3") -> TargetCard:
    """A machine of this name's CPU with a GPU."""
    gpu = GpuSpec(arch, 1, 921, 17.0, "6.4")
    return dataclasses.replace(load_target(name), name="tiny-gpu", device="cuda", gpu=gpu, libc="glibc-2.27")


@dataclass(frozen=True)
class Tiny:
    """The network's weights, and the network.

    Attributes
    ----------
    scale, matrix : numpy.ndarray
        float32 [8] and [5, 4].
    """

    scale: np.ndarray
    matrix: np.ndarray

    def step(self, frame: np.ndarray, cache: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and the next cache."""
        factor, offset = self.scale[:CHANNELS, None, None], self.scale[CHANNELS:, None, None]
        y = np.maximum(frame[0][np.arange(CHANNELS) % 3].astype(np.float64) * factor + offset, 0)
        shifted = np.concatenate([cache[0], y[1:]])
        return (self.matrix @ shifted.sum((1, 2)))[None], y[None, :1]


def tiny(seed: int = 0) -> Tiny:
    """A network of random weights."""
    random = np.random.default_rng(seed)
    return Tiny(
        random.standard_normal(2 * CHANNELS).astype(np.float32),
        random.standard_normal((CLASSES, CHANNELS)).astype(np.float32),
    )


def program(network: Tiny, *, on_device: bool = True) -> Program:
    """Its program; ``on_device``: frames of bytes become floats there."""
    frame, weights, cache = BufferRef("frame"), BufferRef("weights", 0), BufferRef("cache", 0)
    target_buffer, logits = BufferRef("workspace", 0), BufferRef("workspace", 1)
    calls = (
        KernelCall("scale", Spec("scale", CHANNELS), (frame, weights, target_buffer, BufferRef("next_cache", 0)), "a"),
        KernelCall("head", Spec("head", 1), (target_buffer, cache, BufferRef("weights", 1), logits), "b"),
    )
    bytes_call = KernelCall("frame_bytes", Spec("bytes", 1), (BufferRef("frame_bytes"), frame), "frame")
    return Program(
        calls=calls,
        workspace=(
            WorkspaceBuffer("y", planes(SIZE, SIZE, CHANNELS), 0, 1),
            WorkspaceBuffer("logits", planes(1, 1, CLASSES), 1, 2),
        ),
        weights=(network.scale, network.matrix.reshape(-1)),
        caches=(planes(SIZE, SIZE, 1),),
        logits=1,
        precision=FP32,
        choices=Choices({}),
        byte_calls=(bytes_call,) if on_device else (),
    )


def write_artifact(
    folder: Path,
    network: Tiny,
    card: TargetCard,
    *,
    ptx: str = PTX,
    cubin: bytes = CUBIN,
    on_device: bool = True,
    others: Sequence[Tiny] = (),
) -> Path:
    """Build the artifact, without a runner; returns its folder. ``others`` are further programs of the library."""
    graph = OnlineGraph(
        (),
        {},
        {"frame": FRAME, "logits": LOGITS},
        "frame",
        "logits",
        (CachePair("shift", "shift_next", CACHE),),
        "",
        18,
    )
    made = program(network, on_device=on_device)
    work = folder / "work"
    work.mkdir(parents=True)
    plan = plan_memory(made.workspace, GPU_ALIGNMENT)
    manifest = Manifest(
        model="tiny",
        description="two layers by hand",
        frame=TensorInfo("frame", FRAME),
        outputs=(TensorInfo("logits", LOGITS),),
        caches=(CacheInfo("shift", "shift_next", CACHE),),
        preprocess=PREPROCESS,
        smoothing=Smoothing(),
        labels=(),
        random_weights=True,
        weights="random",
        target=card,
        memory=MemoryInfo(plan.bytes, 0, 512, 512),
        # Stages, as a fused kernel's: the driver times a launch as a whole.
        kernels=tuple(
            KernelInfo(call.kernel, call.spec.rule, call.layer, 1, 0, 0, "", (StageInfo("a", 1), StageInfo("b", 1)))
            for call in made.calls
        ),
        hashes={"onnx": ""},
        versions={"tsm_edge": "", "tvm": "", "zig": "", "abi": str(abi_version())},
        created="2026-01-01T00:00:00+00:00",
        compile_seconds=0.0,
    )
    code = DeviceCode("sm_53", "", ptx, cubin, {}, "by hand")
    programs = [made, *(program(other, on_device=on_device) for other in others)]
    sources = write_device_sources(work, graph, programs, [plan] * len(programs), code, manifest)
    link_library(folder / LIBRARY, card, sources, [], _tvm_includes())
    shutil.rmtree(work)
    shutil.copyfile(HEADER, folder / HEADER_FILE)
    files = {name: file_sha256(folder / name) for name in (LIBRARY, HEADER_FILE)}
    (folder / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json(), "utf-8")
    return folder


def expected(count: int, reset: int = 0, seed: int = 0) -> list[np.ndarray]:
    """Logits of :func:`frames`, the caches fed back."""
    network, cache, found = tiny(seed), np.zeros(CACHE), []
    for index, frame in enumerate(frames(count)):
        if index == reset:
            cache = np.zeros(CACHE)
        logits, cache = network.step(frame, cache)
        found.append(logits)
    return found


def frames(count: int) -> np.ndarray:
    """Frames of noise."""
    return np.random.default_rng(1).standard_normal((count, *FRAME)).astype(np.float32)


def write_models(folder: Path) -> None:
    """Models, and drivers with and without graphs (``old``).

    ``other`` makes its frames of bytes on the CPU, ``programs`` has that one's weights as its second program.
    """
    card = target()
    write_artifact(folder / "model", tiny(), card)
    write_artifact(folder / "programs", tiny(), card, others=[tiny(5)])
    other = PTX.replace("// Generated", "// Another, generated")
    write_artifact(folder / "other", tiny(5), card, ptx=other, cubin=b"", on_device=False)
    for name, graphs in (("new", True), ("old", False)):
        (folder / name).mkdir()
        build_standin(folder / name, [Image(PTX, CUBIN), Image(other)], StandIn(has_graphs=graphs))


def _tvm_includes() -> list[Path]:
    import tvm_ffi.libinfo

    return [Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())]
