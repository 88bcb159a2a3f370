"""The engines that ``peers.py`` races, one module each, behind :class:`engines.base.Engine`."""

from __future__ import annotations

import importlib

from engines.base import Engine

PRECISIONS = ("fp32", "fp16", "int8")
# Name -> module with ``ENGINES``, one for each precision it has. Imported when asked for: each pulls in a runtime.
MODULES = {
    "tsm-edge": "engines.tsm_edge_artifact",
    "onnxruntime": "engines.ort",
    "openvino": "engines.openvino_cpu",
    "executorch": "engines.executorch_xnnpack",
    "litert": "engines.litert_xnnpack",
    "ncnn": "engines.ncnn_cpu",
    "mnn": "engines.mnn_cpu",
    "pytorch": "engines.pytorch",
}
# In int8 these read a file that is quantised already; the others quantise the float model by their own means.
READ_QUANTISED = ("onnxruntime", "openvino")


def precisions_of(name: str) -> tuple[str, ...]:
    """Return the precisions that an engine of this name is measured in."""
    return tuple(importlib.import_module(MODULES[name]).ENGINES)


def load_engine(name: str, precision: str = "fp32") -> Engine:
    """Return the engine of this name; its own packages are not imported yet."""
    engine: Engine = importlib.import_module(MODULES[name]).ENGINES[precision]
    return engine
