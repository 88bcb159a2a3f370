"""Kernels (TIR) → CUDA C, by TVM's passes and its code generator for CUDA."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.kernels.emit import PRELUDE
from tsm_edge.errors import CompileError

_FIRST_KERNEL = 'extern "C" __global__'


def cuda_target(gpu: GpuSpec) -> Any:
    """The TVM target of a GPU."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": gpu.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": gpu.shared_kib * 1024,
            "thread_warp_size": 32,
            "registers_per_block": gpu.registers,
        }
    )


def cuda_source(functions: Mapping[str, Any], gpu: GpuSpec) -> str:
    """All kernels as one CUDA C text that needs no header.

    Without common subexpression elimination: it hides that an index is a multiple of 4, and TVM would then write four
    scalar loads for a vector. NVRTC does it later.
    """
    import tvm
    from tvm import tirx

    target = cuda_target(gpu)
    passes = tvm.ir.transform.Sequential(
        [
            tirx.transform.BindTarget(target),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.LowerIntrin(),
        ]
    )
    module = passes(tvm.IRModule({name: function.with_attr("target", target) for name, function in functions.items()}))
    with _captured_source() as found:
        # ``tvm.tirx.build`` is shadowed by the function of that name.
        sys.modules["tvm.tirx.build"].codegen_build(module, target)
    (code,) = found
    return PRELUDE + _without_headers(code)


@contextlib.contextmanager
def _captured_source() -> Iterator[list[str]]:
    """Take TVM's CUDA C away before it looks for a CUDA toolkit."""
    import tvm

    found: list[str] = []

    def keep(code: str, target: Any) -> str:
        found.append(code)
        return code

    names = ("tvm_callback_cuda_postproc", "tvm_callback_cuda_compile")
    before = {name: tvm.get_global_func(name, allow_missing=True) for name in names}
    fallback = os.environ.get("TVM_COMPILE_FORCE_FALLBACK")
    tvm.register_global_func(names[0], keep, override=True)
    tvm.register_global_func(names[1], lambda *_: ".version 6.4\n", override=True)
    os.environ["TVM_COMPILE_FORCE_FALLBACK"] = "1"  # no CUDA runtime is linked into TVM's wheel
    try:
        yield found
    finally:
        for name, function in before.items():
            if function is not None:
                tvm.register_global_func(name, function, override=True)
        if fallback is None:
            os.environ.pop("TVM_COMPILE_FORCE_FALLBACK", None)
        else:
            os.environ["TVM_COMPILE_FORCE_FALLBACK"] = fallback


def _without_headers(code: str) -> str:
    """TVM begins with includes that NVRTC does not have alone; the prelude stands for them."""
    start, end = code.find("#ifdef __CUDACC_RTC__"), code.find(_FIRST_KERNEL)
    if start < 0 or end < 0:
        raise CompileError("TVM's CUDA code begins unlike expected", "install the version of TVM that pyproject names")
    return code[:start] + code[end:]
