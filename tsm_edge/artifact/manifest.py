"""The manifest of a compiled artifact: everything a program needs to feed it, and where it came from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tsm_edge.cards import Preprocess, Smoothing, TargetCard
from tsm_edge.cards.precision import PRECISIONS
from tsm_edge.cards.tables import Place, from_table
from tsm_edge.cards.threads import Threads, threads_from
from tsm_edge.errors import ArtifactError, CardError, shortened

FORMAT = 2
# Of a step.
MOST_CLIPS = 128
# Formats that are read: artifacts on devices outlive the program that made them.
READABLE = (1, 2)
# What is said aloud of a network that was never trained.
RANDOM_WEIGHTS = "random weights: predictions mean nothing"
_AGAIN = "compile it again with: tsm-edge compile"
# Of integers with float32 in between: a result that lies between two levels may become either.
LEVEL_TOLERANCE = 3e-2

# Inside ``model.so``: it does not depend on when it was made.
_NO_TIMES: dict[str, Any] = {"created": "", "compile_seconds": 0.0}

Activation = Literal["", "softmax", "sigmoid"]
# What a step takes: a frame of a stream, or all frames of a clip at once.
Mode = Literal["online", "offline"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the model's interface, with its ONNX name, shape and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class CacheInfo:
    """A shift cache, NCHW: ``output`` of one frame is ``input`` of the next, zeros before the first.

    ``dtype`` is that of the caller's explicit caches; a stream keeps its own as the precision says.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class StageInfo:
    """A stage of a fused kernel: its name, and its floating-point operations in a whole call."""

    name: str
    flops: int


@dataclass(frozen=True)
class KernelInfo:
    """One kernel call of a step, in order.

    Attributes
    ----------
    kernel, rule, layer : str
        Symbol, schedule rule, and the tensor it makes.
    items : int
        Work items it may be split into over threads.
    flops, bytes : int
        Floating-point operations, and bytes of inputs, weights and outputs moved once.
    tile : str
        The tile the rule chose, for people.
    stages : tuple of StageInfo
        Of a fused kernel: the layers it computes, of which ``flops`` is the sum.
    """

    kernel: str
    rule: str
    layer: str
    items: int
    flops: int
    bytes: int
    tile: str = ""
    stages: tuple[StageInfo, ...] = ()


