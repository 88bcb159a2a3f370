"""ONNX file → a checked, simplified operator graph with its shift caches recognised.

The file is checked before anything is done with it: what it asks for in memory, weights that are no numbers, operators
of training. Half and double precision become float32. ONNX Runtime's standard-operator simplification (constant
folding, batch-norm folding, identity removal) and ``rewrite.py`` make foreign exports look like ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsm_edge.artifact.onnx_runtime import import_onnxruntime, open_session, session_options
from tsm_edge.compile.frontend.cache_pairs import pair_caches
from tsm_edge.compile.frontend.clips import averaged
from tsm_edge.compile.frontend.convolutions import check_convolutions
from tsm_edge.compile.frontend.qdq import AS_PAIRS, settled, without_pairs
from tsm_edge.compile.frontend.rewrite import SCALAR_INPUTS, rewritten
from tsm_edge.compile.ir.graph import OLDEST_OPSET, CachePair, Node, OnlineGraph, Shape
from tsm_edge.errors import ModelFileError, TsmEdgeError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.disk import no_room, temporary_place
from tsm_edge.files.impostors import impostor
from tsm_edge.files.paths import native_path

if TYPE_CHECKING:
    import onnx

# Elements of one tensor: 512 MiB of float32, as 64 channels of half a 4K frame's height and width have.
MOST_ELEMENTS = 2**27
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
STANDARD = ("", "ai.onnx")
_NO_NUMBERS = "train or export the model again, from weights that are numbers"
_EXPORT_AGAIN = "export the model again, or make one with: tsm-edge export -o model.onnx"


def load_onnx(path: Path, cache_names: Mapping[str, str] | None = None, clips: bool = False) -> OnlineGraph:
    """Read a TSM model from an ONNX file, ours or foreign.

    Parameters
    ----------
    path : Path
        The ONNX file; inputs must have static shapes.
    cache_names : mapping of str to str, optional
        Cache input name → cache output name. Without it, see :mod:`tsm_edge.compile.frontend.cache_pairs`.
    clips : bool
        A batch is the frames of a clip; otherwise only a batch of 1 is read.

    Raises
    ------
    ModelFileError
        Not ONNX, dynamic or impossible shapes, weights that are no numbers, no single 4-D frame input, or caches that
        cannot be told apart.
    """
    model, data = read_onnx(path)
    with _in_words(path):
        _drop_constant_inputs(model)
        _refuse_training(path, model)
        model = _modernised(model)
        inferred = _checked_shapes(path, model)
        inputs = _float_shapes(path, model.graph.input, inferred)
        outputs = _float_shapes(path, model.graph.output, inferred)
    caches = pair_caches(path, inputs, outputs, cache_names)
    frame, logits = _frame_and_logits(path, inputs, outputs, caches, clips)
    with _in_words(path):
        simplified = _simplify(path, model)
        graph = OnlineGraph(
            nodes=tuple(_nodes(path, simplified)),
            constants=_constants(simplified),
            shapes=_shapes(path, simplified),
            frame=frame,
            logits=logits,
            caches=caches,
            sha256=hashlib.sha256(data).hexdigest(),
            opset=_opset(simplified),
        )
    _refuse_no_numbers(path, graph.constants, "folded into the next layer (a variance below zero?) ")
    _refuse_infinite(path, graph)
    _refuse_constant_outputs(path, graph)
    check_convolutions(path, graph)
    return averaged(settled(path, rewritten(path, without_pairs(path, graph))))


def read_onnx(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """Read and check an ONNX file.

    Returns
    -------
    (onnx.ModelProto, bytes)
        The model in float32 with its weights inside, and the same as a file: the file's own bytes, unless it keeps
        weights in other files or in another precision.

    Raises
    ------
    ModelFileError
        There is no such file, it is not a valid ONNX model, or a weight is not a number.
    """
    import onnx

    from tsm_edge.compile.frontend.float32 import in_float32

    if not path.is_file():
        raise ModelFileError(f"{path}: no such file", "make one with: tsm-edge export -o model.onnx")
    with _in_words(path):
        try:
            data = path.read_bytes()
            _refuse_impostor(path, data)
            stored = onnx.load_from_string(data)
            model = onnx.load(native_path(path))  # ONNX looks for weights in files beside it
        except OSError as error:  # the file, or one beside it with the weights
            raise ModelFileError(
                f"{error.filename or path}: cannot be read ({error.strerror})", _EXPORT_AGAIN
            ) from None
        onnx.checker.check_model(model)
        converted = in_float32(model) | _with_scalars(model)
        _refuse_no_numbers(path, _constants(model))
        if converted or any(item.data_location == onnx.TensorProto.EXTERNAL for item in stored.graph.initializer):
            data = model.SerializeToString(deterministic=True)
    return model, data


def _refuse_impostor(path: Path, data: bytes) -> None:
    instead = impostor(data[:512])
    if instead == "a Git LFS pointer":
        raise ModelFileError(f"{path}: is {instead}, not the model", "fetch it with: git lfs pull")
    if instead:
        raise ModelFileError(
            f"{path}: is {instead} that came in place of the model",
            "open the link in a browser, or use the site's own download tool",
        )


def _with_scalars(model: onnx.ModelProto) -> bool:
    """Make scalars of shapes like [1, 1] where ONNX wants one: ONNX Runtime takes [1] at most. Whether any was."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = False
    for node in model.graph.node:
        for index in SCALAR_INPUTS.get(node.op_type, ()):
            tensor = tensors.get(node.input[index]) if index < len(node.input) else None
            if tensor is not None and len(tensor.dims) > 1 and all(extent == 1 for extent in tensor.dims):
                scalar = model.graph.initializer.add()
                scalar.CopyFrom(tensor)
                scalar.ClearField("dims")
                scalar.name = node.input[index] = f"{tensor.name} {index} of {node.output[0]}"
                found = True
    return found


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """ONNX's and protobuf's many kinds of error for a file that is no valid model, as one line."""
    try:
        yield
    except (TsmEdgeError, MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - they have no common base below Exception
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ModelFileError(f"{path}: not a valid ONNX model ({reason})", _EXPORT_AGAIN) from None


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer was an input too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _refuse_training(path: Path, model: onnx.ModelProto) -> None:
    """A batch normalization that updates its statistics, a dropout that drops."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        training = node.op_type == "BatchNormalization" and (
            attributes.get("training_mode", 0) or sum(map(bool, node.output)) > 1
        )
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in constants:
            training = bool(onnx.numpy_helper.to_array(constants[node.input[2]]).any())
        if training:
            raise ModelFileError(
                f"{path}: operator {node.op_type} ({node.name or node.output[0]!r}) is in training mode",
                "call model.eval() and export again",
            )


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
    return max((item.version for item in model.opset_import if item.domain in STANDARD), default=1)


def _checked_shapes(path: Path, model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes as ONNX infers them, 0 for a size that is not known; none is negative or beyond all reason."""
    inferred = _inferred(model)
    for tensor in (*model.graph.initializer, *(item.values for item in model.graph.sparse_initializer)):
        inferred[tensor.name] = tuple(tensor.dims)
    for item in model.graph.sparse_initializer:
        inferred[item.values.name] = tuple(item.dims)
    for name, shape in inferred.items():
        if min(shape, default=0) < 0 or math.prod(size or 1 for size in shape) > MOST_ELEMENTS:
            raise ModelFileError(
                f"{path}: {name!r} is {list(shape)}: expected sizes of at least 1, and at most {MOST_ELEMENTS} values",
                "take smaller frames, or of a clip fewer: --frame-size PIXELS, --frames N",
            )
    return inferred


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _float_shapes(path: Path, values: Iterable[onnx.ValueInfoProto], inferred: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of inputs or outputs, all of them known, float32."""
    import onnx

    shapes: dict[str, Shape] = {}
    for value in values:
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            name = onnx.TensorProto.DataType.Name(kind).lower() if kind else value.type.WhichOneof("value") or "nothing"
            raise ModelFileError(
                f"{path}: {value.name!r} is not float32 but {name}", "export again with float32 inputs and outputs"
            )
        shape = inferred.get(value.name, ())
        if not shape or not all(shape):
            raise ModelFileError(
                f"{path}: {value.name!r} has a dynamic shape; expected fixed sizes with batch 1",
                "export again without dynamic axes",
            )
        shapes[value.name] = shape
    return shapes


def _frame_and_logits(
    path: Path,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    caches: tuple[CachePair, ...],
    clips: bool,
) -> tuple[str, str]:
    """Names of what a step takes beside the caches, and of the logits; refused where a model has others."""
    frames = [name for name in inputs if name not in {cache.input for cache in caches}]
    logits = [name for name in outputs if name not in {cache.output for cache in caches}]
    one = frames[0] if len(frames) == 1 and len(inputs[frames[0]]) == 4 else None
    several = one is not None and inputs[one][0] > 1 and not caches
    if one is not None and several and clips:  # pictures, or fields of optical flow
        if len(logits) != 1 or len(outputs[logits[0]]) != 2 or outputs[logits[0]][0] != inputs[one][0]:
            raise ModelFileError(
                f"{path}: expected one logits output [{inputs[one][0]}, classes], found {_listed(logits, outputs)}",
                "export again with the logits of every frame alone, before they are averaged",
            )
    elif one is None or inputs[one][:2] != (1, 3):
        raise _no_frame(path, _listed(frames, inputs), several, clips and not caches)
    elif len(logits) != 1 or math.prod(outputs[logits[0]]) != outputs[logits[0]][-1]:
        raise ModelFileError(
            f"{path}: expected one logits output [1, classes], found {_listed(logits, outputs)}",
            "export again with the logits alone; name the caches beside them with: --cache INPUT=OUTPUT",
        )
    return one, logits[0]


def _no_frame(path: Path, found: str, is_clip: bool, clip_wanted: bool) -> ModelFileError:
    """The error that a model does not take what it should."""
    expected = "frame input [1, 3, height, width]"
    hint = "export again with one RGB frame; name the caches beside it with: --cache INPUT=OUTPUT"
    if is_clip and not clip_wanted:
        hint = "compile it as a clip of frames with: --mode offline"
    elif clip_wanted:
        expected = "clip input [frames, 3, height, width]"
        hint = "export again with a clip's frames as the batch"
    return ModelFileError(f"{path}: expected one {expected}, found {found}", hint)


def _listed(names: list[str], shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shapes[name])}" for name in names) or "none"


def _simplify(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Again where a shape is left unknown: functions of ONNX are only written out in the first go."""
    simplified = _simplified(path, model)
    known = _inferred(simplified)
    if all(all(known.get(name, (0,))) for node in simplified.graph.node for name in node.output if name):
        return simplified
    return _simplified(path, simplified)


def _simplified(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic graph optimisation; it keeps to standard ONNX operators."""
    import onnx

    options = session_options()
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    # These two move additions and activations into forms that are not standard ONNX.
    disabled = ["ConvActivationFusion", "ConvAddActivationFusion"]
    content = model.SerializeToString()
    with scratch_folder() as folder:
        # ONNX Runtime would only say that something failed.
        if full := no_room([temporary_place()], len(content)):
            raise full
        options.optimized_model_filepath = str(folder / "simplified.onnx")
        try:
            open_session(content, options, disabled)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exception types are not public
            raise ModelFileError(
                f"{path}: ONNX Runtime refuses the model ({str(error).strip().splitlines()[0]})", _EXPORT_AGAIN
            ) from None
        return onnx.load(options.optimized_model_filepath)


def _nodes(path: Path, model: onnx.ModelProto) -> list[Node]:
    import onnx

    for node in model.graph.node:
        if node.domain not in STANDARD:
            raise ModelFileError(
                f"{path}: operator {node.domain}.{node.op_type} ({node.output[0]!r}) is not a standard ONNX operator",
                AS_PAIRS
                if node.op_type.startswith("QLinear")
                else "export the model again, and leave out any optimisation of the file for one runtime",
            )
    return [
        Node(
            op=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={item.name: onnx.helper.get_attribute_value(item) for item in node.attribute},
            name=_name_for_people(node.name),
        )
        for node in model.graph.node
        if node.op_type != "Constant"
    ]


def _name_for_people(name: str | bytes) -> str:
    """Without line ends and what no terminal shows; protobuf hands on bytes where a name is not UTF-8."""
    text = name if isinstance(name, str) else name.decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable())


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initializers and the tensors of Constant nodes."""
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values: dict[str, Any] = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if "value" in values:
                constants[node.output[0]] = onnx.numpy_helper.to_array(values["value"])
    return constants


def _refuse_no_numbers(path: Path, constants: Mapping[str, np.ndarray], when: str = "") -> None:
    for name, value in constants.items():
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise ModelFileError(f"{path}: weight {name!r} {when}is not a number (NaN)", _NO_NUMBERS)


def _refuse_infinite(path: Path, graph: OnlineGraph) -> None:
    """Weights; a bound or a mask may be infinite."""
    for node in graph.nodes:
        for name in node.inputs if node.op in _WITH_WEIGHTS else ():
            if name in graph.constants and np.isinf(graph.constants[name]).any():
                raise ModelFileError(f"{path}: weight {name!r} is infinite in float32", _NO_NUMBERS)


def _refuse_constant_outputs(path: Path, graph: OnlineGraph) -> None:
    for name in graph.outputs:
        if name in graph.constants:
            raise ModelFileError(
                f"{path}: output {name!r} is a constant, whatever the frame", "export the network itself, in eval mode"
            )


def _shapes(path: Path, model: onnx.ModelProto) -> dict[str, Shape]:
    shapes = _checked_shapes(path, model)
    for node in model.graph.node:
        for name in node.output:
            if name and not all(shapes.get(name, (0,))):
                raise ModelFileError(
                    f"{path}: the shape of {name!r} ({node.op_type}) depends on the data",
                    "write the network with fixed shapes and export it again",
                )
    return shapes
