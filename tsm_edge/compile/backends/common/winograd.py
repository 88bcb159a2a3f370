"""Winograd's minimal filtering F(m×m, 3×3): its matrices, and the weights as they are multiplied.

``Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A`` for every m×m tile of outputs, with d its (m+2)×(m+2) input pixels (Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m×m, 3×3): of the input, the weights and the output."""

    input: Matrix
    weight: Matrix
    output: Matrix


# Interpolation points 0, 1, -1, ∞ and 0, 1, -1, 2, -2, ∞. Column 1 of the output matrix (the point 1) is all ones:
# what is added to position (1, 1) reaches every output once, and there the bias goes in.
TRANSFORMS = {
    2: Transforms(
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        weight=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: Transforms(
        input=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        weight=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}


def transformed_weights(outputs: int, weight: np.ndarray) -> np.ndarray:
    """``G g Gᵀ`` of [out, in, 3, 3] as float64 [row][column][in][out]."""
    g = np.array(TRANSFORMS[outputs].weight)
    transformed: np.ndarray = np.einsum("ia,ocab,jb->ijco", g, weight.astype(np.float64), g)
    return transformed


def combination(coefficients: Sequence[float], values: Sequence[Any], constant: Callable[[float], Any]) -> Any:
    """``Σ coefficient · value`` of expressions, without what a coefficient of 0 or ±1 makes needless.

    Parameters
    ----------
    coefficients, values : sequence
        Of the same length; not all coefficients are zero.
    constant : callable
        A number as an expression.
    """
    terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
    terms.sort(key=lambda term: term[0] != 1)  # one that needs no multiplication first
    total = None
    for coefficient, value in terms:
        scaled = value if math.fabs(coefficient) == 1 else value * constant(math.fabs(coefficient))
        if total is None:
            total = scaled if coefficient > 0 else constant(0.0) - scaled
        else:
            total = total + scaled if coefficient > 0 else total - scaled
    return total
