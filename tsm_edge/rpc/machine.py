"""The machine behind a connection as a benchmark sees it: its files, its clock, its power sensors.

Power is sampled on the device, by a thread of the session's process: this connection is busy while frames are timed.
Of TVM's own server only the time of a round trip is known.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tsm_edge.cards.tables import Place as TablePlace
from tsm_edge.cards.tables import from_table
from tsm_edge.errors import PowerError, RpcError, TsmEdgeError
from tsm_edge.power.measure import Measured, T, energy_report
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock
from tsm_edge.power.sensor import SensorInfo
from tsm_edge.power.trace import Sample, Trace, Window
from tsm_edge.rpc.foreign_text import printable
from tsm_edge.rpc.handshake import (
    BEGIN_POWER,
    END_POWER,
    FIND_FILES,
    GATHER_FILES,
    NOW,
    READ_FILES,
    RUN_PROGRAM,
)

if TYPE_CHECKING:
    from tsm_edge.rpc.device import Device

_SAME_VERSION = "install the same version of tsm-edge on both machines"
_PLACE = TablePlace("the power recording of the device", PowerError, _SAME_VERSION)
_LARGEST_ANSWER = 1 << 26  # bytes: a day of power samples


class RemoteSystem:
    """A :class:`tsm_edge.power.system.System` over RPC, where ``tsm-edge serve`` serves.

    Parameters
    ----------
    device : Device
    """

    here = False

    def __init__(self, device: Device) -> None:
        self._device = device

    def read(self, paths: Sequence[str]) -> list[str]:
        """See :meth:`tsm_edge.power.system.System.read`."""
        return [_text(answer) for answer in _ask(self._device, list, READ_FILES, json.dumps(list(paths)))]

    def find(self, pattern: str) -> list[str]:
        """See :meth:`tsm_edge.power.system.System.find`."""
        return [printable(path) for path in _ask(self._device, list, FIND_FILES, pattern) if isinstance(path, str)]

    def gather(self, patterns: Sequence[str]) -> dict[str, str]:
        """See :meth:`tsm_edge.power.system.System.gather`."""
        found = _ask(self._device, dict, GATHER_FILES, json.dumps(list(patterns)))
        return {printable(path): text for path, text in found.items() if isinstance(text, str)}

    def run(self, program: str, *arguments: str) -> str:
        """See :meth:`tsm_edge.power.system.System.run`."""
        return _text(_ask(self._device, dict, RUN_PROGRAM, json.dumps([program, *arguments])))


class RemoteMeter:
    """A sensor of the device, read there: a :class:`tsm_edge.power.registry.Meter`.

    Parameters
    ----------
    device : Device
    sensor : str
        As a person writes it. It is read from now on.

    Attributes
    ----------
    info : SensorInfo
        What it measures.

    Raises
    ------
    PowerError
        It is not there, or cannot be read.
    """

    def __init__(self, device: Device, sensor: str) -> None:
        self._device = device
        answer = _ask(device, dict, BEGIN_POWER, sensor)
        if "problem" in answer:
            raise PowerError(f"{device.name}: {_word(answer, 'problem')}", _word(answer, "hint"))
        self.info = from_table(SensorInfo, answer.get("info"), _PLACE)

    def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
        """See :func:`tsm_edge.power.measure.measure`; windows are of the device's clock."""
        before = self._idle(idle_s, clock)
        start = self._now()
        result = work()
        watts: tuple[tuple[float, float], ...] = ()
        try:
            active = Window(start, self._now())
            after = self._idle(idle_s, clock)
            trace, failure = _read_trace(_ask(self._device, dict, END_POWER))
            watts = tuple((seconds - start, trace.info.total(values)) for seconds, values in trace.watts())
            if failure:
                return Measured(result, None, failure, watts)
            return Measured(result, energy_report(trace, before, active, after), "", watts)
        except TsmEdgeError as error:
            return Measured(result, None, str(error), watts)

    def close(self) -> None:
        """Nothing: the session's end ends the sampling."""

    def _idle(self, seconds: float, clock: Clock) -> Window:
        start = self._now()
        clock.sleep(seconds)
        return Window(start, self._now())

    def _now(self) -> float:
        """Monotonic seconds of the device."""
        return float(_ask(self._device, float, NOW))


def round_trips_s(device: Device, count: int) -> list[float]:
    """How long a call that does nothing takes, seconds: finding a function that every server has."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        device.find("tvm.rpc.server.load_module")
        times.append(time.perf_counter() - start)
    return times


def _ask(device: Device, kind: type[Any], name: str, *arguments: Any) -> Any:
    """What a function of our server answers, as JSON of a kind."""
    answer = device.call(name, *arguments, answer_size=_LARGEST_ANSWER)
    try:
        value = json.loads(answer) if isinstance(answer, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise RpcError(f"{device.name}: {name} does not answer as tsm-edge does", _SAME_VERSION)
    return value


def _text(answer: Any) -> str:
    """The text of a file or program, or the error that it could not be read."""
    if isinstance(answer, dict) and isinstance(answer.get("text"), str):
        return str(answer["text"])
    number = answer.get("errno") if isinstance(answer, dict) else None
    code = number if isinstance(number, int) else errno.EIO
    raise OSError(code, os.strerror(code), _word(answer, "name"))


def _word(answer: Any, key: str) -> str:
    value = answer.get(key) if isinstance(answer, dict) else None
    return printable(value) if isinstance(value, str) else "unknown"


def _read_trace(table: dict[str, Any]) -> tuple[Trace, str]:
    """A recording, and why it ended early."""
    info = from_table(SensorInfo, table.get("info"), _PLACE)
    samples = tuple(from_table(Sample, sample, _PLACE) for sample in table.get("samples") or ())
    if any(len(sample.values) != len(info.rails) for sample in samples):
        raise _PLACE.error(f" has samples of another number of rails than {len(info.rails)}")
    return Trace(info, samples), str(printable(str(table.get("failure") or "")))
