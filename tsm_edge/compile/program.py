"""What a compiled step is: a straight line of kernel calls on static buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tsm_edge.compile.schedules.geometry import Image

# A stage of a fused kernel, and its floating-point operations in a whole call.
Stage = tuple[str, int]
Space = Literal["frame", "workspace", "weights", "cache", "next_cache", "scratch"]


@dataclass(frozen=True)
class BufferRef:
    """A pointer argument of a call.

    Attributes
    ----------
    space : str
        ``workspace`` and ``weights`` are blocks shared by all calls; ``frame`` is the caller's; ``cache`` and
        ``next_cache`` are the shift caches as read and as written; ``scratch`` is a thread's own memory, empty at
        the start of every call.
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
    spec : object
        The rule's spec: what the kernel was generated from.
    buffers : tuple of BufferRef
        In the kernel's argument order.
    layer : str
        Name of the tensor it makes.
    rule : str
        The schedule rule that wrote it.
    flops, bytes : int
        Floating-point operations, and bytes of inputs, weights and outputs moved once.
    stages : tuple of Stage
        Of a fused kernel, in the order of its spec's ``stages``; together they do ``flops``.
    """

    kernel: str
    spec: Any
    buffers: tuple[BufferRef, ...]
    layer: str
    rule: str
    flops: int
    bytes: int
    stages: tuple[Stage, ...] = ()

    @property
    def items(self) -> int:
        """Work items the call may be split into."""
        return int(self.spec.items)

    @property
    def grain(self) -> int:
        """Fewest work items worth taking from another thread."""
        return int(getattr(self.spec, "grain", 1))

    @property
    def resumes(self) -> bool:
        """Whether the kernel is told that the same thread has just done the items before."""
        return bool(getattr(self.spec, "resumes", False))

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory it needs for each thread."""
        return int(getattr(self.spec, "scratch_bytes", 0))


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
        return self.image.elements * 4


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
    """

    calls: tuple[KernelCall, ...]
    workspace: tuple[WorkspaceBuffer, ...]
    weights: tuple[np.ndarray, ...]
    caches: tuple[Image, ...]
    logits: int

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread."""
        return max((call.scratch_bytes for call in self.calls), default=0)
