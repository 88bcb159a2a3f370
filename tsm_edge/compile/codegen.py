"""Kernels → one object file, by TVM's TIR passes and LLVM code generator."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tsm_edge.cards import CpuSpec
from tsm_edge.compile.program import Program
from tsm_edge.compile.schedules import copying, pooling
from tsm_edge.compile.schedules.convolution import convolution
from tsm_edge.compile.schedules.convolution_spec import ConvolutionSpec
from tsm_edge.compile.schedules.depthwise import DepthwiseSpec, depthwise
from tsm_edge.compile.schedules.elementwise import ElementwiseSpec, elementwise
from tsm_edge.compile.schedules.expand_depthwise import ExpandDepthwiseSpec, expand_depthwise
from tsm_edge.compile.schedules.generic import GenericSpec, generic
from tsm_edge.compile.schedules.inverted_residual import InvertedResidualSpec, inverted_residual
from tsm_edge.compile.schedules.winograd import WinogradSpec, winograd

_WRITERS: Mapping[type, Any] = {
    ConvolutionSpec: convolution,
    DepthwiseSpec: depthwise,
    InvertedResidualSpec: inverted_residual,
    ExpandDepthwiseSpec: expand_depthwise,
    WinogradSpec: winograd,
    pooling.MaxPoolSpec: pooling.max_pool,
    pooling.AveragePoolSpec: pooling.global_average_pool,
    copying.CopySpec: copying.copy,
    copying.ShiftCopySpec: copying.shift_copy,
    ElementwiseSpec: elementwise,
    GenericSpec: generic,
}


def llvm_target(cpu: CpuSpec) -> Any:
    """The TVM target of a CPU."""
    import tvm

    options: dict[str, Any] = {"kind": "llvm", "mtriple": cpu.triple, "mcpu": cpu.cpu}
    if cpu.features:
        options["mattr"] = list(cpu.features)
    if cpu.float_abi:
        options["mfloat-abi"] = cpu.float_abi
    return tvm.target.Target(options)


def write_kernels(program: Program) -> dict[str, Any]:
    """One PrimFunc for every distinct kernel of the program, by symbol name."""
    specs = {call.kernel: call.spec for call in program.calls}
    return {name: _WRITERS[type(spec)](name, spec) for name, spec in specs.items()}


def build_kernels(functions: Mapping[str, Any], cpu: CpuSpec) -> Any:
    """Lower and compile kernels; the result has ``write_to_file(path, "o")`` and ``inspect_source("asm")``."""
    import tvm
    from tvm import tirx

    target = llvm_target(cpu)
    passes = tvm.ir.transform.Sequential(
        [
            tirx.transform.BindTarget(target),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.LowerIntrin(),
        ]
    )
    module = passes(tvm.IRModule(dict(functions)))
    # ``tvm.tirx.build`` is shadowed by the function of that name.
    return sys.modules["tvm.tirx.build"].codegen_build(module, target)
