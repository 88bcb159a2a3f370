"""The model as a file of integers, made by ONNX Runtime's own quantiser, for engines that read such files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engines.base import Floats, OnlineModel
from engines.ort import open_session
from streams import clips


def write_quantised(model: OnlineModel, path: Path) -> None:
    """Write the model with QuantizeLinear and DequantizeLinear around its operators.

    Weights are int8 with a scale for each output channel, activations uint8: what the file's readers are fastest with.
    It is calibrated with the frames that tsm-edge is, the shift caches fed back.
    """
    from tsm_edge.artifact.onnx_runtime import import_onnxruntime

    import_onnxruntime()  # first: its telemetry off
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = _feeds(model)

        def get_next(self) -> dict[str, Floats] | None:
            return next(self._feeds, None)

    quantize_static(
        str(model.path),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _feeds(model: OnlineModel) -> Iterator[dict[str, Floats]]:
    """Inputs of every frame of every clip."""
    session = open_session(model.path, threads=1)
    outputs = [cache.output for cache in model.caches]
    for clip in clips(model.frame_shape):
        caches = [cache.zeros for cache in model.caches]
        for frame in clip:
            inputs = {cache.input: value for cache, value in zip(model.caches, caches, strict=True)}
            inputs[model.frame] = frame
            yield inputs
            caches = session.run(outputs, inputs)
