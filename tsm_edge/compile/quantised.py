"""A model in 8-bit integers: calibrated or read back, and written down as its own reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tsm_edge.artifact.folder import EXACT_ONNX, QUANTISATION
from tsm_edge.artifact.golden import network_input
from tsm_edge.cards import Preprocess
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import Quantisation
from tsm_edge.errors import CompileError

# What random weights are calibrated with.
NOISE_CLIPS, NOISE_FRAMES = 2, 4
# Of the largest tensor on all frames together, float32; a walk over the layers holds about six of these.
MOST_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Calibration:
    """Frames to calibrate with.

    Attributes
    ----------
    clips : tuple of numpy.ndarray
        float32 [frames, 3, height, width] each, as the network takes them: frames that follow each other.
    origin : str
        Where they come from, for people.
    """

    clips: tuple[np.ndarray, ...]
    origin: str


def noise(size: tuple[int, int], preprocess: Preprocess, seed: int = 0) -> Calibration:
    """Frames of random bytes: for weights that mean nothing either."""
    random = np.random.default_rng(seed)
    shape = (NOISE_CLIPS, NOISE_FRAMES, *size, 3)
    clips = random.integers(0, 256, shape, np.uint8)
    frames = [np.concatenate([network_input(picture, preprocess) for picture in clip]) for clip in clips]
    return Calibration(tuple(frames), f"noise, seed {seed}")


def no_frames() -> CompileError:
    """Trained weights, and nothing to calibrate with."""
    return CompileError(
        "precision int8 has to see what values the model has: expected --calibrate CLIP",
        "give a few seconds of typical video: --calibrate CLIP, or a quantisation.json: --quantisation FILE",
    )


def check_frames(calibration: Calibration, graph: OnlineGraph) -> None:
    """Refuse frames that are not the network's.

    Raises
    ------
    CompileError
        There are none, or they have another size.
    """
    wanted = graph.shapes[graph.frame][1:]
    if not calibration.clips or not all(len(clip) for clip in calibration.clips):
        raise CompileError("there are no frames to calibrate with", "give a video: --calibrate CLIP")
    for clip in calibration.clips:
        if clip.shape[1:] != wanted:
            raise CompileError(
                f"frames of {calibration.origin} are {list(clip.shape[1:])}, expected {list(wanted)}",
                "give frames as the model card's preprocessing makes them",
            )


def thinned(calibration: Calibration, graph: OnlineGraph) -> Calibration:
    """As many frames of each clip, from its first on, as there is memory for."""
    largest = 4 * max(math.prod(shape) for name, shape in graph.shapes.items() if name not in graph.constants)
    each = max(2, MOST_BYTES // largest // len(calibration.clips))
    return replace(calibration, clips=tuple(clip[:each] for clip in calibration.clips))


def quantised(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    calibration: Calibration | None,
    file: Path | None,
    warn: Callable[[str], None] = lambda text: None,
) -> Quantisation:
    """Calibrate, or read what was decided before: in the model's file, or in a ``quantisation.json``.

    Raises
    ------
    CompileError
        There is neither; or they do not fit the model.
    """
    from tsm_edge.compile.quantize.calibrate import calibrate
    from tsm_edge.compile.quantize.from_file import file_quantisation
    from tsm_edge.compile.quantize.store import read_quantisation

    if graph.scales is not None:
        return file_quantisation(graph, layers, warn)
    if file is not None:
        return read_quantisation(file, graph, layers)
    if calibration is None:
        raise no_frames()
    check_frames(calibration, graph)
    calibration = thinned(calibration, graph)
    return calibrate(graph, layers, calibration.clips, calibration.origin)


def write_quantised(folder: Path, graph: OnlineGraph, layers: Sequence[ir.Layer], quantisation: Quantisation) -> None:
    """Put ``quantisation.json`` and ``model.exact.onnx`` into the artifact."""
    from tsm_edge.compile.quantize.exact import exact_model
    from tsm_edge.compile.quantize.store import to_json

    (folder / QUANTISATION).write_text(to_json(quantisation, graph), "utf-8")
    (folder / EXACT_ONNX).write_bytes(exact_model(graph, layers, quantisation).SerializeToString())
