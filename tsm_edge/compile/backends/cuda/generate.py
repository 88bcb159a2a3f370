"""A program's kernels → device code: TIR, CUDA C, PTX, machine code; each stage can be looked at."""

from __future__ import annotations

from collections.abc import Callable

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.codegen import cuda_source
from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx, nvrtc_version
from tsm_edge.compile.backends.cuda.ptxas import assemble, check_resources, ptxas_version
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.program import Program


def generate(program: Program, gpu: GpuSpec, progress: Callable[[int], None] = lambda kernels: None) -> DeviceCode:
    """Write and compile all kernels of a program.

    Parameters
    ----------
    program : Program
    gpu : GpuSpec
    progress : callable, optional
        Called with the number of kernels before they are compiled.

    Raises
    ------
    CompileError
        A kernel does not compile, or needs more than the GPU has.
    """
    specs = {call.kernel: call.spec for call in (*program.byte_calls, *program.calls)}
    progress(len(specs))
    source = cuda_source({name: spec.write(name) for name, spec in specs.items()}, gpu)
    ptx = compile_ptx(source, gpu)
    cubin, resources = assemble(ptx, gpu)
    check_resources(program, resources, gpu)
    return DeviceCode(
        arch=gpu.arch,
        source=source,
        ptx=ptx,
        cubin=cubin,
        resources=resources,
        compiler=f"nvrtc {nvrtc_version()}, ptxas {ptxas_version()}",
    )
