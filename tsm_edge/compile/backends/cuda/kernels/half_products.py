"""Sums of products of halfs, two pixels in a word: begun with the bias, added up, clamped.

Products come in an order that reads few registers. An instruction reads three registers of four banks; two of one bank
cost it an issue slot more. What the instruction before has read in the same place is kept, so only one of weights and
pixels changes from a pair of instructions to the next: half of them read nothing but their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import Expr

# Activation (see ``emit.activate``) → the function of both halfs.
ACTIVATIONS = {"": "", "relu": "tsm_relu2", "saturate": "tsm_saturate2"}


def begin(bias: Any, channels: Sequence[Expr], words: int) -> Any:
    """Registers for the sums of some channels × words of pixels, row by row, with the bias in them."""
    sums = emit.registers(len(channels) * words, "uint32")
    for index, channel in enumerate(channels):
        emit.store(sums, index * words, emit.call("tsm_pack", bias[channel], bias[channel], dtype="uint32"))
        for word in range(1, words):
            emit.store(sums, index * words + word, sums[index * words])
    return sums


def activate(word: Expr, activation: str) -> Expr:
    """Clamp both halfs of a word."""
    function = ACTIVATIONS[activation]
    return emit.call(function, word, dtype="uint32") if function else word


def add(sums: Any, weights: Any, pixels: Any, channels: int, words: int) -> None:
    """Add products to the sums of :func:`begin`; ``weights`` has two channels in a word."""
    for channel, word in order(channels, words):
        at = channel * words + word
        product = "tsm_fma_high" if channel % 2 else "tsm_fma_low"
        emit.store(sums, at, emit.call(product, weights[channel // 2], pixels[word], sums[at], dtype="uint32"))


def order(channels: int, words: int) -> Iterator[tuple[int, int]]:
    """Channels and words: both channels of a word of weights for each word of pixels, there and back."""
    for pair in range(0, channels, 2):
        for word in range(words) if pair % 4 == 0 else reversed(range(words)):
            yield pair, word
            yield pair + 1, word
