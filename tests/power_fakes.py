"""Sensors without hardware: a clock that tests turn, a power that is known at every moment, trees of kernel files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loopback import Handler, address, http_server, running

from tsm_edge.power.sensor import Quantity, Rail, SensorInfo
from tsm_edge.power.system import LocalSystem

IDLE_W = 4.0


class StepClock:
    """Time that passes only while the main thread sleeps, and then as fast as the sampling thread takes its samples.

    Parameters
    ----------
    on_time : callable
        Told every moment before the sampling thread goes on.
    """

    def __init__(self, on_time: Callable[[float], None] = lambda moment: None) -> None:
        self._on_time = on_time
        self._time = 0.0
        self._asleep_until = 0.0
        self._changed = threading.Condition()
        self._sampler_waits = False

    def now(self) -> float:
        """Seconds."""
        return self._time

    def sleep(self, seconds: float) -> None:
        """Let the sampling thread take all samples of this time."""
        with self._changed:
            self._asleep_until += seconds
            self._sampler_waits = False
            self._changed.notify_all()
            # A sampler that failed does not wait any more: then time passes without it.
            while not self._sampler_waits and _sampler_lives():
                self._changed.wait(0.005)
            self._time = self._asleep_until
            self._on_time(self._time)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Pass to the next sample, or wait where it lies beyond what the main thread sleeps."""
        due = self._time + max(0.0, seconds)
        with self._changed:
            while due > self._asleep_until and not stop.is_set():
                self._sampler_waits = True
                self._changed.notify_all()
                self._changed.wait(0.005)
            if not stop.is_set():
                self._time = max(self._time, due)
                self._on_time(self._time)
        return stop.is_set()


def _sampler_lives() -> bool:
    return any(thread.name == "power sampler" for thread in threading.enumerate())


@dataclass(frozen=True)
class KnownPower:
    """The power of a board that idles, works and idles again.

    Attributes
    ----------
    work_from, work_to : float
        Seconds.
    """

    work_from: float
    work_to: float

    def watts(self, moment: float) -> float:
        """4 W idle; while working 9 W and a wave of 1 W."""
        if not self.work_from < moment < self.work_to:
            return IDLE_W
        return 9.0 + math.sin(self._phase(moment))

    def joules(self, moment: float) -> float:
        """Energy since time 0."""
        worked = min(max(moment, self.work_from), self.work_to)
        wave = (1 - math.cos(self._phase(worked))) * (self.work_to - self.work_from) / self._turns
        return IDLE_W * moment + 5.0 * (worked - self.work_from) + wave

    @property
    def gross_j(self) -> float:
        """Of the work."""
        return self.joules(self.work_to) - self.joules(self.work_from)

    @property
    def net_j(self) -> float:
        """Of the work, less idling as long."""
        return self.gross_j - IDLE_W * (self.work_to - self.work_from)

    @property
    def _turns(self) -> float:
        return 7.0

    def _phase(self, moment: float) -> float:
        return self._turns * (moment - self.work_from) / (self.work_to - self.work_from)


class MovingCounters(LocalSystem):
    """A tree whose energy counters go on a little whenever they are read.

    Attributes
    ----------
    step : int
        In the counter's unit; 0: they stand still.
    """

    step = 1

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._reads = 0

    def read(self, paths: Sequence[str]) -> list[str]:
        """As the files are, and what was added."""
        self._reads += 1
        return [
            str(int(text) + self._reads * self.step) if path.endswith("/energy_uj") and text.isdigit() else text
            for path, text in zip(paths, super().read(paths), strict=True)
        ]


def write_tree(root: Path, files: Mapping[str, object]) -> None:
    """Write small files below ``root``, by their absolute path on the machine."""
    for path, text in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not emptied first: ext4 would wait for the disk each time.
        with open(os.open(place, os.O_WRONLY | os.O_CREAT, 0o644), "w") as file:
            file.write(f"{text}\n")
            file.truncate()


@dataclass
class FakeSensor:
    """A sensor that answers what it is told.

    Attributes
    ----------
    answer : callable
        Called for each reading.
    """

    answer: Callable[[], tuple[float, ...]]
    quantity: Quantity = "power"
    period_s: float = 0.1
    rails: tuple[Rail, ...] = (Rail("supply"),)
    closed: bool = field(default=False)

    @property
    def info(self) -> SensorInfo:
        """Of a board."""
        return SensorInfo("fake", self.rails, "board", "all", self.quantity, self.period_s, None, "none")

    def read(self) -> tuple[float, ...]:
        """The answer."""
        return self.answer()

    def close(self) -> None:
        """Note it."""
        self.closed = True


@dataclass
class Plug:
    """A plug on loopback.

    Attributes
    ----------
    answer : callable
        From the path of a request to a status and an object for JSON, or bytes as they are.
    requests : list of str
        Paths that were asked for.
    """

    answer: Callable[[str], tuple[int, object]]
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving_plug(answer: Callable[[str], tuple[int, object]]) -> Iterator[Plug]:
    """Run a plug's HTTP server on loopback."""
    plug = Plug(answer)

    class PlugHandler(Handler):
        def do_GET(self) -> None:
            plug.requests.append(self.path)
            status, found = plug.answer(self.path)
            self.answer(found if isinstance(found, bytes) else json.dumps(found).encode(), status)

    with running(http_server(PlugHandler)) as server:
        plug.url = address(server)
        yield plug
