"""What a session of our server tells of its machine: files, programs' output, power; :mod:`tsm_edge.rpc.machine` asks.

Whoever may open a session may run any program here anyway (see :mod:`tsm_edge.rpc.server`).
"""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable

from tsm_edge.errors import TsmEdgeError
from tsm_edge.power.sampler import SYSTEM_CLOCK, Sampler
from tsm_edge.power.system import LocalSystem, System
from tsm_edge.rpc.handshake import BEGIN_POWER, END_POWER, FIND_FILES, GATHER_FILES, NOW, READ_FILES, RUN_PROGRAM


class ServedMachine:
    """The other end: what a session of our server offers beside TVM's functions. One recording at a time.

    Parameters
    ----------
    system : System, optional
        By default this machine.
    """

    def __init__(self, system: System | None = None) -> None:
        self._system = system or LocalSystem()
        self._sampler: Sampler | None = None

    def functions(self) -> dict[str, Callable[..., str]]:
        """By the names they are registered under; each answers with JSON."""
        return {
            READ_FILES: lambda paths: json.dumps([self._read(path) for path in json.loads(paths)]),
            FIND_FILES: lambda pattern: json.dumps(self._system.find(str(pattern))),
            GATHER_FILES: lambda patterns: json.dumps(self._system.gather(json.loads(patterns))),
            RUN_PROGRAM: lambda words: json.dumps(_attempt(lambda: self._system.run(*json.loads(words)))),
            BEGIN_POWER: lambda sensor: json.dumps(self._begin(str(sensor))),
            END_POWER: lambda: json.dumps(self._end()),
            NOW: lambda: json.dumps(SYSTEM_CLOCK.now()),
        }

    def _read(self, path: str) -> dict[str, object]:
        return _attempt(lambda: self._system.read([path])[0])

    def _begin(self, sensor: str) -> dict[str, object]:
        """Begin a recording; answers with what the sensor is, or with why there is none."""
        from tsm_edge.power.registry import open_sensor

        try:
            self._sampler = Sampler(open_sensor(sensor, self._system))
            self._sampler.__enter__()
        except TsmEdgeError as error:
            return {"problem": error.problem, "hint": error.hint}
        return {"info": dataclasses.asdict(self._sampler.latest.info)}

    def _end(self) -> dict[str, object]:
        if self._sampler is None:
            return {}
        self._sampler.__exit__(None, None, None)
        trace, failure = self._sampler.latest, self._sampler.failure
        self._sampler = None
        return {
            "info": dataclasses.asdict(trace.info),
            "samples": [{"seconds": sample.seconds, "values": sample.values} for sample in trace.samples],
            "failure": "" if failure is None else str(failure),
        }


def _attempt(work: Callable[[], str]) -> dict[str, object]:
    try:
        return {"text": work()}
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "name": str(error.filename or "")}
