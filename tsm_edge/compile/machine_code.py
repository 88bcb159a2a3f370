"""The two backends as the pipeline sees them: a program for a target, and its kernels as something to link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import GpuSpec, Preprocess, TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Layer
from tsm_edge.compile.ir.memory_plan import ALIGNMENT, GPU_ALIGNMENT, MemoryPlan
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.ir.quantisation import Quantisation


class MachineCode(Protocol):
    """Kernels that were generated, and the tables that call them."""

    @property
    def objects(self) -> tuple[Path, ...]:
        """Object files to link."""
        ...

    @property
    def device(self) -> DeviceCode | None:
        """Of a GPU."""
        ...

    @property
    def compiler(self) -> Mapping[str, str]:
        """Versions of what made it, for the manifest."""
        ...

    def write_sources(
        self, folder: Path, graph: OnlineGraph, program: Program, plan: MemoryPlan, manifest: Manifest
    ) -> tuple[Path, Path]:
        """Write what is compiled and linked with the runtime."""
        ...

    def keep(self, folder: Path) -> None:
        """Write every stage's text, for people."""
        ...


class Backend(Protocol):
    """What turns fused layers into machine code for a target."""

    @property
    def alignment(self) -> int:
        """Bytes that buffers and weights begin on."""
        ...

    def check(self) -> None:
        """Refuse a target or an installation before any work."""
        ...

    def lower(
        self,
        graph: OnlineGraph,
        layers: Sequence[Layer],
        precision: Precision,
        preprocess: Preprocess,
        choices: Choices,
        quantisation: Quantisation | None = None,
    ) -> Program:
        """Choose layouts and kernels, but for what was chosen already; ``quantisation``: of a network in integers."""
        ...

    def generate(self, program: Program, folder: Path, progress: Callable[[int], None]) -> MachineCode:
        """Generate code; files go to ``folder``, ``progress`` is told the number of kernels first."""
        ...


def backend_for(target: TargetCard) -> Backend:
    """The backend of a target's device."""
    return _Cpu(target) if target.gpu is None else _Cuda(target, target.gpu)


@dataclass(frozen=True, eq=False)
class _CpuCode:
    objects: tuple[Path, ...]
    functions: Mapping[str, Any]
    kernels: Any
    device: None = None

    @property
    def compiler(self) -> Mapping[str, str]:
        return {}

    def write_sources(
        self, folder: Path, graph: OnlineGraph, program: Program, plan: MemoryPlan, manifest: Manifest
    ) -> tuple[Path, Path]:
        from tsm_edge.compile.package.c_tables import write_sources

        return write_sources(folder, graph, [program], [plan], manifest)

    def keep(self, folder: Path) -> None:
        text = "\n".join(function.script() for function in self.functions.values())
        (folder / "kernels.tir.py").write_text(text, "utf-8")
        for kind, name in (("ll", "kernels.ll"), ("asm", "kernels.s")):
            (folder / name).write_text(self.kernels.inspect_source(kind), "utf-8")


@dataclass(frozen=True)
class _Cpu:
    target: TargetCard
    alignment: int = ALIGNMENT

    def check(self) -> None:
        from tsm_edge.compile.backends.cpu.llvm import check_cpu

        check_cpu(self.target)

    def lower(
        self,
        graph: OnlineGraph,
        layers: Sequence[Layer],
        precision: Precision,
        preprocess: Preprocess,
        choices: Choices,
        quantisation: Quantisation | None = None,
    ) -> Program:
        from tsm_edge.compile.backends.cpu.int8.lower import lower_for_all
        from tsm_edge.compile.backends.cpu.lower import lower

        if quantisation is None:
            return lower(graph, layers, self.target, precision, choices)
        return lower_for_all(graph, layers, self.target, precision, quantisation, preprocess, choices)

    def generate(self, program: Program, folder: Path, progress: Callable[[int], None]) -> MachineCode:
        from tsm_edge.compile.backends.cpu.llvm import generate

        functions, kernels = generate(program, self.target.cpu, progress)
        sets = {"kernels": kernels}
        if program.newer is not None and self.target.newer_cpu is not None:
            sets["newer-kernels"] = generate(program.newer, self.target.newer_cpu)[1]
        for name, made in sets.items():
            made.write_to_file(str(folder / f"{name}.o"), "o")
        return _CpuCode(tuple(folder / f"{name}.o" for name in sets), functions, kernels)


@dataclass(frozen=True, eq=False)
class _CudaCode:
    device: DeviceCode
    objects: tuple[Path, ...] = ()

    @property
    def compiler(self) -> Mapping[str, str]:
        return {"cuda": self.device.compiler}

    def write_sources(
        self, folder: Path, graph: OnlineGraph, program: Program, plan: MemoryPlan, manifest: Manifest
    ) -> tuple[Path, Path]:
        from tsm_edge.compile.package.device_tables import write_device_sources

        return write_device_sources(folder, graph, [program], [plan], self.device, manifest)

    def keep(self, folder: Path) -> None:
        (folder / "kernels.cu").write_text(self.device.source, "utf-8")


@dataclass(frozen=True)
class _Cuda:
    target: TargetCard
    gpu: GpuSpec
    alignment: int = GPU_ALIGNMENT

    def check(self) -> None:
        from tsm_edge.cards.detect_gpu import detect_gpu
        from tsm_edge.compile.backends.cuda.toolchain import check_toolchain

        check_toolchain()
        if self.target.detect:  # what it should have found is not there
            detect_gpu()

    def lower(
        self,
        graph: OnlineGraph,
        layers: Sequence[Layer],
        precision: Precision,
        preprocess: Preprocess,
        choices: Choices,
        quantisation: Quantisation | None = None,
    ) -> Program:
        from tsm_edge.compile.backends.cuda.lower import lower

        if quantisation is not None:
            raise TypeError("no kernel of a GPU computes in integers")
        return lower(graph, layers, self.target, precision, choices, preprocess=preprocess)

    def generate(self, program: Program, folder: Path, progress: Callable[[int], None]) -> MachineCode:
        from tsm_edge.compile.backends.cuda.generate import generate

        return _CudaCode(generate(program, self.gpu, progress))