@dataclass(frozen=True)
class MemoryInfo:
    """Static memory, bytes: of a stream its workspace, scratch (for each thread) and caches; of the library weights."""

    workspace_bytes: int
    scratch_bytes: int
    cache_bytes: int
    weight_bytes: int

    def with_stream(self, threads: int) -> int:
        """The library's memory and that of one stream, bytes: what a process takes beside its programs and inputs."""
        return self.weight_bytes + self.workspace_bytes + threads * self.scratch_bytes + self.cache_bytes


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``; the same JSON, as :meth:`embedded`, is inside ``model.so`` (``tsm_manifest``).

    Attributes
    ----------
    model, description : str
    frame : TensorInfo
        Of a clip: [frames, 3, height, width]; of several, one after the other, [clips * frames, 3, height, width].
    outputs : tuple of TensorInfo
        The logits first; of a clip their mean over the frames, [classes], then those of every frame,
        [frames, classes]; of several clips [clips, classes] and [clips * frames, classes].
    caches : tuple of CacheInfo
    preprocess : Preprocess
    smoothing : Smoothing
    labels : tuple of str
        One a class; empty: unknown.
    random_weights : bool
        No checkpoint was given: predictions mean nothing.
    weights : str
        Where the weights come from, for people.
    target : TargetCard
        What it was compiled for, all of it.
    memory : MemoryInfo
    kernels : tuple of KernelInfo
    hashes : dict of str to str
        SHA-256 of what went in: ``onnx``, and ``checkpoint`` where there was one; of a model in integers also
        ``exact``, the ONNX file of the same integers.
    versions : dict of str to str
        ``tsm_edge``, ``tvm``, ``zig``, and ``abi`` (of ``tsm_edge.h``).
    created : str
        UTC, ISO 8601.
    compile_seconds : float
        From the start to the generated code: what is linked then has this manifest in it.
    files : dict of str to str
        SHA-256 of the files beside the manifest.
    precision : str
        Of what is stored and summed, one of :data:`tsm_edge.cards.precision.PRECISIONS`.
    activation : {"", "softmax", "sigmoid"}
        What the model itself applies to its logits: then its outputs are probabilities already. Empty: nothing.
    tuned : int
        Kernels of the rules' that were chosen otherwise by tuning records.
    mode : {"online", "offline"}
        Whether a step takes a frame of a stream, or a clip.
    frames : int
        Of a clip, more than 1; of an online model 1.
    clips : int
        Of a step, which are computed one after the other.
    threads : Threads or None
        What its step is fastest with, by tuning records; None: not known.
    """

    model: str
    description: str
    frame: TensorInfo
    outputs: tuple[TensorInfo, ...]
    caches: tuple[CacheInfo, ...]
    preprocess: Preprocess
    smoothing: Smoothing
    labels: tuple[str, ...]
    random_weights: bool
    weights: str
    target: TargetCard
    memory: MemoryInfo
    kernels: tuple[KernelInfo, ...]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    created: str
    compile_seconds: float
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    precision: str = "fp32"
    activation: Activation = ""
    tuned: int = 0
    mode: Mode = "online"
    frames: int = 1
    clips: int = 1
    threads: Threads | None = None

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("there are no outputs, expected the logits")
        if not isinstance(self.created, str) or not isinstance(self.compile_seconds, float | int):
            raise ValueError("created is no text, or compile_seconds no number")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected {', '.join(PRECISIONS)}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation is {self.activation!r}, expected softmax, sigmoid or nothing")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}, expected online or offline")
        if any(type(count) is not int or count < 1 for count in (self.frames, self.clips)):
            raise ValueError(f"frames is {self.frames!r} and clips {self.clips!r}, expected at least 1")
        if self.frame.shape[:1] != (self.clips * self.frames,):
            raise ValueError(f"frames is {self.frames}, expected those of its input {list(self.frame.shape)}")
        if self.clip != (self.mode == "offline") or self.clips > (MOST_CLIPS if self.clip else 1):
            raise ValueError(f"mode is {self.mode} with {self.clips} times {self.frames} frames a step")
        if self.clip and (
            self.caches
            or [output.shape for output in self.outputs] != output_shapes(self.clips, self.frames, self.classes)
        ):
            raise ValueError("its outputs are not the logits of a clip and of its frames")

    @property
    def logits(self) -> TensorInfo:
        """The first output."""
        return self.outputs[0]

    @property
    def further(self) -> tuple[TensorInfo, ...]:
        """What a step makes beside the logits: of a clip the logits of every frame, else the next caches."""
        return (*self.outputs[1:], *(TensorInfo(cache.output, cache.shape) for cache in self.caches))

    @property
    def classes(self) -> int:
        """Width of the classifier."""
        return self.logits.shape[-1]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of a step: [1, 3, height, width], of clips [clips * frames, 3, height, width]."""
        return self.frame.shape

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Of what a step takes as cameras have it: [height, width, 3], of clips [clips * frames, height, width, 3]."""
        return (*(self.frame.shape[:1] if self.clip else ()), *self.frame.shape[2:], 3)

    @property
    def clip(self) -> bool:
        """Whether a step takes a clip, or several."""
        return self.frames > 1

    @property
    def whole_clips(self) -> int:
        """Clips of a step; 0: it takes a frame of a stream."""
        return self.clips if self.clip else 0

    @property
    def exact(self) -> bool:
        """Whether it computes in integers, and has a reference of the same integers."""
        return "exact" in self.hashes

    @property
    def reference_sha256(self) -> str:
        """Of the ONNX file that it is compared with."""
        return self.hashes.get("exact", self.hashes.get("onnx", ""))

    @property
    def tolerance(self) -> float:
        """Largest difference from the reference in verification, relative to the largest value of a tensor."""
        rules = [kernel.rule for kernel in self.kernels]
        while rules and rules[-1] == "dequantise":  # of the logits: nothing computes with them
            rules.pop()
        computes_floats = "dequantise" in rules
        return LEVEL_TOLERANCE if self.exact and computes_floats else PRECISIONS[self.precision].tolerance

    @property
    def cache_tolerance(self) -> float:
        """The same of shift caches: as large, or larger."""
        return max(self.tolerance, PRECISIONS[self.precision].cache_tolerance)

    def embedded(self) -> Manifest:
        """As it is inside ``model.so``: without the files beside it, and without when and how fast that was made.

        So the same model, target and records make the same ``model.so``, byte for byte.
        """
        return dataclasses.replace(self, files={}, **_NO_TIMES)

    def to_json(self) -> str:
        """As JSON, indented, UTF-8."""
        table = dataclasses.asdict(self)
        if not self.activation:
            del table["activation"]  # as in artifacts made before there was one
        for name in ("tuned", "threads"):
            if not table[name]:
                del table[name]
        if not self.clip:
            del table["mode"], table["frames"]
        if self.clips == 1:
            del table["clips"]
        return json.dumps(table, indent=1, ensure_ascii=False)


def output_shapes(clips: int, frames: int, classes: int) -> list[tuple[int, ...]]:
    """Shapes of the outputs of a model of clips."""
    return [(classes,) if clips == 1 else (clips, classes), (clips * frames, classes)]


def parse_manifest(text: str, where: str | Path) -> Manifest:
    """Read a manifest's JSON.

    Raises
    ------
    ArtifactError
        Not a manifest, or one of another format version.
    """
    try:
        table = json.loads(text)
        if table.get("format") not in READABLE:
            found = shortened(repr(table.get("format")))
            raise ArtifactError(f"{where}: manifest format is {found}, expected {FORMAT}", _AGAIN)
        if table["format"] == 1:
            table = _from_format_1(table)
        return Manifest(
            **{
                **table,
                "frame": TensorInfo(**_tuples(table["frame"])),
                "outputs": tuple(TensorInfo(**_tuples(entry)) for entry in table["outputs"]),
                "caches": tuple(CacheInfo(**_tuples(entry)) for entry in table["caches"]),
                "preprocess": Preprocess(**_tuples(table["preprocess"])),
                "smoothing": Smoothing(**_tuples(table["smoothing"])),
                "labels": tuple(table["labels"]),
                "target": from_table(TargetCard, table["target"], Place("target", CardError, _AGAIN)),
                "memory": MemoryInfo(**table["memory"]),
                "kernels": tuple(_kernel(entry) for entry in table["kernels"]),
                "files": dict(table["files"]),
                "threads": threads_from(table["threads"]) if table.get("threads") else None,
            }
        )
    except RecursionError:
        raise _too_deep(where) from None
    except CardError as error:
        raise ArtifactError(f"{where}: not a readable manifest ({shortened(error.problem)})", _AGAIN) from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(f"{where}: not a readable manifest ({shortened(str(error))})", _AGAIN) from None


def embedded_forms(text: str, where: str | Path) -> tuple[bytes, ...]:
    """A manifest's JSON as it may be inside ``model.so``: as :meth:`Manifest.embedded`, or with times, as it once was.

    Keys stay as they are, also those that a newer or older tsm-edge would not write.

    Raises
    ------
    ArtifactError
        It is nested as no manifest is.
    """
    table = _loaded(text, where)
    return _dumped({**table, **_NO_TIMES}), _dumped(table)


def _loaded(text: str, where: str | Path) -> dict[str, Any]:
    try:
        return {**json.loads(text), "files": {}}
    except RecursionError:
        raise _too_deep(where) from None


def _dumped(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _too_deep(where: str | Path) -> ArtifactError:
    return ArtifactError(f"{where}: not a readable manifest (lists in lists in lists)", _AGAIN)


def _from_format_1(table: Mapping[str, Any]) -> dict[str, Any]:
    """As format 2: the logits were the only output, and of the target card only some things were kept."""
    target = table["target"]
    lanes = target["vector_lanes"] or 4
    cpu = {"triple": target["triple"], "cpu": target["cpu"], "features": target["features"], "vector_lanes": lanes}
    unknown = {"vector_registers": 16, "l1d_kib": 1, "l2_kib": 1, "cores": 1}
    card = {name: target[name] for name in ("name", "description", "device", "libc")}
    return {
        **{name: value for name, value in table.items() if name != "logits"},
        "format": FORMAT,
        "outputs": [table["logits"]],
        "target": {**card, "source": "a manifest of format 1: the caches are not known", "cpu": {**cpu, **unknown}},
    }


def _kernel(table: Mapping[str, Any]) -> KernelInfo:
    return KernelInfo(**{**table, "stages": tuple(StageInfo(**entry) for entry in table["stages"])})


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples the dataclasses hold."""

    def convert(value: Any) -> Any:
        return tuple(convert(entry) for entry in value) if isinstance(value, list) else value

    return {key: convert(value) for key, value in table.items()}
