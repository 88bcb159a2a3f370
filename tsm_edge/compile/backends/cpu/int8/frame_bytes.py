"""The camera's bytes to levels: a table for each colour, with the normalisation and the scale in it.

A byte is one of 256 values, so the tables are made of the very operations that a float frame goes through: a step from
bytes gives the same logits, bit for bit, and no frame of floats is in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.cards import Preprocess
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.compile.backends.cpu.int8.conversion import QuantiseSpec
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, fill_border_of_row, load, store
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.program import KernelCall
from tsm_edge.compile.ir.scale import Scale

COLOURS, BYTES, WORD = 3, 256, 4


@dataclass(frozen=True)
class FrameLevelsSpec(KernelSpec):
    """uint8 [H][W][RGB] to pixels of four bytes, the last of them zero."""

    instructions: Instructions
    target: ByteImage

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "frame_levels"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", "uint8"),
            Argument("tables", "weights", "uint8"),
            Argument("target", "output", "uint8"),
        )

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        pixels = self.target.height * self.target.width
        return COLOURS * pixels + COLOURS * BYTES * WORD + self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`frame_levels`."""
        return frame_levels(name, self)


def frame_levels(name: str, spec: FrameLevelsSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    made = spec.target
    with emit.kernel(name, spec) as kernel:
        source, tables, target = (kernel.buffers[argument.name] for argument in spec.arguments)
        with emit.loop(kernel.end, kernel.begin) as y:
            with emit.loop(made.width) as x:
                at = (y * made.width + x) * COLOURS
                words = [
                    load(tables, (tirx.Cast("int32", source[at + colour]) + colour * BYTES) * WORD, "int32")
                    for colour in range(COLOURS)
                ]
                store(target, emit.pixel_at(made, y, x), words[0] | words[1] | words[2], WORD)
            fill_border_of_row(target, made, y, spec.instructions)
    return kernel.function


def level_tables(preprocess: Preprocess, scale: Scale, offset: int) -> np.ndarray:
    """For each colour and byte the level as it is stored, shifted to its place in a pixel: int32 [3][256].

    ``offset`` is taken from levels where they are stored.
    """
    factor, constant = scale_and_offset(preprocess)
    byte = np.arange(BYTES, dtype=np.float32)
    values = byte * factor[:, None] + constant[:, None]  # two roundings, as in runtime/input.c
    stored = (scale.levels(values).astype(np.int32) - offset) & 255
    return np.stack([stored[colour] << (8 * colour) for colour in range(COLOURS)]).astype(np.int32)


def made_of_planes(calls: Sequence[KernelCall]) -> QuantiseSpec | None:
    """The first call, where it makes levels of the frame and no other call reads that."""
    readers = [call for call in calls if any(buffer.space == "frame" for buffer in call.buffers)]
    first = calls[0].spec if calls else None
    return first if isinstance(first, QuantiseSpec) and readers == [calls[0]] else None
