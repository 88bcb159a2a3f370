"""Element types, by the names TVM, NumPy and ONNX share, and how often a size fits another."""

from __future__ import annotations

import numpy as np

LINE_BYTES = 64  # of a cache line
WORD_BYTES = 4  # of a float32, of two halves, of a register of a GPU


def item_bytes(dtype: str) -> int:
    """Bytes of an element: 4 for ``float32``."""
    return int(np.dtype(dtype).itemsize)


def line_elements(dtype: str) -> int:
    """Elements of a cache line."""
    return LINE_BYTES // item_bytes(dtype)


def ceil_div(size: int, part: int) -> int:
    """How many parts cover a size: the quotient, rounded up."""
    return -(-size // part)
