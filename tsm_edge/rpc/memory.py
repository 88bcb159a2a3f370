"""Memory that a client has on the server: every access is inside of what it asked for."""

from __future__ import annotations

import numpy as np

from tsm_edge.rpc.values import CPU, RemoteTensor

_LEAST_ALIGNMENT = 64  # bytes
_MOST_ALIGNMENT = 1 << 16


class Memory:
    """Allocations by their address."""

    def __init__(self) -> None:
        self._views: dict[int, memoryview] = {}

    def allocate(self, size: int, alignment: int) -> int:
        """Memory of ``size`` bytes, not initialised.

        Raises
        ------
        ValueError
            The numbers cannot be.
        MemoryError
            There is none.
        """
        if size < 0 or not 0 <= alignment <= _MOST_ALIGNMENT:
            raise ValueError(
                f"{size} bytes on {alignment}: expected a size, and an alignment of 1 to {_MOST_ALIGNMENT}"
            )
        alignment = max(alignment, _LEAST_ALIGNMENT)
        block = np.empty(size + alignment, np.uint8)
        start = -block.ctypes.data % alignment
        part = block[start : start + max(size, 1)]  # a view of nothing has no address of its own
        address = int(part.ctypes.data)
        self._views[address] = part.data[:size]
        return address

    def free(self, address: int) -> None:
        """Give it back.

        Raises
        ------
        ValueError
            There is none.
        """
        if self._views.pop(address, None) is None:
            raise ValueError(f"no memory begins at {address:#x}")

    def bytes_of(self, tensor: RemoteTensor, count: int | None = None) -> memoryview:
        """The memory of a tensor; or so many bytes of it, from its offset on.

        Raises
        ------
        ValueError
            It is not, or not wholly, in memory of the client's.
        """
        view = self._views.get(tensor.handle)
        if view is None or tensor.device[0] != CPU[0]:
            raise ValueError("expected a tensor in CPU memory that this session allocated")
        size = tensor.nbytes if count is None else count
        if not 0 <= size <= len(view) - tensor.offset:
            raise ValueError(f"{size} bytes from {tensor.offset} on, of a tensor of {len(view)}")
        return view[tensor.offset : tensor.offset + size]
