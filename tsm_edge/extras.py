"""Optional parts of an installation: which packages belong to which extra, and a line for a command that lacks them.

``pip install tsm-edge`` brings what a device needs: run, serve, deploy, and verify with golden frames. Exporting and
compiling need the extra ``compile``, and for GPUs ``cuda``; the live page and MQTT need ``page`` and ``mqtt``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from tsm_edge.errors import TsmEdgeError

# Extra -> the modules its packages bring.
EXTRAS = {
    "compile": ("tvm", "tvm_ffi", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "ziglang"),
    "page": ("tornado",),
    "mqtt": ("paho.mqtt",),
    "cuda": ("nvidia.cuda_nvrtc", "nvidia.cuda_nvcc"),
}


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra are there; none is imported."""
    return not _missing(EXTRAS[extra])


def require(extra: str, purpose: str) -> None:
    """Refuse to go on without an extra; ``purpose`` begins the line: ``tsm-edge compile``.

    Raises
    ------
    TsmEdgeError
        Naming what is missing and the pip command.
    """
    missing = _missing(EXTRAS[extra])
    if missing:
        raise TsmEdgeError(f"{purpose} needs {', '.join(missing)}, which a small install leaves out", _advice(extra))


def line_for(module: str | None) -> str | None:
    """What to say of a module that could not be imported; None: it is part of no extra."""
    top = (module or "").split(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if top in modules), None)
    return None if extra is None else f"{top} is missing, which a small install leaves out; {_advice(extra)}"


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if not _is_there(name)]


def _is_there(module: str) -> bool:
    parent, _, _ = module.rpartition(".")  # find_spec would import it, and fail where it is not there
    return (not parent or _is_there(parent)) and importlib.util.find_spec(module) is not None


def _advice(extra: str) -> str:
    return f"install it with: pip install 'tsm-edge[{extra}]'"
