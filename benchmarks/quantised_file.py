"""The model as a file of integers, made by ONNX Runtime's own quantiser, for engines that read such files."""

from __future__ import annotations

from pathlib import Path

from engines.base import Floats, OnlineModel
from streams import calibration


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
            self._feeds = calibration(model)

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
