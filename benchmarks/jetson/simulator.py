"""A kernel's machine code and trip counts → modelled cycles: the C simulator, compiled when it is first used."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jetson.sass import Instruction, Kernel
from tsm_edge.cards import GpuSpec

_KINDS = {"arithmetic": 0, "shift": 1, "compare": 2, "quarter": 3, "barrier": 8, "branch": 9}
_MEMORY_KINDS = {"LDS": 4, "STS": 5, "LDG": 6, "STG": 7, "SHFL": 4}
_OTHER = 10
_WARP = 32
# Wavefronts of a warp's access to shared memory, by the bytes of a thread: two half warps for 16 bytes.
_WAVEFRONTS = {"LDS": {16: 2, 8: 2, 4: 1}, "STS": {16: 4, 8: 2, 4: 1}}

# Of an instruction: the share of its bytes that come from DRAM. Of its index and itself.
Missed = Callable[[int, Instruction], float]


class _Instruction(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "stall", "write_barrier", "read_barrier", "wait_mask")),
        *((name, ctypes.c_int32) for name in ("conflict", "bytes", "wavefronts")),
        ("missed", ctypes.c_float),
    ]


class _Machine(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("dram_bytes", "l2_bytes", "l1_bytes")),
        *((name, ctypes.c_int32) for name in ("l2_latency", "dram_latency", "shared_latency", "block_start")),
        ("multiprocessors", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Machine:
    """What a card does not have. L1 width and DRAM latency were fitted to 18 kernels of a real Nano (see README).

    Attributes
    ----------
    l1_bytes, l2_bytes : float
        A cycle; L1 of a multiprocessor, L2 of the GPU for each multiprocessor.
    l2_latency, dram_latency, shared_latency, block_start : int
        Cycles.
    """

    l1_bytes: float = 64.0
    l2_bytes: float = 64.0
    l2_latency: int = 250
    dram_latency: int = 400
    shared_latency: int = 24
    block_start: int = 300


MACHINE = Machine()


def trace_of(kernel: Kernel, trips: Mapping[tuple[int, int], int]) -> list[int]:
    """The instructions that a warp issues, in order: loops as often as they run, no branch forward taken."""
    code = kernel.instructions
    exits = [index for index, item in enumerate(code) if item.base == "EXIT" and not item.predicated]
    return _expand(trips, 0, exits[-1] + 1 if exits else len(code), frozenset())


def _expand(
    trips: Mapping[tuple[int, int], int], start: int, end: int, inside: frozenset[tuple[int, int]]
) -> list[int]:
    made: list[int] = []
    at = start
    while at < end:
        here = [loop for loop in trips if loop[0] == at and loop[1] < end and loop not in inside]
        if not here:
            made.append(at)
            at += 1
            continue
        loop = max(here, key=lambda item: item[1])
        made += _expand(trips, loop[0], loop[1] + 1, inside | {loop}) * trips[loop]
        at = loop[1] + 1
    return made


def cycles(
    kernel: Kernel,
    trace: Sequence[int],
    threads: int,
    blocks: int,
    resident: int,
    gpu: GpuSpec,
    missed: Missed,
    machine: Machine = MACHINE,
) -> int:
    """Simulate a launch."""
    code = (_Instruction * len(kernel.instructions))()
    for index, item in enumerate(kernel.instructions):
        memory, other = item.kind == "memory", item.base in ("S2R", "DEPBAR")
        code[index] = _Instruction(
            _MEMORY_KINDS.get(item.base, _OTHER) if memory else _OTHER if other else _KINDS[item.kind],
            item.stall,
            item.write_barrier,
            item.read_barrier,
            item.wait_mask,
            item.conflict,
            _WARP * item.width if memory else 0,
            _WAVEFRONTS.get(item.base, {}).get(item.width, 1),
            missed(index, item) if memory else 0.0,
        )
    chip = _Machine(
        gpu.memory_gb_s * 1e3 / gpu.clock_mhz,
        machine.l2_bytes * gpu.multiprocessors,
        machine.l1_bytes,
        machine.l2_latency,
        machine.dram_latency,
        machine.shared_latency,
        machine.block_start,
        gpu.multiprocessors,
    )
    order = (ctypes.c_int32 * len(trace))(*trace)
    return int(_library().simulate(code, order, len(trace), -(-threads // _WARP), blocks, resident, ctypes.byref(chip)))


@functools.cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("simulator.c")
    with tempfile.TemporaryDirectory() as folder:  # the loaded file outlives its name
        made = Path(folder) / "simulator.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(made))
    library.simulate.restype = ctypes.c_int64
    return library
