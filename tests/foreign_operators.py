"""Operators of other people's networks, on a pair of tensors: what the fallback compiles, and element-wise rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx_graphs import GraphBuilder

SHAPE = (1, 6, 8, 10)
# Makes a tensor of SHAPE from two of SHAPE: x from a ReLU, y of both signs.
Operator = Callable[[GraphBuilder, str, str], str]


def integers(graph: GraphBuilder, *values: int) -> str:
    return graph.constant(list(values), np.int64)


def layer_normalization(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Transpose", [y], (1, 8, 10, 6), perm=[0, 2, 3, 1])
    t = g.node("LayerNormalization", [t, g.random(6), g.random(6)], (1, 8, 10, 6), axis=-1)
    return g.node("Transpose", [t], SHAPE, perm=[0, 3, 1, 2])


def channel_shuffle(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Reshape", [y, integers(g, 1, 2, 3, 8, 10)], (1, 2, 3, 8, 10))
    t = g.node("Transpose", [t], (1, 3, 2, 8, 10), perm=[0, 2, 1, 3, 4])
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def attention(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Transpose", [x], (1, 6, 10, 8), perm=[0, 1, 3, 2])
    t = g.node("Softmax", [g.node("MatMul", [y, t], (1, 6, 8, 8))], (1, 6, 8, 8), axis=-1)
    return g.node("MatMul", [t, x], SHAPE)


def matmul_of_a_matrix(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Flatten", [g.node("Squeeze", [y, integers(g, 0)], SHAPE[1:])], (6, 80), axis=1)
    t = g.node("MatMul", [t, g.random(80, 80, scale=0.1)], (6, 80))
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def relu_of_a_matrix(g: GraphBuilder, y: str) -> str:
    t = g.node("Relu", [g.node("Reshape", [y, integers(g, 6, 80)], (6, 80))], (6, 80))
    t = g.node("Min", [g.node("Max", [t, g.random(6, 80)], (6, 80)), g.random(6, 80)], (6, 80))
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def up_and_down(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Resize", [y, "", g.constant([1, 1, 2, 2])], (1, 6, 16, 20), mode="linear")
    return g.node("AveragePool", [t], SHAPE, kernel_shape=[2, 2], strides=[2, 2])


def pad_and_slice(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Pad", [y, integers(g, 0, 0, 1, 2, 0, 0, 0, 1)], (1, 6, 9, 13))
    return g.node("Slice", [t, integers(g, 0, 1), integers(g, 8, 11), integers(g, 2, 3)], SHAPE)


def concat_of_thirteen(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Concat", [x, *[g.conv(y, 1)] * 11, g.conv(x, 1)], (1, 18, 8, 10), axis=1)
    return g.channels(t, 12, 18)


def transposed_convolution(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("ConvTranspose", [y, g.random(6, 4, 2, 2)], (1, 4, 16, 20), strides=[2, 2])
    return g.conv(t, 6, 3, 2)


def spatial_attention(g: GraphBuilder, x: str, y: str) -> str:
    return g.node("Mul", [y, g.node("ReduceMax", [x, integers(g, 1)], (1, 1, 8, 10))], SHAPE)


def dilated_convolution(g: GraphBuilder, x: str, y: str) -> str:
    return g.node("Conv", [x, g.random(6, 6, 3, 3)], SHAPE, kernel_shape=[3, 3], pads=[2] * 4, dilations=[2, 2])


GENERIC: dict[str, Operator] = {
    "average pool": lambda g, x, y: g.node("AveragePool", [y], SHAPE, kernel_shape=[3, 3], pads=[1] * 4),
    "dilated convolution": dilated_convolution,
    "layer normalization between transposes": layer_normalization,
    "instance normalization": lambda g, x, y: g.node("InstanceNormalization", [y, g.random(6), g.random(6)], SHAPE),
    "softmax over channels": lambda g, x, y: g.node("Softmax", [y], SHAPE, axis=1),
    "resize up, pool down": up_and_down,
    "pad and slice": pad_and_slice,
    "gather with negative indices": lambda g, x, y: g.node(
        "Gather", [y, integers(g, 5, -2, 0, 1, -6, 2)], SHAPE, axis=1
    ),
    "channel shuffle": channel_shuffle,
    "attention": attention,
    "matmul of a matrix": matmul_of_a_matrix,
    "concat of 13 tensors": concat_of_thirteen,
    "transposed convolution": transposed_convolution,
    "spatial attention": spatial_attention,
    "dilated max pool": lambda g, x, y: g.node(
        "MaxPool", [y], SHAPE, kernel_shape=[3, 3], dilations=[2, 2], pads=[2] * 4
    ),
    "gelu": lambda g, x, y: g.node("Gelu", [y], SHAPE),
    "sum of 11 tensors": lambda g, x, y: g.node("Sum", [x, *(g.conv(y, 6) for _ in range(10))], SHAPE),
    "global max pool, added": lambda g, x, y: g.add(y, g.node("GlobalMaxPool", [y], (1, 6, 1, 1))),
    "relu of a matrix": lambda g, x, y: relu_of_a_matrix(g, y),
    "tanh": lambda g, x, y: g.node("Tanh", [y], SHAPE),
    "exp": lambda g, x, y: g.node("Exp", [y], SHAPE),
    "add a whole constant": lambda g, x, y: g.node("Add", [y, g.random(*SHAPE)], SHAPE),
}

ELEMENTWISE: dict[str, Operator] = {
    "add": lambda g, x, y: g.add(x, y),
    "add and relu": lambda g, x, y: g.relu(g.add(g.node("Mul", [x, x], SHAPE), y)),
    "sub from a number": lambda g, x, y: g.node("Sub", [g.constant(1.0), y], SHAPE),
    "mul": lambda g, x, y: g.node("Mul", [x, y], SHAPE),
    "mul by a channel's constant": lambda g, x, y: g.node("Mul", [y, g.random(6, 1, 1)], SHAPE),
    "div": lambda g, x, y: g.node("Div", [y, g.node("Add", [x, g.constant(2.0)], SHAPE)], SHAPE),
    "max": lambda g, x, y: g.node("Max", [x, y], SHAPE),
    "min": lambda g, x, y: g.node("Min", [x, y], SHAPE),
    "relu": lambda g, x, y: g.relu(g.node("Mul", [y, x], SHAPE)),
    "clip": lambda g, x, y: g.clip(g.add(y, x), 0.25, 0.5),
    "leaky relu": lambda g, x, y: g.node("LeakyRelu", [y], SHAPE, alpha=0.3),
    "prelu": lambda g, x, y: g.node("PRelu", [y, g.random(6, 1, 1)], SHAPE),
    "hard sigmoid": lambda g, x, y: g.node("HardSigmoid", [y], SHAPE),
    "hard swish": lambda g, x, y: g.node("HardSwish", [y], SHAPE),
    "sigmoid": lambda g, x, y: g.node("Sigmoid", [y], SHAPE),
    "sigmoid of large values": lambda g, x, y: g.node("Sigmoid", [g.node("Mul", [y, g.constant(100.0)], SHAPE)], SHAPE),
    "batch normalization": lambda g, x, y: g.node(
        "BatchNormalization", [g.add(y, x), *(g.random(6) for _ in range(3)), g.constant(np.arange(1, 7))], SHAPE
    ),
    "then padded": lambda g, x, y: g.depthwise(g.node("Sigmoid", [y], SHAPE)),
}


def operators_model(operators: dict[str, Operator]) -> onnx.ModelProto:
    """All operators on one pair of tensors; each result is a next cache, so that it can be looked at."""
    graph = GraphBuilder(16, 20)
    x, y = graph.relu(graph.conv(graph.frame, 6, 3, 2)), graph.conv(graph.frame, 6, 3, 2)
    for operator in operators.values():
        graph.feed_back(graph.cache(SHAPE), operator(graph, x, y))
    return graph.model(graph.head(x, 5))
