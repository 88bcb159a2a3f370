"""Stand-ins for sessions over networks of clips: an instant one, and ONNX Runtime on an exported network."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tsm_edge.artifact.manifest import Activation, CacheInfo, TensorInfo
from tsm_edge.cards import Preprocess, Smoothing

CLASSES = 10
SIZE = 32
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClipManifest:
    """Like an artifact's manifest; input is the mean of 32x32 pixels scaled to 0..1."""

    model: str = "levels-4f"
    frames: int = 4
    clips: int = 1
    channels: int = 3
    height: int = SIZE
    classes: int = CLASSES
    labels: tuple[str, ...] = tuple(f"level {index}" for index in range(CLASSES))
    preprocess: Preprocess = field(
        default_factory=lambda: Preprocess(short_side=40, crop=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    )
    smoothing: Smoothing = field(default_factory=Smoothing)
    random_weights: bool = False
    activation: Activation = ""
    caches: tuple[CacheInfo, ...] = ()
    precision: str = "fp32"

    @property
    def clip(self) -> bool:
        return self.frames > 1

    @property
    def frame(self) -> TensorInfo:
        return TensorInfo("clip", (self.clips * self.frames, self.channels, self.height, self.height))

    @property
    def hashes(self) -> Mapping[str, str]:
        return {"onnx": self.model}


class ClipSession:
    """Class ``k`` of 10 for a clip of mean brightness ``k / 10`` (of 1).

    Parameters
    ----------
    manifest : ClipManifest
    slow_s : float
        Seconds a step takes.

    Attributes
    ----------
    seen : list of numpy.ndarray
        Mean brightness of the frames of each clip, of 1.
    """

    reconnections = 0

    def __init__(self, manifest: ClipManifest | None = None, slow_s: float = 0.0) -> None:
        self.manifest = manifest or ClipManifest()
        self.seen: list[Floats] = []
        self._slow_s = slow_s

    def reset(self) -> None:
        """There is nothing to reset."""

    def step(self, clip: Floats) -> Floats:
        """Refuse what the real session refuses; then the logits, ``[classes]``."""
        if clip.shape != self.manifest.frame.shape or clip.dtype != np.float32 or not clip.flags.c_contiguous:
            raise TypeError(f"{clip.shape} {clip.dtype}")
        time.sleep(self._slow_s)
        light = clip.reshape(self.manifest.clips, self.manifest.frames, -1).mean(axis=2)
        self.seen.extend(light)
        levels = light.mean(axis=1, keepdims=True) * CLASSES
        logits = -np.abs(np.arange(self.manifest.classes, dtype=np.float32) + np.float32(0.5) - levels)
        return logits if self.manifest.clips > 1 else logits[0]

    def __enter__(self) -> ClipSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


class OnnxClipSession:
    """ONNX Runtime on ``tsm-edge export``'s file of an offline network: the mean of its frames' logits."""

    reconnections = 0

    def __init__(self, path: Path, manifest: ClipManifest) -> None:
        from tsm_edge.artifact.onnx_runtime import import_onnxruntime

        self.manifest = manifest
        runtime = import_onnxruntime()
        self._session: Any = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        self._frame_logits: Floats | None = None

    def reset(self) -> None:
        """There is nothing to reset."""

    def step(self, clip: Floats) -> Floats:
        """Run a clip."""
        (self._frame_logits,) = self._session.run(None, {"clip": clip})
        mean: Floats = self._frame_logits.mean(0)
        return mean

    def frame_logits(self) -> Floats:
        """Of the latest clip."""
        assert self._frame_logits is not None
        return self._frame_logits


def open_clip_session(path: Path | str, *_: object, **__: object) -> ClipSession:
    """In place of :func:`tsm_edge.session.open.open_session`; only the path counts.

    What its name has: ``8f`` (else 4) frames, ``flow`` channels, ``random`` weights, ``other`` labels, ``online``
    frames one by one; ``slow``.
    """
    name = str(path)
    changes: dict[str, Any] = {"frames": 8 if "8f" in name else 4}
    if "flow" in name:
        changes |= {"channels": 10}
    if "online" in name or "tsn" in name:
        changes |= {"frames": 1}
    if "online" in name:
        changes |= {"caches": (CacheInfo("shift_0", "shift_0_next", (1, 1, 8, 8)),)}
    if "other" in name:
        changes |= {"labels": tuple(f"other {index}" for index in range(CLASSES))}
    manifest = ClipManifest(model=f"levels of {name}", random_weights="random" in name, **changes)
    return ClipSession(manifest, float(os.environ.get("TSM_TEST_SLOW_S", "0")))
