"""Element types, by the names TVM, NumPy and ONNX share."""

from __future__ import annotations

import numpy as np

LINE_BYTES = 64  # of a cache line


def item_bytes(dtype: str) -> int:
    """Bytes of an element: 4 for ``float32``."""
    return int(np.dtype(dtype).itemsize)


def line_elements(dtype: str) -> int:
    """Elements of a cache line."""
    return LINE_BYTES // item_bytes(dtype)
