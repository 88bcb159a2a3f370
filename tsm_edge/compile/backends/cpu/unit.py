"""What one rule turns into calls: a layer, or a group of layers that it found."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tsm_edge.compile.ir import layers as ir


class Group(ABC):
    """Layers that one kernel computes, or one layer that has an algorithm of its own."""

    @property
    @abstractmethod
    def layers(self) -> tuple[ir.Convolution, ...]:
        """In order."""

    @property
    def tile_side(self) -> int:
        """Outputs a side of the tiles that the image is made in, whole ones: it is padded for them; 0: it is not."""
        return 0


Unit = ir.Layer | Group


def layers_of(unit: Unit) -> tuple[ir.Layer, ...]:
    """The layers a unit computes, in order."""
    return unit.layers if isinstance(unit, Group) else (unit,)
