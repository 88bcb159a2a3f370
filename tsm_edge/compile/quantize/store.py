"""``quantisation.json``: what was decided for a network, to be looked at and used again for another target."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import IntegerConvolution, Quantisation, float_results, has_integer_form
from tsm_edge.compile.ir.scale import LEVELS, Scale
from tsm_edge.compile.quantize.integers import quantise_convolution
from tsm_edge.errors import CompileError
from tsm_edge.files.atomic import read_text

FORMAT = 1
_AGAIN = "calibrate again: tsm-edge compile --precision int8 --calibrate CLIP"


def to_json(quantisation: Quantisation, graph: OnlineGraph) -> str:
    """The decisions; integers follow from them and from the model's weights."""
    table = {
        "format": FORMAT,
        "onnx": graph.sha256,
        "calibrated_with": quantisation.origin,
        "tensors": {name: {"step": scale.step, "zero": scale.zero} for name, scale in quantisation.tensors.items()},
        "biases": {name: bias.tolist() for name, bias in quantisation.biases.items()},
        "signal_to_noise_db": {
            name: round(ratio, 1) for name, ratio in quantisation.noise_db.items() if math.isfinite(ratio)
        },
    }
    return json.dumps(table, indent=1, ensure_ascii=False)


def read_table(path: Path) -> dict[str, Any]:
    """What is in a ``quantisation.json``, of whatever model.

    Raises
    ------
    CompileError
        It cannot be read, or is no such file.
    """
    try:
        table = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise CompileError(f"{path}: not a quantisation.json", _AGAIN) from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise CompileError(f"{path}: not a quantisation.json of format {FORMAT}", _AGAIN)
    return table


def read_quantisation(path: Path, graph: OnlineGraph, layers: Sequence[ir.Layer]) -> Quantisation:
    """Read :func:`to_json`'s file back, for the same model.

    Raises
    ------
    CompileError
        It is no such file, or one of another model.
    """
    table = read_table(path)
    if table.get("onnx") != graph.sha256:
        raise CompileError(f"{path}: was made for another model (its ONNX file has another SHA-256)", _AGAIN)
    try:
        tensors = {str(name): _scale(entry) for name, entry in table["tensors"].items()}
        biases = {str(name): np.asarray(values, np.float64) for name, values in table["biases"].items()}
        convolutions = integers_of(graph, layers, tensors, biases)
        return Quantisation(tensors, convolutions, biases, {}, str(table.get("calibrated_with", "")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CompileError(f"{path}: has no {error} as this model needs it", _AGAIN) from None


def integers_of(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    tensors: dict[str, Scale],
    biases: dict[str, np.ndarray],
) -> dict[str, IntegerConvolution]:
    """Integers of every convolution that has an integer form."""
    plain = float_results(graph, layers)
    found = {}
    for layer in layers:
        if isinstance(layer, ir.Convolution) and has_integer_form(layer):
            if biases[layer.output].shape != layer.bias.shape or not np.isfinite(biases[layer.output]).all():
                raise ValueError(f"bias of {layer.output!r}")
            target = None if layer.output in plain else tensors[layer.output]
            residual = None if layer.residual is None else tensors[layer.residual]
            found[layer.output] = quantise_convolution(
                layer, biases[layer.output], tensors[layer.source], target, residual
            )
    return found


def _scale(entry: Any) -> Scale:
    step, zero = float(entry["step"]), int(entry["zero"])
    if not (math.isfinite(step) and step > 0 and np.float32(step) == step and 0 <= zero <= LEVELS):
        raise ValueError(f"scale {entry}")
    return Scale(step, zero)
