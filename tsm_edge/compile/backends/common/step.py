"""A step while it is written down: its calls, weights and choices, and the names of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.common.workspace import Workspace
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.freedom import label_of
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import NOTHING_PACKED, BufferRef, KernelCall, Packed, Program
from tsm_edge.errors import CompileError

_Settings = TypeVar("_Settings")


def too_large(layer: str, kind: np.dtype) -> CompileError:
    """What to say of a layer whose weights, finite in the network, are not as they are stored."""
    return CompileError(
        f"layer {layer}: its weights are too large for {kind}, expected {np.finfo(kind).max:.6g} at most",
        "compile in fp32: leave --precision out"
        if kind == np.float16
        else "train or export the model again, from weights of usual size",
    )


class Step:
    """What came out of a backend's lowering so far.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
    choices : Choices
        Used instead of what the rules would choose, for the kernels that are in it.
    known : Packed
        Weights of these layers that another step packed: they are taken as they are.

    Attributes
    ----------
    workspace : Workspace
    calls : list of KernelCall
    choices : list of Choice
    others : dict of tuple of str to iterable
        By the names of a kernel's layers: other settings of its rule that may be faster, the likeliest first.
    packed : Packed
        By this step, and not by another one.
    """

    def __init__(
        self, graph: OnlineGraph, layers: Sequence[ir.Layer], choices: Choices, known: Packed = NOTHING_PACKED
    ) -> None:
        self.graph = graph
        self.workspace = Workspace()
        self.calls: list[KernelCall] = []
        self._layers = layers
        self._given = choices
        self._weights: list[np.ndarray] = []
        self._beyond: set[int] = set()  # of them, those that are not finite
        self._known = known
        self.packed: dict[tuple[object, ...], np.ndarray] = {}
        self.choices: list[Choice] = []
        self.others: dict[tuple[str, ...], Iterable[object]] = {}
        self._names = ir.layer_names(graph, layers)
        self._kernel_names: dict[KernelSpec, str] = {}

    def call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> None:
        """Add a call; ``buffers`` by the names of the kernel's arguments, more than it has are allowed.

        ``layer`` is for people: a :meth:`label`, or the tensor that a copy makes. Raises as :meth:`made_call`.
        """
        self.calls.append(self.made_call(spec, buffers, layer))

    def made_call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> KernelCall:
        """A call that is not added yet.

        Raises
        ------
        CompileError
            Its weights are larger than their element type can be.
        """
        name = self._kernel_names.setdefault(spec, f"tsm_k{len(self._kernel_names)}_{spec.rule}")
        refs = tuple(buffers[argument.name] for argument in spec.arguments)
        self._refuse_overflow(spec, refs, layer)
        return KernelCall(name, spec, refs, layer)

    def _refuse_overflow(self, spec: KernelSpec, refs: Sequence[BufferRef], layer: str) -> None:
        """A network's own weights are finite; packed, they may have become too large for how they are stored."""
        for argument, ref in zip(spec.arguments, refs, strict=True):
            if argument.role == "weights" and ref.space == "weights" and ref.index in self._beyond:
                raise too_large(layer, self._weights[ref.index].dtype)

    def add_weights(self, packed: np.ndarray) -> BufferRef:
        """Keep packed weights in the model."""
        return self._keep(np.ascontiguousarray(packed).ravel(), new=True)

    def add_packed(self, pack: Callable[..., np.ndarray], spec: KernelSpec, *values: object) -> BufferRef:
        """Keep ``pack(spec, *values)`` in the model: packed before, if the same was."""
        key = (pack, spec, *(id(value) if isinstance(value, np.ndarray) else value for value in values))
        known = self._known.get(key)
        if known is not None:
            return self._keep(known, new=False)
        found = self.packed[key] = np.ascontiguousarray(pack(spec, *values)).ravel()
        return self._keep(found, new=True)

    def _keep(self, packed: np.ndarray, new: bool) -> BufferRef:
        """The array itself: what programs share is known by its identity, and was looked at when it was new."""
        self._weights.append(packed)
        index = len(self._weights) - 1
        if new and packed.dtype.kind == "f" and not np.isfinite(packed).all():
            self._beyond.add(index)
        return BufferRef("weights", index)

    def given(self, layers: Sequence[ir.Layer], kind: type[_Settings]) -> _Settings | None:
        """The settings a rule was told to use for these layers; None: it chooses."""
        return self._given.settings(self._names[layers[-1].output], kind)

    def told(self, layer: ir.Layer) -> Choice | None:
        """The choice of the kernel that computes a layer, if it was given; None: the rules choose."""
        return self._given.of(self._names[layer.output])

    def names_of(self, layers: Sequence[ir.Layer]) -> tuple[str, ...]:
        """As choices have them."""
        return tuple(self._names[layer.output] for layer in layers)

    def chose(
        self, rule: str, layers: Sequence[ir.Layer], settings: object = None, others: Iterable[object] = ()
    ) -> None:
        """Write down what was chosen; ``others``: what else may be, looked at by nobody but a tuner."""
        choice = Choice(rule, self.names_of(layers), settings)
        self.choices.append(choice)
        self.others[choice.layers] = others

    def label(self, layers: Sequence[ir.Layer]) -> str:
        """The network's own names of the layers, for people: :func:`tsm_edge.compile.ir.freedom.label_of`."""
        return label_of([self._names[layer.output] for layer in layers])

    def readers(self, tensor: str) -> set[type]:
        """Kinds of the layers that read a tensor."""
        return {type(layer) for layer in self._layers if tensor in ir.layer_sources(layer)}

    def program(
        self,
        logits: BufferRef,
        caches: tuple[Image, ...],
        precision: Precision,
        frame_logits: BufferRef | None = None,
    ) -> Program:
        """The whole step; see :class:`~tsm_edge.compile.ir.program.Program`.

        Raises
        ------
        CompileError
            Nothing is computed.
        """
        if logits.space != "workspace":
            raise CompileError(
                "the logits are a graph input: there is nothing to compile", "export the model with its classifier"
            )
        frames = None if frame_logits is None else frame_logits.index
        outputs = [logits.index, *([] if frames is None else [frames])]
        return Program(
            calls=tuple(self.calls),
            workspace=self.workspace.buffers(self.calls, outputs),
            weights=tuple(self._weights),
            caches=caches,
            logits=logits.index,
            precision=precision,
            choices=Choices(tuple(self.choices)),
            frame_logits=frames,
        )
