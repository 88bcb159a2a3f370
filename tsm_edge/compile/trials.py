"""What is tuned: a compiled network taken apart again, and programs of it that differ in a few kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tsm_edge.artifact.folder import MODEL_ONNX, QUANTISATION, Artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.freedom import Freedom
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Layer
from tsm_edge.compile.ir.program import Packed, Program
from tsm_edge.compile.ir.quantisation import Quantisation
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.quantised import quantised
from tsm_edge.compile.recorded import Recorded, recorded_choices
from tsm_edge.compile.records import Record
from tsm_edge.errors import TuneError


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
        from tsm_edge.compile.backends.cuda.lower import lower as lower_cuda

        target, precision, quantisation = self.manifest.target, self.program.precision, self.quantisation
        if target.gpu is not None:
            return lower_cuda(self.graph, self.layers, target, precision, choices)
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
        It takes clips.
    """
    from tsm_edge.compile.backends.cpu import space as cpu
    from tsm_edge.compile.backends.cuda import space as cuda

    manifest = artifact.manifest
    target, precision = manifest.target, precision_named(manifest.precision)
    if manifest.clip:
        raise TuneError(f"{artifact.path}: takes clips; models of streams can be tuned", "compile with: --mode online")
    graph = load_onnx(artifact.path / MODEL_ONNX, {cache.input: cache.output for cache in manifest.caches})
    layers = tuple(fuse(graph))
    if target.gpu is not None:
        program, free = cuda.freedoms(graph, layers, target, precision)
        return Network(manifest, graph, layers, program, free)
    quantisation = None
    if precision.storage == "int8":
        quantisation = quantised(graph, layers, None, artifact.path / QUANTISATION)
    program, free, packed = cpu.freedoms(graph, layers, target, precision, quantisation)
    return Network(manifest, graph, layers, program, free, quantisation, packed)


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
