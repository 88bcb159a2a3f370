"""How a tensor is stored in 8-bit levels: its scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The largest level; the least is 0.
LEVELS = 255


@dataclass(frozen=True)
class Scale:
    """Of a tensor: ``value = (level - zero) * step``, computed in float32.

    Attributes
    ----------
    step : float
        A float32.
    zero : int
        The level of zero, 0 to 255.
    """

    step: float
    zero: int

    def levels(self, values: np.ndarray) -> np.ndarray:
        """The nearest levels, uint8; as kernels and the exact reference quantise."""
        inverse = np.float32(1.0) / np.float32(self.step)
        scaled = np.clip(values.astype(np.float32) * inverse, -self.zero, LEVELS - self.zero)
        levels: np.ndarray = (np.rint(scaled) + self.zero).astype(np.uint8)
        return levels

    def values(self, levels: np.ndarray) -> np.ndarray:
        """What levels stand for, float32."""
        values: np.ndarray = (levels.astype(np.float32) - np.float32(self.zero)) * np.float32(self.step)
        return values
