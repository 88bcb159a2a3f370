"""A network that its file has in levels already → the same scales and integers, as calibration would hand them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import LARGEST_WEIGHT, Quantisation, has_integer_form
from tsm_edge.compile.quantize.integers import quantise_convolution, smallest_step
from tsm_edge.errors import CompileError

_CALIBRATE = "calibrate the float model instead: --precision int8 --calibrate CLIP"


def file_quantisation(
    graph: OnlineGraph, layers: Sequence[ir.Layer], warn: Callable[[str], None] = lambda text: None
) -> Quantisation:
    """What the file decided.

    Parameters
    ----------
    graph : OnlineGraph
        With ``scales``.
    layers : sequence of Layer
    warn : callable, optional
        Called with what could not be kept as it was.

    Raises
    ------
    CompileError
        A tensor that is read or made in integers has no scale, or one too fine for its sums.
    """
    tensors = {} if graph.scales is None else graph.scales.tensors
    for layer in layers:
        if has_integer_form(layer):
            for name in _in_levels(layer):
                if name not in tensors and not isinstance(layer, ir.View):
                    raise CompileError(
                        f"tensor {name!r} has no scale in the file, but integers are made from it", _CALIBRATE
                    )
    convolutions, biases, lowest = {}, {}, 0
    for layer in layers:
        if not isinstance(layer, ir.Convolution):
            continue
        biases[layer.output] = layer.bias.astype(np.float64)
        if not has_integer_form(layer):
            continue
        source, target = tensors[layer.source], tensors.get(layer.output)
        if target is not None and target.step < smallest_step(layer, layer.bias, source):
            raise CompileError(
                f"tensor {layer.output!r} has too fine a scale for the sums it may be made of", _CALIBRATE
            )
        residual = None if layer.residual is None else tensors[layer.residual]
        convolutions[layer.output] = quantise_convolution(layer, biases[layer.output], source, target, residual)
        lowest += _below(layer)
    if lowest:
        warn(f"{lowest} weights of the file are -128: stored as -127, which every CPU's instructions can sum")
    return Quantisation(tensors, convolutions, biases, {}, "the scales of the ONNX file")


def _in_levels(layer: ir.Layer) -> list[str]:
    """Tensors a layer needs a scale of."""
    made_in_float = isinstance(layer, ir.Convolution) and layer.residual is None and not layer.depthwise
    return [*ir.layer_sources(layer), *(() if made_in_float else (layer.output,))]


def _below(layer: ir.Convolution) -> int:
    """How many weights lie below the lowest level there is."""
    if layer.weight_step is None:
        return 0
    levels = layer.weight / layer.weight_step[:, None, None, None]
    return int((levels < -LARGEST_WEIGHT - 0.5).sum())
