"""The precisions a model can be compiled in: what is stored, what sums are made in, how far results may be off."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.cards.target import Ability
from tsm_edge.errors import CompileError, unknown_name


@dataclass(frozen=True)
class Precision:
    """A named precision; frame, logits and explicit caches are float32 to the caller in every one of them.

    Attributes
    ----------
    name : str
    storage : str
        Element type of activations, weights and shift caches.
    accumulator : str
        Element type of sums.
    needs : tuple of str
        One of these the target's instructions must be able to do; empty: nothing in particular.
    tolerance : float
        Largest difference from the reference in verification, relative to the largest value of a tensor; 0: equality
        with a reference of the same integers.
    cache_tolerance : float
        The same of shift caches, where they may be further off than logits; 0: as far as those.
    """

    name: str
    storage: str
    accumulator: str
    tolerance: float
    needs: tuple[Ability, ...] = ()
    cache_tolerance: float = 0.0


# float32 sums in another order: a few units of rounding over a few hundred layers.
FP32 = Precision("fp32", "float32", "float32", 1e-4)
INT8 = Precision("int8", "int8", "int32", 0.0, ("dot-product", "multiply-by-lane"))
# Of a GPU: halfs are only stored, those of large images not even that.
FP16_SUMMED_IN_FP32 = Precision("fp16-fp32", "float16", "float32", 5e-3, cache_tolerance=2e-2)
PRECISIONS = {
    precision.name: precision
    for precision in (
        FP32,
        Precision("fp16", "float16", "float16", 3e-2, ("fp16-arithmetic",)),
        FP16_SUMMED_IN_FP32,
        INT8,
    )
}


def precision_named(name: str) -> Precision:
    """The precision of that name.

    Raises
    ------
    CompileError
        There is none.
    """
    if name not in PRECISIONS:
        raise CompileError(unknown_name("precision", name, PRECISIONS), "leave --precision out for fp32")
    return PRECISIONS[name]
