"""A core of the target as the rules see it while they compute in one element type."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.cards import Ability, CpuSpec
from tsm_edge.compile.ir.element import item_bytes, line_elements


@dataclass(frozen=True)
class Core:
    """A card's numbers in the units of an element type.

    Attributes
    ----------
    cpu : CpuSpec
    dtype : str
        Of the elements that are stored and computed with.
    """

    cpu: CpuSpec
    dtype: str

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return self.cpu.vector_bytes // item_bytes(self.dtype)

    @property
    def line(self) -> int:
        """Elements of a cache line."""
        return line_elements(self.dtype)

    @property
    def l1_bytes(self) -> int:
        """Its L1 data cache."""
        return self.cpu.l1d_kib * 1024

    @property
    def l2_bytes(self) -> int:
        """The L2 cache it reads from, for a tensor that all cores work on."""
        return self.cpu.l2_kib * 1024

    @property
    def own_l2_bytes(self) -> float:
        """The part of the L2 cache it has for itself when all cores work on tensors of their own."""
        return self.l2_bytes / (self.cpu.cores if self.cpu.l2_shared else 1)

    def bytes(self, elements: int) -> int:
        """Size of some elements."""
        return elements * item_bytes(self.dtype)

    def can(self, ability: Ability) -> bool:
        """Whether the card declares an ability."""
        return ability in self.cpu.abilities
