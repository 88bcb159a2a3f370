"""What a compiled step is: a straight line of kernel calls on static buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tsm_edge.cards.precision import Precision
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.kernel import Grid, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image

Space = Literal["frame", "frame_bytes", "workspace", "weights", "cache", "next_cache", "scratch"]
# Packed weights, by what packed them, for which kernel, and of what: arrays by their identity.
Packed = Mapping[tuple[object, ...], np.ndarray]
NOTHING_PACKED: Packed = {}


@dataclass(frozen=True)
class BufferRef:
    """A pointer argument of a call.

    Attributes
    ----------
    space : str
        ``workspace`` and ``weights`` are blocks shared by all calls; ``frame`` is the caller's, ``frame_bytes`` the
        same as a camera gives it (uint8, [H][W][RGB]); ``cache`` and ``next_cache`` are the shift caches as read and as
        written; ``scratch`` is a thread's own memory, empty at the start of every call.
    index : int
        Which workspace buffer, packed weight or cache; 0 for the frame.
    """

    space: Space
    index: int = 0


@dataclass(frozen=True)
class KernelCall:
    """One kernel on its buffers.

    Attributes
    ----------
    kernel : str
        Symbol name; equal specs share a kernel.
    spec : KernelSpec
        What the kernel is generated from.
    buffers : tuple of BufferRef
        In the kernel's argument order.
    layer : str
        The network's own name of what it computes, or the tensor that a copy makes.
    """

    kernel: str
    spec: KernelSpec
    buffers: tuple[BufferRef, ...]
    layer: str

    @property
    def items(self) -> Items:
        """How threads share the call.

        Raises
        ------
        TypeError
            It is a GPU's.
        """
        if not isinstance(self.spec.parallel, Items):
            raise TypeError(f"{self.kernel} is parted into {self.spec.parallel}, not into items")
        return self.spec.parallel

    @property
    def grid(self) -> Grid:
        """Thread blocks of the call.

        Raises
        ------
        TypeError
            It is a CPU's.
        """
        if not isinstance(self.spec.parallel, Grid):
            raise TypeError(f"{self.kernel} is parted into {self.spec.parallel}, not into thread blocks")
        return self.spec.parallel


@dataclass(frozen=True)
class WorkspaceBuffer:
    """A temporary tensor: live from the call that writes it to the last call that reads it."""

    name: str
    image: Image
    first: int
    last: int

    @property
    def bytes(self) -> int:
        """Allocated size."""
        return self.image.bytes


@dataclass(frozen=True)
class StoredLevels:
    """How bytes stand for values: ``((byte ^ flip) - zero) * step``."""

    step: float
    zero: int
    flip: int


@dataclass(frozen=True, eq=False)
class Program:
    """A whole step.

    Attributes
    ----------
    calls : tuple of KernelCall
        In execution order.
    workspace : tuple of WorkspaceBuffer
    weights : tuple of numpy.ndarray
        Packed, float32, 1-D; constants of operators without a rule as they are.
    caches : tuple of Image
        Layout of each shift cache inside a stream.
    logits : int
        The workspace buffer that holds the logits after the last call.
    precision : Precision
    choices : Choices
        What the rules chose for each kernel, or were told to.
    byte_calls : tuple of KernelCall
        What a step begins with where the frame comes as bytes: they read ``frame_bytes``.
    replaced_calls : int
        So many of ``calls``, from the first on, are left out then.
    cache_levels : tuple of StoredLevels
        Of each shift cache, where caches are bytes; else empty.
    noise_db : dict of str to float
        Of integers: the signal-to-noise ratio after each layer, dB, on the frames it was calibrated with.
    in_float : tuple of str
        Of integers: ``operator (layer)`` of what has no form in integers.
    frame_logits : int or None
        Of a clip: the workspace buffer that holds the logits of every frame after the last call.
    newer : Program or None
        The same step with the newer instructions of the target card: caches lie as they do here.
    """

    calls: tuple[KernelCall, ...]
    workspace: tuple[WorkspaceBuffer, ...]
    weights: tuple[np.ndarray, ...]
    caches: tuple[Image, ...]
    logits: int
    precision: Precision
    choices: Choices
    byte_calls: tuple[KernelCall, ...] = ()
    replaced_calls: int = 0
    cache_levels: tuple[StoredLevels, ...] = ()
    noise_db: Mapping[str, float] = field(default_factory=dict)
    in_float: tuple[str, ...] = ()
    frame_logits: int | None = None
    newer: Program | None = None

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread."""
        return max((call.spec.scratch_bytes for call in self.calls), default=0)


def renamed(program: Program, prefix: str) -> Program:
    """The program with other symbols, to be linked beside the one that has these."""

    def calls(those: tuple[KernelCall, ...]) -> tuple[KernelCall, ...]:
        return tuple(replace(call, kernel=f"{prefix}{call.kernel}") for call in those)

    return replace(program, calls=calls(program.calls), byte_calls=calls(program.byte_calls))
