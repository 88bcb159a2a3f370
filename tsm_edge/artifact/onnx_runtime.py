"""ONNX Runtime as it is used here: without telemetry, and silent.

Importing it creates a device id and a database under ``~/.cache``, unless a variable of the environment forbids it. All
its sessions are therefore made here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

# Fatal: what a session has to say comes back as an exception.
_ONLY_FATAL = 4


def import_onnxruntime() -> Any:
    """Import the module with its telemetry off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ONLY_FATAL)
    return onnxruntime


def session_options() -> Any:
    """Options of a session that prints nothing, to be changed at will."""
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    return options


def open_session(model: bytes | str, options: Any = None, disabled: Sequence[str] = ()) -> Any:
    """Make an ``InferenceSession`` on the CPU.

    Parameters
    ----------
    model : bytes or str
        An ONNX file's content, or its name.
    options : onnxruntime.SessionOptions, optional
        By default those of :func:`session_options`.
    disabled : sequence of str, optional
        Graph optimisations to leave out.
    """
    return import_onnxruntime().InferenceSession(
        model,
        session_options() if options is None else options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled),
    )
