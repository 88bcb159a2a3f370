"""The engines that ``peers.py`` races, one module each, behind :class:`engines.base.Engine`."""

from __future__ import annotations

import importlib

from engines.base import Engine

# Name -> module with a class ``ENGINE``; imported only when asked for, since each pulls in its own runtime.
MODULES = {
    "tsm-edge": "engines.tsm_edge_artifact",
    "onnxruntime": "engines.ort",
    "openvino": "engines.openvino_cpu",
    "executorch": "engines.executorch_xnnpack",
    "litert": "engines.litert_xnnpack",
    "ncnn": "engines.ncnn_cpu",
    "mnn": "engines.mnn_cpu",
}


def load_engine(name: str) -> Engine:
    """Return the engine of this name; its own packages are not imported yet."""
    engine: Engine = importlib.import_module(MODULES[name]).ENGINE
    return engine
