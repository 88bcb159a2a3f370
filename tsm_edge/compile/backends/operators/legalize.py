"""One ONNX operator → plain kernels, by TVM's own importer and operator definitions: the fallback for operators no
schedule rule knows.

The operator becomes a model of one node; TVM imports it, turns it into functions in blocks and fuses them;
``operators.generic`` schedules each function and cuts it into kernels. Every tensor is dense, in ONNX's own layout.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.operators.generic import GenericSpec, Grain, by_tvm, parts_of
from tsm_edge.compile.backends.operators.quiet import without_tvm_warnings
from tsm_edge.compile.backends.operators.statements import NotPlain
from tsm_edge.compile.ir.graph import Node, Shape
from tsm_edge.errors import CompileError

# Operands of one kernel of a long concatenation.
CONCAT_OPERANDS = 6


@dataclass(frozen=True)
class Step:
    """One kernel; ``arguments`` names its buffers: ONNX tensors, and this operator's temporaries and constants."""

    spec: GenericSpec
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Legalized:
    """An operator as kernels.

    Attributes
    ----------
    steps : tuple of Step
        In execution order; empty: the operator does nothing.
    result : str
        The name under which the last step (or, without steps, an operand or constant) holds the result.
    temporaries : dict of str to int
        Bytes of each tensor the kernels hand on.
    constants : dict of str to numpy.ndarray
    """

    steps: tuple[Step, ...]
    result: str
    temporaries: Mapping[str, int]
    constants: Mapping[str, np.ndarray]


def legalize(
    node: Node,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray],
    opset: int,
    items: Grain = "runs",
) -> Legalized:
    """Compile one operator to plain kernels.

    Parameters
    ----------
    node : Node
    shapes : dict of str to tuple of int
        Of its operands and its output; all tensors that are not in ``constants`` are float32.
    constants : dict of str to numpy.ndarray
        Operands known now.
    opset : int
        ONNX operator set the node is written in.
    items : str
        See :func:`~tsm_edge.compile.backends.operators.generic.parts_of`.

    Raises
    ------
    CompileError
        TVM cannot import the operator, or it cannot become plain float32 kernels.
    """
    try:
        with without_tvm_warnings():
            made: Legalized = by_tvm(
                lambda: _Walk(_imported(_model(node, shapes, constants, opset)), node, items).run()
            )
            return made
    except NotPlain as problem:
        raise CompileError(
            f"operator {node.op} ({node.outputs[0]!r}) has no rule, and TVM cannot compile it either: {problem}",
            "export the model without it, or open an issue naming the operator",
        ) from None


