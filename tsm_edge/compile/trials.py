"""Libraries for tuning: one ``model.so`` with many programs of a network, which differ in a few kernels each.

Program 0 is the rules' own. The others have other choices for a few kernels; what they share is
there once, so that a device needs few uploads, and what is measured runs inside the whole step.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tsm_edge.artifact.folder import LIBRARY, MANIFEST, MODEL_ONNX, QUANTISATION, Artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.backends.cpu.space import Freedom, freedoms
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layers import Layer
from tsm_edge.compile.ir.memory_plan import plan_memory
from tsm_edge.compile.ir.program import KernelCall, Packed, Program
from tsm_edge.compile.ir.quantisation import Quantisation
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.quantised import quantised
from tsm_edge.compile.recorded import Recorded, recorded_choices
from tsm_edge.compile.records import Record
from tsm_edge.compile.tvm_headers import tvm_ffi_includes
from tsm_edge.errors import TuneError
from tsm_edge.files.atomic import file_sha256


@dataclass(frozen=True, eq=False)
class Network:
    """What is tuned: a compiled model, taken apart again.

    Attributes
    ----------
    manifest : Manifest
        Of the compiled model.
    graph : OnlineGraph
    layers : tuple of Layer
    program : Program
        By the rules.
    freedoms : tuple of Freedom
        For each kernel that there is something to choose for.
    quantisation : Quantisation or None
        Of a network in integers.
    packed : Packed
        The weights of ``program``: others need not pack them again.
    """

    manifest: Manifest
    graph: OnlineGraph
    layers: tuple[Layer, ...]
    program: Program
    freedoms: tuple[Freedom, ...]
    quantisation: Quantisation | None = None
    packed: Packed = field(default_factory=dict)

    def with_choices(self, choices: Choices) -> Program:
        """The program with some choices that are not the rules'.

        Raises
        ------
        CompileError
            They do not fit the model.
        """
        from tsm_edge.compile.backends.cpu.int8.lower import lower_int8
        from tsm_edge.compile.backends.cpu.lower import lower

        target, precision, quantisation = self.manifest.target, self.program.precision, self.quantisation
        if quantisation is None:
            return lower(self.graph, self.layers, target, precision, choices, self.packed)
        return lower_int8(self.graph, self.layers, target, precision, quantisation, choices=choices)

    def recorded(self, records: Iterable[Record]) -> Recorded:
        """The choices that accepted records make for it."""
        target, precision = self.manifest.target, self.program.precision
        return recorded_choices(self.graph, self.layers, target, precision, records, self.quantisation)


def network_of(artifact: Artifact) -> Network:
    """Take a compiled model apart.

    Raises
    ------
    TuneError
        It is for a GPU, whose rules have nothing to choose yet, or takes clips.
    """
    manifest = artifact.manifest
    precision = precision_named(manifest.precision)
    if manifest.target.device != "cpu":
        raise TuneError(f"{artifact.path}: compiled for a GPU; models for CPUs can be tuned", "see: tsm-edge targets")
    if manifest.clip:
        raise TuneError(f"{artifact.path}: takes clips; models of streams can be tuned", "compile with: --mode online")
    graph = load_onnx(artifact.path / MODEL_ONNX, {cache.input: cache.output for cache in manifest.caches})
    layers = tuple(fuse(graph))
    quantisation = None
    if precision.storage == "int8":
        quantisation = quantised(graph, layers, None, artifact.path / QUANTISATION)
    program, free, packed = freedoms(graph, layers, manifest.target, precision, quantisation)
    return Network(manifest, graph, layers, program, free, quantisation, packed)


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
        self._rules_object = folder / "rules.o"
        self._compile(self._rules, self._rules_object)

    def build(self, programs: Sequence[Program]) -> Artifact:
        """Compile programs into one library, behind the rules' own, which is program 0.

        Raises
        ------
        CompileError
            A kernel cannot be compiled or linked.
        """
        from tsm_edge.compile.package.c_tables import write_sources
        from tsm_edge.compile.package.link import link_library

        folder = self._folder / f"trials-{self._built}"
        folder.mkdir()
        self._built += 1
        names = dict(self._rules)
        renamed = [self._network.program, *(_with_names(program, names) for program in programs)]
        objects = [self._rules_object]
        others = {spec: name for spec, name in names.items() if spec not in self._rules}
        if others:
            objects.append(folder / "kernels.o")
            self._compile(others, objects[-1])
        plans = [plan_memory(program.workspace) for program in renamed]
        manifest = dataclasses.replace(self._network.manifest, files={}, tuned=0, threads=None)
        sources = write_sources(folder, self._network.graph, renamed, plans, manifest)
        link_library(folder / LIBRARY, manifest.target, sources, objects, tvm_ffi_includes())
        listed = dataclasses.replace(manifest, files={LIBRARY: file_sha256(folder / LIBRARY)})
        (folder / MANIFEST).write_text(listed.to_json(), "utf-8")
        return Artifact(folder, listed)

    def _compile(self, kernels: Mapping[KernelSpec, str], output: Path) -> None:
        from tsm_edge.compile.backends.cpu.llvm import build_kernels

        functions = {name: spec.write(name) for spec, name in kernels.items()}
        build_kernels(functions, self._network.manifest.target.cpu).write_to_file(str(output), "o")


def _with_names(program: Program, names: dict[KernelSpec, str]) -> Program:
    """The program with a kernel name for every spec: the one it has in ``names``, else a new one."""

    def renamed(call: KernelCall) -> KernelCall:
        name = names.setdefault(call.spec, f"tsm_t{len(names)}_{call.spec.rule}")
        return dataclasses.replace(call, kernel=name)

    return dataclasses.replace(program, calls=tuple(map(renamed, program.calls)))


def differing_calls(program: Program, base: Program) -> tuple[list[int], list[int]]:
    """Numbers of the calls of either that the other does not have: what their times differ by."""
    return _without(program, base), _without(base, program)


def _without(program: Program, other: Program) -> list[int]:
    there = Counter((call.spec, call.layer) for call in other.calls)
    found = []
    for number, call in enumerate(program.calls):
        if there[call.spec, call.layer]:
            there[call.spec, call.layer] -= 1
        else:
            found.append(number)
    return found
