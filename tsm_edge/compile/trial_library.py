"""Libraries for tuning: one ``model.so`` with many programs of a network, which differ in a few kernels each.

Program 0 is the rules' own. The others have other choices for a few kernels; what they share is there once, so that a
device needs few uploads, and what is measured runs inside the whole step.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tsm_edge.artifact.folder import LIBRARY, MANIFEST, Artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import CpuSpec, GpuSpec, TargetCard
from tsm_edge.compile.ir.device_code import DeviceCode, KernelResources
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.memory_plan import GPU_ALIGNMENT, plan_memory
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.trials import Network
from tsm_edge.compile.tvm_headers import tvm_ffi_includes
from tsm_edge.files.atomic import file_sha256

Kernels = Mapping[KernelSpec, str]


@dataclass(frozen=True, eq=False)
class TrialLibrary:
    """A library with several programs.

    Attributes
    ----------
    artifact : Artifact
    numbers : tuple of int or None
        Of each program that was asked for, in the library; None: the target cannot run it.
    """

    artifact: Artifact
    numbers: tuple[int | None, ...]


class _Compiled(Protocol):
    """The kernels of a library: the rules' own, and others."""

    def can_run(self, program: Program) -> bool:
        """Whether the target can run it."""
        ...

    def write_sources(
        self, folder: Path, network: Network, programs: Sequence[Program], manifest: Manifest
    ) -> tuple[Sequence[Path], Sequence[Path]]:
        """What is linked with the runtime: sources, and objects."""
        ...


class TrialBuilder:
    """Makes libraries of a network's programs; the rules' own kernels are compiled once for all of them.

    Parameters
    ----------
    network : Network
    folder : Path
        An empty folder; every library is a folder in it.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._built = 0
        self._rules = {call.spec: call.kernel for call in network.program.calls}
        self._own = _kernels_of(network.manifest.target).and_others(self._rules, folder)

    def build(self, programs: Sequence[Program]) -> TrialLibrary:
        """Compile programs into one library, behind the rules' own, which is program 0.

        Raises
        ------
        CompileError
            A kernel cannot be compiled or linked.
        """
        from tsm_edge.compile.package.link import link_library

        folder = self._folder / f"trials-{self._built}"
        folder.mkdir()
        self._built += 1
        names = dict(self._rules)
        renamed = [_with_names(program, names) for program in programs]
        kernels: _Compiled = self._own.and_others(
            {spec: names[spec] for spec in names if spec not in self._rules}, folder
        )
        library, numbers = [self._network.program], list[int | None]()
        for program in renamed:
            fits = kernels.can_run(program)
            numbers.append(len(library) if fits else None)
            library += [program] if fits else []
        manifest = replace(self._network.manifest, files={}, tuned=0, threads=None)
        sources, objects = kernels.write_sources(folder, self._network, library, manifest)
        link_library(folder / LIBRARY, manifest.target, sources, objects, tvm_ffi_includes())
        listed = replace(manifest, files={LIBRARY: file_sha256(folder / LIBRARY)})
        (folder / MANIFEST).write_text(listed.to_json(), "utf-8")
        return TrialLibrary(Artifact(folder, listed), tuple(numbers))

    def discard(self, library: TrialLibrary) -> None:
        """Remove a library that is opened no more: each has all weights of the network, twice."""
        shutil.rmtree(library.artifact.path, ignore_errors=True)


def _kernels_of(target: TargetCard) -> _CpuKernels | _GpuKernels:
    """None yet."""
    if target.gpu is None:
        return _CpuKernels(target.cpu)
    from tsm_edge.compile.backends.cuda.toolchain import check_toolchain

    check_toolchain()
    return _GpuKernels(target.gpu)


@dataclass(frozen=True)
class _CpuKernels:
    """LLVM's objects."""

    cpu: CpuSpec
    objects: tuple[Path, ...] = ()

    def and_others(self, others: Kernels, folder: Path) -> _CpuKernels:
        """With these, too; files go to ``folder``."""
        if not others:
            return self
        from tsm_edge.compile.backends.cpu.llvm import build_kernels

        made = folder / "kernels.o"
        build_kernels({name: spec.write(name) for spec, name in others.items()}, self.cpu).write_to_file(str(made), "o")
        return replace(self, objects=(*self.objects, made))

    def can_run(self, program: Program) -> bool:
        return True

    def write_sources(
        self, folder: Path, network: Network, programs: Sequence[Program], manifest: Manifest
    ) -> tuple[Sequence[Path], Sequence[Path]]:
        from tsm_edge.compile.package.c_tables import write_sources

        plans = [plan_memory(program.workspace) for program in programs]
        return write_sources(folder, network.graph, programs, plans, manifest), self.objects


@dataclass(frozen=True)
class _GpuKernels:
    """PTX that ptxas has looked at.

    There is no machine code: a driver takes the PTX. That of the rules' kernels is a text of its own, which the driver
    compiles once. Kernels that the GPU cannot run are in the other text, and are never launched.
    """

    gpu: GpuSpec
    ptx: tuple[str, ...] = ()
    resources: Mapping[str, KernelResources] = field(default_factory=dict)

    def and_others(self, others: Kernels, folder: Path) -> _GpuKernels:
        """With these, too."""
        if not others:
            return self
        from tsm_edge.compile.backends.cuda.codegen import cuda_source
        from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx
        from tsm_edge.compile.backends.cuda.ptxas import assemble

        source = cuda_source({name: spec.write(name) for spec, name in others.items()}, self.gpu)
        ptx = compile_ptx(source, self.gpu)
        resources = {**self.resources, **assemble(ptx, self.gpu)[1]}
        return replace(self, ptx=(*self.ptx, ptx), resources=resources)

    def can_run(self, program: Program) -> bool:
        from tsm_edge.compile.backends.cuda.ptxas import problem_of

        return not any(problem_of(call, self.resources[call.kernel], self.gpu) for call in program.calls)

    def write_sources(
        self, folder: Path, network: Network, programs: Sequence[Program], manifest: Manifest
    ) -> tuple[Sequence[Path], Sequence[Path]]:
        from tsm_edge.compile.package.device_tables import write_device_sources

        own, *others = self.ptx
        code = DeviceCode(self.gpu.arch, "", own, b"", self.resources, "", "".join(others))
        plans = [plan_memory(program.workspace, GPU_ALIGNMENT) for program in programs]
        return write_device_sources(folder, network.graph, programs, plans, code, manifest), ()


def _with_names(program: Program, names: dict[KernelSpec, str]) -> Program:
    """The program with a kernel name for every spec: the one it has in ``names``, else a new one."""

    def renamed(call: KernelCall) -> KernelCall:
        name = names.setdefault(call.spec, f"tsm_t{len(names)}_{call.spec.rule}")
        return replace(call, kernel=name)

    return replace(program, calls=tuple(map(renamed, program.calls)))
