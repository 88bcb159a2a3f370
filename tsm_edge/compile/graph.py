"""ONNX file → a checked, simplified operator graph with its shift caches recognised.

The graph is ONNX's own (nodes, constants, static shapes), after ONNX Runtime's standard-operator simplification
(constant folding, batch-norm folding, identity removal), so that foreign exports look like ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsm_edge.errors import ModelFileError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
# The first in which everything read here takes the form it has now.
OLDEST_OPSET = 13


@dataclass(frozen=True)
class CachePair:
    """One shift cache: a graph input and the output fed back to it for the next frame (NCHW, float32)."""

    input: str
    output: str
    shape: Shape


@dataclass(frozen=True)
class Node:
    """One ONNX operator with its attributes as plain Python values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class OnlineGraph:
    """An online TSM network: one frame and the caches in, logits and the next caches out.

    Attributes
    ----------
    nodes : tuple of Node
        In execution order.
    constants : dict of str to numpy.ndarray
        Weights and other constants by tensor name.
    shapes : dict of str to tuple of int
        Static shape of every tensor.
    frame, logits : str
        Names of the frame input (float32, NCHW, batch 1) and of the logits output (float32, [1, classes]).
    caches : tuple of CachePair
    sha256 : str
        Of the ONNX file.
    opset : int
        ONNX operator set the nodes are written in.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    frame: str
    logits: str
    caches: tuple[CachePair, ...]
    sha256: str
    opset: int

    def is_output(self, tensor: str) -> bool:
        """Whether ``tensor`` is the logits or a next cache."""
        return tensor == self.logits or any(tensor == cache.output for cache in self.caches)


def load_onnx(path: Path, cache_names: Mapping[str, str] | None = None) -> OnlineGraph:
    """Read an online TSM model from an ONNX file, ours or foreign.

    Parameters
    ----------
    path : Path
        The ONNX file; inputs must have static shapes.
    cache_names : mapping of str to str, optional
        Cache input name → cache output name. Without it, names that follow tsm-edge's export
        (``shift_i`` / ``shift_i_next``) are used, else inputs and outputs of equal shape are paired in order.

    Raises
    ------
    ModelFileError
        Not ONNX, dynamic shapes, no single 4-D frame input, or caches that cannot be told apart.
    """
    model, data = read_onnx(path)
    _drop_constant_inputs(model)
    model = _modernised(model)
    inputs = _io_shapes(path, model, model.graph.input)
    outputs = _io_shapes(path, model, model.graph.output, infer=True)
    caches = _pair_caches(path, inputs, outputs, cache_names)
    frame, logits = _frame_and_logits(path, inputs, outputs, caches)
    simplified = _simplify(path, model)
    return OnlineGraph(
        nodes=tuple(_nodes(simplified)),
        constants=_constants(simplified),
        shapes=_shapes(path, simplified),
        frame=frame,
        logits=logits,
        caches=caches,
        sha256=hashlib.sha256(data).hexdigest(),
        opset=_opset(simplified),
    )


def read_onnx(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """Read and check an ONNX file.

    Returns
    -------
    (onnx.ModelProto, bytes)
        The model with its weights inside, and the same as a file: the file's own bytes, unless it keeps weights in
        other files.

    Raises
    ------
    ModelFileError
        There is no such file, or it is not a valid ONNX model.
    """
    import onnx

    if not path.is_file():
        raise ModelFileError(f"{path}: no such file", "make one with: tsm-edge export -o model.onnx")
    try:
        data = path.read_bytes()
        stored = onnx.load_from_string(data)
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - onnx raises many kinds for a file that is not a valid model
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(f"{path}: not a valid ONNX model ({reason})") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in stored.graph.initializer):
        data = model.SerializeToString(deterministic=True)
    return model, data


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer was an input too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _modernised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operator set 13 if it is in an older one: Slice, Clip and others had attributes for inputs there."""
    import onnx
    import onnx.version_converter

    if _opset(model) >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except RuntimeError:  # an operator it cannot convert: it may be one that did not change
        return model


def _opset(model: onnx.ModelProto) -> int:
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)


