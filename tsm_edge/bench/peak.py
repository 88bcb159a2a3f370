"""The arithmetic peak of this machine, measured: multiply-adds on registers, generated as every other kernel is.

It needs the compiler, which a device usually has not; there, kernels are reported without their share of the peak.
Nothing of it is in ``model.so``: an artifact carries its kernels, not a benchmark.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tsm_edge.cards import TargetCard
from tsm_edge.files.atomic import scratch_folder

# Enough independent sums to hide the latency of a multiply-add, few enough for 16 registers.
_ACCUMULATORS = 12
_UNROLLED = 8
_SECONDS = 0.001


def can_measure_peak() -> bool:
    """Whether the compiler (TVM and ziglang) is installed here."""
    return all(importlib.util.find_spec(name) is not None for name in ("tvm", "ziglang"))


class PeakMeter:
    """Measures the peak again and again, as clocks change.

    Parameters
    ----------
    target : TargetCard
        Whose instructions to use: the peak is of the instruction set the artifact was compiled for.
    threads : int
        Threads that compute at the same time.

    Raises
    ------
    CompileError
        The compiler is not installed.
    """

    def __init__(self, target: TargetCard, threads: int = 1) -> None:
        self._threads = threads
        self._flops = 2 * target.cpu.vector_lanes * _ACCUMULATORS * _UNROLLED
        self._lanes = target.cpu.vector_lanes
        with scratch_folder() as folder:  # what is loaded needs its file no more
            self._kernel = _compiled(target, folder)
        self._items = 1000
        while (seconds := self._run(self._items)) < _SECONDS:
            self._items = max(2 * self._items, int(self._items * _SECONDS / max(seconds, 1e-6)))

    def measure(self) -> float:
        """GFLOP/s of all threads together, over a few milliseconds."""
        seconds = [0.0] * self._threads
        start = threading.Barrier(self._threads)

        def work(index: int) -> None:
            start.wait()
            seconds[index] = self._run(self._items)

        workers = [threading.Thread(target=work, args=(index,)) for index in range(1, self._threads)]
        for worker in workers:
            worker.start()
        work(0)
        for worker in workers:
            worker.join()
        return sum(self._items * self._flops / duration for duration in seconds) / 1e9

    def _run(self, items: int) -> float:
        """Seconds of one call (the interpreter's lock is released in it)."""
        values = np.full((_ACCUMULATORS + 2) * self._lanes, 0.5, np.float32)
        pointer = values.ctypes.data_as(ctypes.c_void_p)
        started = time.perf_counter()
        self._kernel(0, items, pointer)
        return time.perf_counter() - started


def _compiled(target: TargetCard, folder: Path) -> Any:
    """The loaded kernel."""
    from tsm_edge.compile.backends.cpu.kernels import emit
    from tsm_edge.compile.backends.cpu.llvm import build_kernels
    from tsm_edge.compile.ir.kernel import Argument
    from tsm_edge.compile.package.zig import run_zig

    lanes = target.cpu.vector_lanes
    with emit.function("tsm_peak", (Argument("values", "output"),)) as kernel:
        values = kernel.buffers["values"]
        sums = emit.Registers(_ACCUMULATORS, lanes)
        for index in range(_ACCUMULATORS):
            sums.set(index, emit.load(values, index * lanes, lanes))
        # sum = sum * factor + term converges: no value grows, and nothing can be taken out of the loop.
        factor, term = (emit.load(values, (_ACCUMULATORS + index) * lanes, lanes) for index in range(2))
        with emit.loop(kernel.end, kernel.begin):
            for index in list(range(_ACCUMULATORS)) * _UNROLLED:
                sums.set(index, sums.get(index) * factor + term)
        for index in range(_ACCUMULATORS):
            emit.store(values, index * lanes, sums.get(index), lanes)
    objects, library = folder / "peak.o", folder / "peak.so"
    build_kernels({"tsm_peak": kernel.function}, target.cpu).write_to_file(str(objects), "o")
    arguments = ["ld.lld", "-shared", str(objects), "-o", str(library)]
    run_zig(arguments, "linking the peak kernel", library, "leave it out with: tsm-edge profile --no-peak")
    function = ctypes.CDLL(str(library)).tsm_peak
    function.restype, function.argtypes = None, [ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p]
    return function
