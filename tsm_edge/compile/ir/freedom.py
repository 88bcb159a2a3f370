"""Kernels of the rules, and the choices that may stand in their place: what a tuner measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.compile.ir.choices import Choice


@dataclass(frozen=True)
class Freedom:
    """A kernel of the rules, or two that may be one, and what may stand in their place.

    Attributes
    ----------
    kernels : tuple of Choice
        The rules'.
    others : tuple of tuple of Choice
        Each for the same layers, in one kernel or several; the likeliest to be faster first, none twice.
    """

    kernels: tuple[Choice, ...]
    others: tuple[tuple[Choice, ...], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers, in order."""
        return tuple(layer for kernel in self.kernels for layer in kernel.layers)

    @property
    def rule(self) -> str:
        """The rules that write the kernels, for people."""
        return ", ".join(kernel.rule for kernel in self.kernels)

    @property
    def label(self) -> str:
        """What it is called, for people."""
        return label_of(self.layers)

    @property
    def call_labels(self) -> tuple[str, ...]:
        """What the kernels' calls are called in the program."""
        return tuple(label_of(kernel.layers) for kernel in self.kernels)


def label_of(names: Sequence[str]) -> str:
    """What a call for layers of these names is called: ``features.3`` where they are parts of one block."""
    blocks = list(dict.fromkeys(name.split(" ")[0] for name in names))
    return names[0] if len(names) == 1 else " + ".join(blocks)
