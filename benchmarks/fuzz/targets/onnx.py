"""ONNX files: small valid ones with their bytes or their protobuf fields changed, through the compiler's front end.

What is accepted must compute what ONNX Runtime computes of it, and is lowered to kernels; for one input in sixteen
machine code is generated, too.
"""

from __future__ import annotations

import functools
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from benchmarks.fuzz.damage import damaged
from tsm_edge.artifact.onnx_runtime import import_onnxruntime, open_session
from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cpu.llvm import generate
from tsm_edge.compile.backends.cpu.lower import lower
from tsm_edge.compile.frontend.onnx_reader import load_onnx, read_onnx
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.memory_plan import plan_memory
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.export.metadata import read_metadata

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))
from onnx_graphs import GraphBuilder, model_of, small_network

import_onnxruntime()

name = "onnx"

CODE_OF_ONE_IN = 16
CARD = load_target("x86-64-v3")
INTEGERS = (0, 1, -1, 2, -5, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63))
SMALL = (-(2**63), -9, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 12, 1000, 2**31, 2**40)
FLOATS = (0.0, -1.0, math.nan, math.inf, -math.inf, 3e38, 1e-45)
TEXTS = ("", "\0", "../../../evil", "/etc/passwd", "%s%n", "a" * 5000, "\N{SNOWMAN}", "ai.onnx.ml", "com.microsoft")
FOREIGN = {f"shift_{index}": f"in.{index}" for index in range(3)} | {
    f"shift_{index}_next": f"out.{index}" for index in range(3)
}
OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))


@dataclass(frozen=True)
class Given:
    """A file's content, and whether machine code is made of it."""

    data: bytes
    code: bool


def make(seed: int) -> Given:
    """A changed model."""
    chance = random.Random(seed)
    model = chance.choice(_models())
    if chance.random() < 0.3:
        data = damaged(model.SerializeToString(), chance)
    else:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choice((_change_a_field, _change_a_constant, _change_an_attribute))(changed, chance)
        data = changed.SerializePartialToString()
    return Given(data, code=seed % CODE_OF_ONE_IN == 0)


def run(given: Given) -> None:
    """Read, fuse and lower, as ``tsm-edge compile --onnx`` does."""
    path = Path("out") / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(given.data)
    read_metadata(path)
    graph = load_onnx(path)
    _check_rewritten(path, graph)
    program = lower(graph, fuse(graph), CARD, FP32)
    plan_memory(program.workspace)
    if given.code:
        generate(program, CARD.cpu)


def _check_rewritten(path: Path, graph: OnlineGraph) -> None:
    """The graph computes what ONNX Runtime computes of the file, where that runs at all."""
    generator = np.random.default_rng(0)
    names = [graph.frame, *(cache.input for cache in graph.caches)]
    feed = {name: generator.normal(0, 1, graph.shapes[name]).astype(np.float32) for name in names}
    outputs = [graph.logits, *(cache.output for cache in graph.caches)]
    try:
        expected = open_session(read_onnx(path)[0].SerializeToString()).run(outputs, feed)
    except Exception:  # noqa: BLE001 - an operator refuses its operands only when it runs
        return
    found = open_session(model_of(graph).SerializeToString()).run(outputs, feed)
    for name, ours, theirs in zip(outputs, found, expected, strict=True):
        scale = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-3))
        if not np.allclose(ours, theirs, rtol=0, atol=1e-4 * scale, equal_nan=True):
            raise ValueError(f"{name!r} is computed wrongly: {np.abs(ours - theirs).max()} off, of {scale}")


@functools.cache
def _models() -> tuple[onnx.ModelProto, ...]:
    return (small_network(), small_network(names=FOREIGN), _others(20), _others(13), _moving())