def _io_shapes(path: Path, model: onnx.ModelProto, values: Any, infer: bool = False) -> dict[str, Shape]:
    import onnx

    shapes: dict[str, Shape] = {}
    inferred = {}
    if infer:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        inferred = {value.name: value for value in (*graph.output, *graph.value_info)}
    for value in values:
        tensor = inferred.get(value.name, value).type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            raise ModelFileError(f"{path}: {value.name!r} is not float32; tsm-edge compiles float32 models")
        dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
        if not all(dims):
            raise ModelFileError(
                f"{path}: {value.name!r} has a dynamic shape; expected fixed sizes with batch 1",
                "export again without dynamic axes",
            )
        shapes[value.name] = tuple(dims)
    return shapes


def _pair_caches(
    path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], named: Mapping[str, str] | None
) -> tuple[CachePair, ...]:
    if named:
        for kind, names, known in (("input", named, inputs), ("output", named.values(), outputs)):
            for name in names:
                if name not in known:
                    raise ModelFileError(f"{path}: --cache names {kind} {name!r}; known are {', '.join(known)}")
        pairs = [(name, named[name]) for name in inputs if name in named]
    elif any(f"{name}_next" in outputs for name in inputs):
        pairs = [(name, f"{name}_next") for name in inputs if f"{name}_next" in outputs]
    else:
        pairs = _pair_by_shape(path, inputs, outputs)
    for source, sink in pairs:
        if inputs[source] != outputs[sink]:
            raise ModelFileError(
                f"{path}: cache {source!r} is {list(inputs[source])} but {sink!r} is {list(outputs[sink])}; "
                "a cache keeps its shape"
            )
    return tuple(CachePair(source, sink, inputs[source]) for source, sink in pairs)


def _pair_by_shape(path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> list[tuple[str, str]]:
    """Pair the k-th input of a shape with the k-th output of that shape."""
    free = list(outputs)
    pairs = []
    for name, shape in inputs.items():
        match = next((output for output in free if outputs[output] == shape), None)
        if match is not None:
            free.remove(match)
            pairs.append((name, match))
    if len(pairs) != len(inputs) - 1:
        raise ModelFileError(
            f"{path}: cannot tell the caches from the frame: {len(inputs)} inputs, {len(pairs)} of which have an "
            "output of the same shape (expected all but the frame)",
            "name them with --cache INPUT=OUTPUT",
        )
    return pairs


def _frame_and_logits(
    path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], caches: tuple[CachePair, ...]
) -> tuple[str, str]:
    frames = [name for name in inputs if name not in {cache.input for cache in caches}]
    logits = [name for name in outputs if name not in {cache.output for cache in caches}]
    if len(frames) != 1 or len(inputs[frames[0]]) != 4 or inputs[frames[0]][:2] != (1, 3):
        shown = ", ".join(f"{name} {list(inputs[name])}" for name in frames) or "none"
        raise ModelFileError(f"{path}: expected one frame input [1, 3, height, width], found {shown}")
    if len(logits) != 1 or int(np.prod(outputs[logits[0]])) != outputs[logits[0]][-1]:
        shown = ", ".join(f"{name} {list(outputs[name])}" for name in logits) or "none"
        raise ModelFileError(f"{path}: expected one logits output [1, classes], found {shown}")
    return frames[0], logits[0]


def _simplify(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic graph optimisation; it keeps to standard ONNX operators."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    # These two move additions and activations into forms that are not standard ONNX.
    disabled = ["ConvActivationFusion", "ConvAddActivationFusion"]
    with tempfile.TemporaryDirectory(prefix="tsm-edge-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "simplified.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
            )
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exception types are not public
            raise ModelFileError(f"{path}: ONNX Runtime refuses the model ({str(error).splitlines()[0]})") from None
        return onnx.load(options.optimized_model_filepath)


def _nodes(model: onnx.ModelProto) -> list[Node]:
    import onnx

    return [
        Node(
            op=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={item.name: onnx.helper.get_attribute_value(item) for item in node.attribute},
            name=node.name,
        )
        for node in model.graph.node
        if node.op_type != "Constant"
    ]


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            with contextlib.suppress(KeyError):
                values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
                constants[node.output[0]] = onnx.numpy_helper.to_array(values["value"])
    return constants


def _shapes(path: Path, model: onnx.ModelProto) -> dict[str, Shape]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    for node in graph.node:
        for name in node.output:
            if name and not all(shapes.get(name, (0,))):
                raise ModelFileError(f"{path}: the shape of {name!r} ({node.op_type}) depends on the data")
    return shapes
