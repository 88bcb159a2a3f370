"""The kernel contract: what every rule's kernel is, whatever the rule and whatever the backend.

A rule turns fused layers into a :class:`KernelSpec`: a frozen value that holds all that the code depends on, so that
equal specs share one kernel, and that can say what it reads and writes, how it is parted, what it costs, and write
itself. Every later stage (code generation, C tables, memory plan, ``--explain``, profiles, tuning) asks these questions
and no others: none of them knows a rule by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

# Of a pointer argument, as the kernel sees it. ``cache`` is a shift cache as the frame before left it, ``next_cache``
# the one for the frame after; ``scratch`` is a thread's own memory, empty at the start of every call.
Role = Literal["input", "weights", "cache", "scratch", "output", "next_cache"]
# The rule of what no other rule knows: TVM's own definition of an operator.
FALLBACK_RULE = "generic"


@dataclass(frozen=True)
class Argument:
    """A pointer argument of a kernel.

    Attributes
    ----------
    name : str
        Unique in its kernel; the rule binds buffers by it.
    role : str
        What the kernel does with it.
    dtype : str
        Of its elements.
    """

    name: str
    role: Role
    dtype: str = "float32"


@dataclass(frozen=True)
class Items:
    """How a CPU kernel is parted over threads: any split of its range of work items gives the same result.

    Attributes
    ----------
    count : int
        Work items of a call.
    grain : int
        Fewest items worth taking from another thread.
    resumes : bool
        The kernel is told whether the same thread has just done the items before, and then makes nothing twice.
    """

    count: int
    grain: int = 1
    resumes: bool = False


@dataclass(frozen=True)
class Grid:
    """How a GPU kernel is parted.

    Attributes
    ----------
    blocks, threads : tuple of int
        Thread blocks of a call, and threads of a block (x, y, z).
    """

    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """A layer that a fused kernel computes: its name, and its floating-point operations in a whole call."""

    name: str
    flops: int


class KernelSpec(Protocol):
    """What a kernel is generated from; hashable, and equal only to a spec of the very same code."""

    @property
    def rule(self) -> str:
        """The schedule rule, for people and for the kernel's symbol: lower case, digits and underscores."""
        ...

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        ...

    @property
    def parallel(self) -> Items | Grid:
        """How a call is parted."""
        ...

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory a thread needs."""
        return 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of a fused kernel: its layers, in the order in which they are reported; together they do :attr:`flops`."""
        return ()

    @property
    def flops(self) -> int:
        """Floating-point operations of a call."""
        return sum(stage.flops for stage in self.stages)

    @property
    def warp_slots(self) -> float:
        """Instruction issue slots of one warp of a GPU kernel, where its rule models them; 0: it does not."""
        return 0

    @property
    def bytes(self) -> int:
        """Bytes of a call's inputs, weights and outputs, each moved once."""
        ...

    def describe(self) -> str:
        """What the rule chose, for people: the register tile, the algorithm, the operator."""
        return ""

    def write(self, name: str) -> Any:
        """Write the kernel as a TIR function with the symbol ``name``; nothing else about it may depend on the name."""
        ...
