"""Single kernels on the stand-in driver: PTX and arrays in, arrays changed, every access checked."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tsm_edge.verify.standin.build import StandIn, build_standin
from tsm_edge.verify.standin.translate import Image

# Kernels of a card newer than the Nano are tried as well: the version check has tests of its own.
_ANY_PTX = StandIn(newest_ptx=99)


class KernelFault(Exception):
    """A kernel left its memory, raced, or was launched as it cannot be; the message says where."""


def run_kernel(
    ptx: str,
    kernel: str,
    grid: tuple[int, int, int],
    block: int | tuple[int, int, int],
    buffers: Sequence[np.ndarray],
    allocations: Sequence[np.ndarray] = (),
    library: ctypes.CDLL | None = None,
) -> None:
    """Launch one kernel and bring its buffers back; an array may be given for several arguments.

    Parameters
    ----------
    ptx : str
        Translated and compiled once for each text.
    kernel : str
    grid : tuple of int
        Blocks.
    block : int or tuple of int
        Threads of a block.
    buffers : sequence of numpy.ndarray
        One an argument, each in device memory of exactly its size, 256-byte aligned. Changed in place. Floats that are
        to be written may be full of NaNs; shared memory is at the start.
    allocations : sequence of numpy.ndarray, optional
        Arrays in device memory that no argument points to, also brought back.
    library : ctypes.CDLL, optional
        A stand-in from :func:`load_driver`; by default one is built of the PTX.

    Raises
    ------
    KernelFault
        An access is outside or not aligned, threads race, or a barrier is not reached by all.
    """
    library = library or _driver(ptx)
    threads = (block, 1, 1) if isinstance(block, int) else block
    with _stream(library) as stream, _device_copies(library, stream, [*buffers, *allocations]) as addresses:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _call(library, "cuModuleLoadDataEx", ctypes.byref(module), ptx.encode(), 0, None, None)
        _call(library, "cuModuleGetFunction", ctypes.byref(function), module, kernel.encode())
        values = [ctypes.c_uint64(addresses[id(buffer)]) for buffer in buffers]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [ctypes.c_uint(size) for size in (*grid, *threads, 0)]
        _call(library, "cuLaunchKernel", function, *sizes, stream, pointers, None)
        _call(library, "cuStreamSynchronize", stream)


@contextmanager
def removed_barrier(ptx: str, line: int) -> Iterator[None]:
    """As if there were no barrier in a line of the PTX."""
    library = _driver(ptx)
    library.standin_remove_barrier(line)
    try:
        yield
    finally:
        library.standin_remove_barrier(0)


# An access of a kernel; addresses of shared memory count from its start.
ACCESS = np.dtype(
    [("address", "u8"), ("thread", "u4"), ("line", "u4"), ("bytes", "u4"), ("is_shared", "u4")], align=True
)


@contextmanager
def traced(ptx: str, block: int = 0, most: int = 1 << 20) -> Iterator[list[np.ndarray]]:
    """The accesses of one block of the launches inside, as one array of :data:`ACCESS`, in each thread's own order."""
    library, found = _driver(ptx), np.zeros(most, ACCESS)
    library.standin_traced.restype = ctypes.c_size_t
    library.standin_trace(ctypes.c_void_p(found.ctypes.data), ctypes.c_size_t(most), block)
    result: list[np.ndarray] = []
    try:
        yield result
        count = library.standin_traced()
        assert count <= most, f"{count} accesses, expected {most} at most"
        result.append(found[:count])
    finally:
        library.standin_trace(None, ctypes.c_size_t(0), 0)


@functools.cache
def _driver(ptx: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # the loaded file outlives its name
        return load_driver(build_standin(Path(folder), [Image(ptx)], _ANY_PTX, "-Og"))


def load_driver(path: Path) -> ctypes.CDLL:
    """A stand-in in this process."""
    library = ctypes.CDLL(str(path))
    library.standin_reason.restype = ctypes.c_char_p
    _call(library, "cuInit", 0)
    return library


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    if code := getattr(library, name)(*arguments):
        reason = library.standin_reason().decode()
        library.standin_revive()
        raise KernelFault(reason if code == 700 else f"{name}: error {code}")


@contextmanager
def _stream(library: ctypes.CDLL) -> Iterator[ctypes.c_void_p]:
    stream = ctypes.c_void_p()
    _call(library, "cuStreamCreate", ctypes.byref(stream), 0)
    yield stream
    library.cuStreamDestroy_v2(stream)


@contextmanager
def _device_copies(
    library: ctypes.CDLL, stream: ctypes.c_void_p, arrays: Sequence[np.ndarray]
) -> Iterator[dict[int, int]]:
    """Device addresses of arrays by their ``id``; what is there at the end comes back, also after a fault."""
    addresses: dict[int, int] = {}
    try:
        for array in arrays:
            if id(array) in addresses:
                continue
            if not array.flags.c_contiguous:
                raise ValueError("a buffer has gaps")
            address = ctypes.c_uint64()
            _call(library, "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(array.nbytes))
            addresses[id(array)] = address.value
            pointer = ctypes.c_void_p(array.ctypes.data)
            _call(library, "cuMemcpyHtoDAsync_v2", address, pointer, ctypes.c_size_t(array.nbytes), stream)
        yield addresses
        for array in {id(array): array for array in arrays}.values():
            pointer, address = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(addresses[id(array)])
            _call(library, "cuMemcpyDtoHAsync_v2", pointer, address, ctypes.c_size_t(array.nbytes), stream)
        _call(library, "cuStreamSynchronize", stream)
    finally:
        for number in addresses.values():
            library.cuMemFree_v2(ctypes.c_uint64(number))
