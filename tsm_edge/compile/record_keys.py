"""What a tuning record is for: kernels and networks by the shapes of their layers, machines by their cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tsm_edge.cards import TargetCard
from tsm_edge.compile.backends.cpu import version as cpu
from tsm_edge.compile.backends.cuda import version as cuda
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.record_lines import hashed


def key_of(layers: Sequence[str], card: str, precision: str) -> str:
    """Of layers on a machine."""
    return hashed([list(layers), card, precision])


def card_fingerprint(target: TargetCard) -> str:
    """Of all that the rules are told of a target: with other numbers they choose otherwise.

    Those of a GPU are told nothing of the CPU beside it.
    """
    return hashed(dataclasses.asdict(target.cpu if target.gpu is None else target.gpu))


def rules_version(device: str) -> int:
    """Of the rules for a device, ``cpu`` or ``cuda``."""
    return cuda.RULES_VERSION if device == "cuda" else cpu.RULES_VERSION


def signature(graph: OnlineGraph, layer: ir.Layer) -> str:
    """A layer by what its kernel depends on, whatever its name: ``conv 24>144 1x1 /1 56x56 shift 3``."""
    shape = "x".join(map(str, graph.shapes[layer.output][2:])) or "1x1"
    if not isinstance(layer, ir.Convolution):
        return f"{type(layer).__name__} {shape}"
    outputs, inputs, height, width = layer.weight.shape
    words = [
        "depthwise" if layer.depthwise else "conv",
        f"{inputs * layer.groups}>{outputs}",
        f"{height}x{width}",
        f"/{layer.strides[0]}",
        shape,
        f"pads {','.join(map(str, layer.pads))}" if any(layer.pads) else "",
        f"groups {layer.groups}" if layer.groups > 1 and not layer.depthwise else "",
        f"shift {layer.shift.channels}" if layer.shift is not None else "",
        "residual" if layer.residual is not None else "",
        "of the frame" if layer.source == graph.frame else "",
    ]
    return " ".join(filter(None, words))


def network_key(graph: OnlineGraph, layers: Sequence[ir.Layer], target: TargetCard, precision: str) -> str:
    """Of a network's step on a machine, by the shapes of all its layers."""
    return key_of([signature(graph, layer) for layer in layers], card_fingerprint(target), precision)
