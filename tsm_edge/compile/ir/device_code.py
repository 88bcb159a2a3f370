"""The kernels of a GPU as machine code: what NVRTC and ptxas made of a program's kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class KernelResources:
    """What ptxas says a kernel uses.

    Attributes
    ----------
    registers : int
        32-bit registers of a thread.
    spill_bytes : int
        Written to and read from local memory because registers ran out, of a thread.
    shared_bytes : int
        Shared memory of a thread block.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int


@dataclass(frozen=True, eq=False)
class DeviceCode:
    """All kernels of a program.

    Attributes
    ----------
    arch : str
        The GPU the cubin is for: ``sm_53``.
    source : str
        CUDA C.
    ptx : str
        What every driver of the target compiles itself; ASCII.
    cubin : bytes
        Machine code for ``arch``.
    resources : dict of str to KernelResources
        By kernel symbol, of the cubin.
    compiler : str
        Versions of NVRTC and ptxas.
    other_ptx : str
        Of several programs: of the kernels that the first does not have; empty: there are none.
    """

    arch: str
    source: str
    ptx: str
    cubin: bytes
    resources: Mapping[str, KernelResources]
    compiler: str
    other_ptx: str = ""
