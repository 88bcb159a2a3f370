"""Kernels → one object file, by TVM's TIR passes and LLVM code generator."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tsm_edge.cards import Ability, CpuSpec, TargetCard
from tsm_edge.cards.architecture import architecture
from tsm_edge.compile.ir.kernel import FALLBACK_RULE, KernelSpec
from tsm_edge.compile.ir.program import Program
from tsm_edge.errors import CardError, CompileError, closest, unknown_name


def generate(
    program: Program, cpu: CpuSpec, progress: Callable[[int], None] = lambda kernels: None
) -> tuple[dict[str, Any], Any]:
    """Write and compile all kernels of a program.

    Parameters
    ----------
    program : Program
    cpu : CpuSpec
    progress : callable, optional
        Called with the number of kernels before they are compiled.

    Returns
    -------
    (dict of str to tvm.tirx.PrimFunc, object)
        See :func:`write_kernels` and :func:`build_kernels`.

    Raises
    ------
    CompileError
        TVM cannot generate code for an operator that has no rule.
    """
    try:
        functions = write_kernels(program)
        progress(len(functions))
        return functions, build_kernels(functions, cpu)
    except Exception as error:  # TVM's errors have no common base below Exception
        for call in program.calls:
            if call.spec.rule == FALLBACK_RULE and not _builds(call.kernel, call.spec, cpu):
                raise CompileError(
                    f"operator {call.spec.describe()} ({call.layer!r}) has no rule, and TVM generates no code for it: "
                    f"{str(error).strip().splitlines()[-1]}",
                    "export the model without it, or open an issue naming the operator",
                ) from None
        raise


def _builds(name: str, spec: KernelSpec, cpu: CpuSpec) -> bool:
    try:
        build_kernels({name: spec.write(name)}, cpu)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def llvm_target(cpu: CpuSpec) -> Any:
    """The TVM target of a CPU."""
    import tvm

    options: dict[str, Any] = {"kind": "llvm", "mtriple": cpu.triple, "mcpu": cpu.cpu}
    if cpu.features:
        options["mattr"] = list(cpu.features)
    if cpu.float_abi:
        options["mfloat-abi"] = cpu.float_abi
    return tvm.target.Target(options)


def check_cpu(target: TargetCard) -> None:
    """Refuse CPUs and features that LLVM does not know for the card's triple, or that cannot run Linux.

    LLVM itself only warns of an unknown name, makes code for another CPU, and ends the process where a CPU cannot have
    the triple's mode at all (a 32-bit one with x86_64).

    Raises
    ------
    CardError
        One is unknown; the known ones are listed.
    """
    known = _cpus(target.cpu.triple)
    where = f"target {target.name}: "
    if target.cpu.cpu not in known:
        raise CardError(where + unknown_name("cpu", target.cpu.cpu, known), f"correct cpu of the card {target.name}")
    for ability, needed in _FEATURES_OF.items():
        having = known[target.cpu.cpu] | {feature[1:] for feature in target.cpu.features}
        if ability in target.cpu.abilities and not having & needed:
            raise CardError(
                f"{where}abilities has {ability!r}, but {target.cpu.cpu} has no {' or '.join(sorted(needed))}",
                f"correct abilities of the card {target.name}, or add to its features: '+{min(needed)}'",
            )
    features = set().union(*known.values())
    for feature in target.cpu.features:
        if feature[1:] not in features:
            close = closest(feature[1:], features)
            guess = "" if close is None else f"did you mean '+{close}'? "
            raise CardError(
                f"{where}no CPU of {target.cpu.triple} has the feature {feature!r}",
                f"{guess}correct features of the card {target.name}",
            )


# Ability → the features of LLVM's one of which gives it; without, LLVM ends the process instead of the compilation.
_FEATURES_OF: dict[Ability, set[str]] = {
    "fp16-arithmetic": {"fullfp16", "avx512fp16"},
    "dot-product": {"dotprod", "avx512vnni", "avxvnni"},
}


@functools.cache
def _cpus(triple: str) -> dict[str, set[str]]:
    """The CPUs that LLVM knows for a triple and that run Linux in its mode, with their features."""
    import tvm
    from tvm.target import codegen

    def features(cpu: str) -> set[str]:
        target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
        return {str(name) for name in codegen.llvm_get_cpu_features(target)}

    names = codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": triple}))
    found = {str(name): features(str(name)) for name in names}
    # On x86 without 32-bit processors, on 32-bit Arm without microcontrollers.
    needed = {"x86_64": {"64bit"}, "arm": {"aclass"}}.get(architecture(triple), set())
    return {name: having for name, having in found.items() if needed <= having}


def write_kernels(program: Program) -> dict[str, Any]:
    """One PrimFunc for every distinct kernel of the program, by symbol name."""
    specs = {call.kernel: call.spec for call in (*program.calls, *program.byte_calls)}
    return {name: spec.write(name) for name, spec in specs.items()}


def build_kernels(functions: Mapping[str, Any], cpu: CpuSpec) -> Any:
    """Lower and compile kernels; the result has ``write_to_file(path, "o")`` and ``inspect_source("asm")``."""
    import tvm
    from tvm import tirx

    from tsm_edge.compile.backends.cpu.propagate import propagate_nan

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
            propagate_nan(cpu),
        ]
    )
    module = passes(tvm.IRModule(dict(functions)))
    # ``tvm.tirx.build`` is shadowed by the function of that name.
    return sys.modules["tvm.tirx.build"].codegen_build(module, target)
