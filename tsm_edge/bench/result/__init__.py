"""What ``tsm-edge bench`` and ``tsm-runner bench`` write: the frozen dataclasses of a result, to and from JSON.

The dataclasses are the format: every key is a field here, and ``docs/bench.md`` says what each means. Keys end in their
unit (``_ms``, ``_s``, ``_w``, ``_j``, ``_mhz``, ``_c``, ``_mb``). What is not known is null, with the reason beside it.
"""

from tsm_edge.bench.result.document import SCHEMA, Document, from_json, read_document, to_json, write_document
from tsm_edge.bench.result.environment import AlarmCount, Environment
from tsm_edge.bench.result.kernels import KernelFigures, StageFigures
from tsm_edge.bench.result.latency import CameraToLabel, Deadlines, Latency, Refused, Samples, Startup, Yardstick
from tsm_edge.bench.result.power import Power, Watts
from tsm_edge.bench.result.whole import Level, Model, Result, Route, Settings, Verdict, Verification
from tsm_edge.machine.clocks import Core, Gpu, Residency
from tsm_edge.machine.heat import Temperature
from tsm_edge.power.measure import RailPower

__all__ = [
    "SCHEMA",
    "AlarmCount",
    "CameraToLabel",
    "Core",
    "Deadlines",
    "Document",
    "Environment",
    "Gpu",
    "KernelFigures",
    "Latency",
    "Level",
    "Model",
    "Power",
    "RailPower",
    "Refused",
    "Residency",
    "Result",
    "Route",
    "Samples",
    "Settings",
    "StageFigures",
    "Startup",
    "Temperature",
    "Verdict",
    "Verification",
    "Watts",
    "Yardstick",
    "from_json",
    "read_document",
    "to_json",
    "write_document",
]