def _others(opset: int) -> onnx.ModelProto:
    """Operators the fallback compiles, and element-wise ones."""
    graph = GraphBuilder(10, 12, opset=opset)
    x = graph.conv(graph.frame, 8, 3, 2)
    x = graph.node("Sigmoid", [graph.shift(x, 2)], graph.shapes[x])
    x = graph.node("AveragePool", [x], graph.shapes[x], kernel_shape=[3, 3], pads=[1] * 4)
    x = graph.node("Softmax", [x], graph.shapes[x], axis=1)
    x = graph.node("Pad", [x, graph.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64")], (1, 8, 7, 8))
    x = graph.node("Reshape", [x, graph.constant([1, 8, 8, 7], "int64")], (1, 8, 8, 7))
    x = graph.node("Transpose", [x], (1, 7, 8, 8), perm=[0, 3, 1, 2])
    return graph.model(graph.head(x, 3))


def _moving() -> onnx.ModelProto:
    """The shift as exporters write it: splits, scatters between transposes, means of means, bounds of one element."""
    graph = GraphBuilder(6, 8)
    x = graph.conv(graph.frame, 8)
    x = graph.node("Clip", [x, graph.constant([0.0]), graph.constant([6.0])], graph.shapes[x])
    cache = graph.cache((1, 2, 6, 8))
    graph.feed_back(cache, graph.node("Gather", [x, graph.constant([0, 1], "int64")], (1, 2, 6, 8), axis=1))
    turned = graph.node("Transpose", [cache], (2, 1, 6, 8), perm=[1, 0, 2, 3])
    y = graph.node("Transpose", [x], (8, 1, 6, 8), perm=[1, 0, 2, 3])
    y = graph.node("ScatterND", [y, graph.constant([[0], [1]], "int64"), turned], (8, 1, 6, 8))
    y = graph.node("Transpose", [y], (1, 8, 6, 8), perm=[1, 0, 2, 3])
    y = graph.node("Concat", [graph.channels(y, 4, 8), graph.channels(y, 0, 4)], (1, 8, 6, 8), axis=1)
    y = graph.conv(y, 8)
    for axis in (3, 2):
        axes = graph.constant([axis], "int64")
        y = graph.node("ReduceMean", [y, axes], (1, 8, 6) if axis == 3 else (1, 8), keepdims=0)
    return graph.model(graph.dense(y, 3))


def _change_a_field(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change one field of one message, all messages being equally likely but for weights, which are many."""
    messages: list[Message] = []
    _collect(model, messages)
    message = chance.choice(messages)
    # Mostly a field that is there: another would seldom get beyond the first check.
    there = [field for field, _ in message.ListFields()]
    field = chance.choice(there if there and chance.random() < 0.8 else message.DESCRIPTOR.fields)
    if field.is_repeated:
        _change_list(getattr(message, field.name), field, model, chance)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if chance.random() < 0.5:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), model, chance))


def _change_a_constant(model: onnx.ModelProto, chance: random.Random) -> None:
    """Another value, another shape or another element type, all valid by themselves."""
    if not model.graph.initializer:
        return
    tensor = chance.choice(model.graph.initializer)
    try:
        value = onnx.numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError, AttributeError, KeyError):  # changed before
        return
    match chance.randrange(4):
        case 0 if value.size:
            whole = value.dtype.kind in "iu"
            value.flat[chance.randrange(value.size)] = chance.choice(SMALL if whole else FLOATS)
        case 1:
            value = value.reshape(chance.choice((value.shape[::-1], (-1,), (1, *value.shape), (*value.shape, 1))))
        case 2:
            value = value.astype(chance.choice(("float16", "float64", "int64", "float32")), copy=False)
        case _ if value.ndim:
            value = value[: chance.randrange(len(value) + 1)]
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def _change_an_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    """Another value of the same type."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if not attributes:
        return
    attribute = chance.choice(attributes)
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(SMALL)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = chance.choice(FLOATS)
    else:
        attribute.i = chance.choice(SMALL)


def _collect(message: Message, found: list[Message]) -> None:
    found.append(message)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value if field.is_repeated else [value]:
                _collect(item, found)


def _change_list(items: Any, field: Any, model: onnx.ModelProto, chance: random.Random) -> None:
    position = chance.randrange(len(items)) if len(items) else 0
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    match chance.randrange(4):
        case 0 if len(items):
            del items[position]
        case 1 if len(items):
            items.append(items[position])
        case 2 if len(items) > 1 and not is_message:
            other = chance.randrange(len(items))
            items[position], items[other] = items[other], items[position]
        case _ if is_message:
            items.add()
        case _ if len(items):
            items[position] = _value(field, items[position], model, chance)
        case _:
            items.append(_value(field, field.default_value or None, model, chance))


def _value(field: Any, now: Any, model: onnx.ModelProto, chance: random.Random) -> Any:
    """Another value for a field."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return damaged(now, chance) if now else chance.randbytes(chance.choice((0, 1, 4, 64)))
        return chance.choice((*TEXTS, *_names(model), *chance.sample(OPERATORS, 20)))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice(field.enum_type.values).number
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    low, high = (0, 2**bits) if "UINT" in _KINDS[kind] else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return chance.choice([value for value in (*INTEGERS, (now or 0) + 1, (now or 0) - 1) if low <= value < high])


_KINDS: dict[int, str] = {
    getattr(FieldDescriptor, key): key for key in dir(FieldDescriptor) if key.startswith("CPPTYPE_")
}


def _names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of all tensors."""
    return tuple(dict.fromkeys(output for node in model.graph.node for output in (*node.input, *node.output)))
