"""The zeros that convolutions read around their sources: each tensor is made with the border its readers need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import Shape
from tsm_edge.compile.ir.layout import Border

NO_BORDER = Border()


def needed_border(layer: ir.Convolution, shapes: Mapping[str, Shape], winograd_outputs: int = 0) -> Border:
    """Zeros a convolution reads around its source; ``winograd_outputs``: outputs a side of its tiles, 0 for none."""
    _, _, height, width = (*shapes[layer.source], 1, 1)[:4]
    _, _, out_height, out_width = (*shapes[layer.output], 1, 1)[:4]
    top, left, _, _ = layer.pads
    if winograd_outputs:
        return winograd_border((height, width), (out_height, out_width), (top, left), winograd_outputs)
    bottom = (out_height - 1) * layer.strides[0] + layer.weight.shape[2] - top - height
    right = (out_width - 1) * layer.strides[1] + layer.weight.shape[3] - left - width
    return Border(top, left, max(0, bottom), max(0, right))


def winograd_border(source: tuple[int, int], target: tuple[int, int], pads: tuple[int, int], outputs: int) -> Border:
    """The border that Winograd's tiles read around an input; sizes are (height, width), pads (top, left)."""
    # The last tile's last input row is two below its last output row, less the padding.
    ends = [
        max(0, math.ceil(after / outputs) * outputs + 2 - pad - before)
        for before, after, pad in zip(source, target, pads, strict=True)
    ]
    return Border(pads[0], pads[1], ends[0], ends[1])


def widest(borders: Iterable[tuple[str, Border]]) -> dict[str, Border]:
    """Tensor → the smallest border in which all that are asked for it fit."""
    found: dict[str, Border] = {}
    for tensor, need in borders:
        have = found.get(tensor, NO_BORDER)
        found[tensor] = Border(
            max(need.top, have.top),
            max(need.left, have.left),
            max(need.bottom, have.bottom),
            max(need.right, have.right),
        )
    return found


def fits(have: Border, need: Border) -> bool:
    """Whether a border is at least another."""
    return have.top >= need.top and have.left >= need.left and have.bottom >= need.bottom and have.right >= need.right
