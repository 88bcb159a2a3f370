"""``golden.bin``: a few frames and what ONNX Runtime makes of them, for verification on a device, which
has none: by ``tsm-runner verify``, or by ``tsm-edge verify`` of a small install.

The layout is described in ``runtime/golden.h``. Frames are bytes, as from a camera, so that the device's own scaling
and normalising are checked, too.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.cards import Preprocess
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.artifact.manifest import Manifest
    from tsm_edge.artifact.reference import Reference

MAGIC = b"TSMGOLD1"
# Frames, reset, height, width, logits of a step, caches.
_HEAD = struct.Struct("<6I")
_WORD = 4  # bytes of a number of the file
# Of a model of frames as many frames, of a model of clips as many clips.
_FRAMES = 4


@dataclass(frozen=True, eq=False)
class Golden:
    """Frames and their reference outputs.

    Attributes
    ----------
    frames : numpy.ndarray
        uint8 RGB [frames, height, width, 3]; of clips [steps, frames of a step, height, width, 3].
    reset : int
        The caches are zeroed before this frame.
    outputs : list of list of numpy.ndarray
        For each frame the logits, then every next cache, float32; of clips the logits of every frame in their place. A
        file has those of the last frame, or step of clips, only.
    """

    frames: NDArray[np.uint8]
    reset: int
    outputs: list[list[NDArray[np.float32]]]


def steps_of(frames: int, manifest: Manifest) -> int:
    """Steps in which a model takes so many frames, or clips."""
    return -(-frames // manifest.clips)


def make_golden(reference: Reference, manifest: Manifest, frames: int | None = None, seed: int = 0) -> Golden:
    """Run seeded noise through the reference; the caches are reset once, half way.

    Parameters
    ----------
    reference : Reference
    manifest : Manifest
    frames : int, optional
        Steps. By default four frames or clips; where a step takes more clips, one step: 128 of them are 154 MB.
    seed : int
    """
    frames = frames or steps_of(_FRAMES, manifest)
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, *manifest.picture_shape), np.uint8)
    outputs = []
    for index, picture in enumerate(pixels):
        if index in (0, frames // 2):
            reference.reset()
        outputs.append(reference.step(network_input(picture, manifest.preprocess)))
    return Golden(pixels, frames // 2, outputs)


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """Read the ``golden.bin`` of an artifact.

    Raises
    ------
    ArtifactError
        It is missing, or not of this model.
    """
    again = "compile again with: tsm-edge compile"
    try:
        data = path.read_bytes()
    except OSError:
        raise ArtifactError(f"{path}: no golden frames here", "compile with tsm-runner: tsm-edge compile") from None
    _, _, height, width = manifest.frame_shape
    sizes = [math.prod(tensor.shape) for tensor in manifest.further]
    head_bytes = len(MAGIC) + _HEAD.size
    if len(data) < head_bytes or data[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"{path}: not golden frames", again)
    frames, reset, *shape = _HEAD.unpack_from(data, len(MAGIC))
    start = head_bytes + _WORD * len(sizes)
    pixels = frames * math.prod(manifest.picture_shape)
    logits = math.prod(manifest.logits.shape)
    floats = frames * logits + sum(sizes)
    expected = [height, width, logits, len(sizes)]
    whole = start + pixels + -pixels % _WORD + _WORD * floats
    if shape != expected or len(data) != whole or struct.unpack_from(f"<{len(sizes)}I", data, head_bytes) != (*sizes,):
        raise ArtifactError(f"{path}: not the golden frames of this model", again)
    values = np.frombuffer(data, "<f4", floats, whole - _WORD * floats).astype(np.float32)
    ends = np.cumsum([*[logits] * frames, *sizes])
    shapes = [*[manifest.logits.shape] * frames, *(tensor.shape for tensor in manifest.further)]
    tensors = [tensor.reshape(shape) for tensor, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
    outputs = [[logits] for logits in tensors[:frames]]
    outputs[-1] += tensors[frames:]
    pictures = np.frombuffer(data, np.uint8, pixels, start).reshape(frames, *manifest.picture_shape)
    return Golden(pictures, reset, outputs)


def network_input(picture: NDArray[np.uint8], card: Preprocess) -> NDArray[np.float32]:
    """uint8 RGB [height, width, 3] of the network's size, or several of them → float32 [frames, 3, height, width]."""
    scale, offset = scale_and_offset(card)
    pixels = picture.astype(np.float32) * scale + offset
    return np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 3, 1, 2))


def write_golden(path: Path, golden: Golden) -> None:
    """Write ``golden.bin``.

    Raises
    ------
    OSError
        It cannot be written.
    """
    last = golden.outputs[-1]
    frames, *_, height, width, _ = golden.frames.shape
    head = _HEAD.pack(frames, golden.reset, height, width, last[0].size, len(last) - 1)
    sizes = struct.pack(f"<{len(last) - 1}I", *(cache.size for cache in last[1:]))
    pixels = golden.frames.tobytes()
    tensors = [*(outputs[0] for outputs in golden.outputs), *last[1:]]
    parts = [MAGIC, head, sizes, pixels, b"\0" * (-len(pixels) % 4)]
    write_atomic(path, b"".join([*parts, *(tensor.astype("<f4").tobytes() for tensor in tensors)]))