def _model(node: Node, shapes: Mapping[str, Shape], constants: Mapping[str, np.ndarray], opset: int) -> Any:
    """An ONNX model of this node alone; operands are renamed, so that equal operators become equal kernels."""
    from onnx import TensorProto, helper, numpy_helper

    domain, _, op = node.op.rpartition(".")
    if domain:
        raise NotPlain(f"{domain} is not a standard ONNX operator domain")
    operands = tuple(dict.fromkeys(name for name in node.inputs if name))
    renamed = {name: f"x{index}" for index, name in enumerate(operands)}
    inputs = [renamed.get(name, "") for name in node.inputs]
    nodes = [helper.make_node(op, inputs, ["y"], **node.attributes)]
    if op == "Concat" and len(inputs) > CONCAT_OPERANDS:
        nodes = _concat_in_groups(inputs, node.attributes["axis"])
    graph = helper.make_graph(
        nodes,
        "operator",
        [
            helper.make_tensor_value_info(renamed[name], TensorProto.FLOAT, shapes[name])
            for name in operands
            if name not in constants
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[node.outputs[0]])],
        [numpy_helper.from_array(constants[name], renamed[name]) for name in operands if name in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _concat_in_groups(inputs: list[str], axis: int) -> list[Any]:
    """A kernel takes few buffers: a long concatenation is done in groups, which are then concatenated."""
    from onnx import helper

    nodes: list[Any] = []
    level = inputs
    while len(level) > 1:
        groups = [level[start : start + CONCAT_OPERANDS] for start in range(0, len(level), CONCAT_OPERANDS)]
        names = [f"part{len(nodes) + index}" for index in range(len(groups))] if len(groups) > 1 else ["y"]
        nodes += [
            helper.make_node("Concat", group, [name], axis=axis) for group, name in zip(groups, names, strict=True)
        ]
        level = names
    return nodes


def _imported(model: Any) -> Any:
    """The model in Relax, as calls of functions in blocks."""
    import tvm
    from tvm.relax import transform
    from tvm.relax.frontend.onnx import from_onnx

    passes = tvm.ir.transform.Sequential(
        [
            transform.LegalizeOps(),
            transform.FoldConstant(),
            transform.AnnotateTIROpPattern(),
            # The groups of a long concatenation must not become one kernel again.
            transform.FuseOps(fuse_opt_level=0 if len(model.graph.node) > 1 else -1),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
    )
    # TVM checks the model again and warns of deprecated operators; and it prints what it cannot convert.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return passes(from_onnx(model))


class _Walk:
    """Follows Relax's ``main`` from call to call."""

    def __init__(self, module: Any, node: Node, items: Grain) -> None:
        self.module = module
        self.node = node
        self.items = items
        self.operands = tuple(dict.fromkeys(name for name in node.inputs if name))
        self.names: dict[Any, tuple[str, ...]] = {}  # Relax variable → names of the tensors it stands for
        self.steps: list[Step] = []
        self.temporaries: dict[str, int] = {}
        self.constants: dict[str, np.ndarray] = {}

    def run(self) -> Legalized:
        main = self.module["main"]
        for parameter in main.params:
            self.names[parameter] = (self.operands[int(parameter.name[1:])],)
        for block in main.body.blocks:
            for binding in block.bindings:
                self.names[binding.var] = self._value(binding.value)
        if str(main.ret_ty.dtype) != "float32":
            raise NotPlain(f"its result is {main.ret_ty.dtype}, and tensors are float32 here")
        (result,) = self._value(main.body.body)
        steps, used = self._needed(result)
        return Legalized(
            steps,
            result,
            {name: size for name, size in self.temporaries.items() if name in used},
            {name: value for name, value in self.constants.items() if name in used},
        )

    def _value(self, value: Any) -> tuple[str, ...]:
        import tvm
        from tvm import relax

        if isinstance(value, relax.Var):
            return self.names[value]
        if isinstance(value, relax.Tuple):
            return tuple(name for item in value.fields for name in self._value(item))
        if isinstance(value, relax.TupleGetItem):
            return (self._value(value.tuple_value)[value.index],)
        if isinstance(value, tvm.ir.GenericConst):
            name = f"constant {len(self.constants)} of {self.node.outputs[0]}"
            self.constants[name] = np.ascontiguousarray(value.value.numpy())
            return (name,)
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            return self._call(value)
        raise NotPlain(f"it needs {getattr(getattr(value, 'op', None), 'name', type(value).__name__)}")

    def _call(self, call: Any) -> tuple[str, ...]:
        """A ``call_tir``: its function's parts, with the call's arguments for the function's parameters."""
        given = [self._value(argument)[0] for argument in call.args[1].fields]
        types = call.ty_args[0]
        outputs = tuple(self._temporary(item) for item in getattr(types, "fields", [types]))
        parts = parts_of(self.module[call.args[0]], self.node.op, self.items)
        bound = {f"p{index}": name for index, name in enumerate((*given, *outputs))}
        for name, size in parts.temporaries.items():
            bound[name] = self._add_temporary(size)
        for part in parts.parts:
            arguments = tuple(bound[name] for name in (*part.reads, *part.writes))
            self.steps.append(Step(part.spec, arguments))
        return outputs

    def _temporary(self, tensor: Any) -> str:
        import tvm

        try:
            count = int(np.prod([int(extent) for extent in tensor.shape], dtype=np.int64))
        except TypeError:
            raise NotPlain("its shapes depend on the data") from None
        return self._add_temporary(count * max(1, tvm.DataType(str(tensor.dtype)).bits // 8))

    def _add_temporary(self, size: int) -> str:
        name = f"part {len(self.temporaries)} of {self.node.outputs[0]}"
        self.temporaries[name] = size
        return name

    def _needed(self, result: str) -> tuple[tuple[Step, ...], set[str]]:
        """Without the steps whose results nobody reads (the running statistics of a batch normalization)."""
        used, kept = {result}, []
        for step in reversed(self.steps):
            arguments = zip(step.spec.arguments, step.arguments, strict=True)
            if used.intersection(name for argument, name in arguments if argument.role == "output"):
                kept.append(step)
                used.update(step.arguments)
        return tuple(reversed(kept)), used
