"""Reads a sensor again and again in a thread, beside what is measured."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol

from tsm_edge.errors import PowerError, TsmEdgeError
from tsm_edge.power.sensor import TRY, Sensor, check_joules, check_watts
from tsm_edge.power.trace import Sample, Trace, Window

# A network's answer may take seconds; after this the thread is left behind (it ends with the process).
_JOIN_S = 15.0


class Clock(Protocol):
    """Time, so that tests can turn it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Let time pass, or less if ``stop`` is set; return whether it is."""


class SystemClock:
    """The clock of this machine. It neither jumps nor runs backwards."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Let time pass, or less if ``stop`` is set; return whether it is."""
        return stop.wait(max(0.0, seconds))


SYSTEM_CLOCK = SystemClock()


class Sampler:
    """Samples a sensor; a context manager.

    The first sample is taken on entering: a sensor that cannot be read is known before anything begins.

    Parameters
    ----------
    sensor : Sensor
        Stays open.
    clock : Clock

    Attributes
    ----------
    failure : TsmEdgeError or None
        Why sampling ended early.
    """

    def __init__(self, sensor: Sensor, clock: Clock = SYSTEM_CLOCK) -> None:
        self._sensor = sensor
        self._clock = clock
        self._samples: list[Sample] = []
        self.failure: TsmEdgeError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._try_take()
        if self.failure is not None:
            raise self.failure
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def idle(self, seconds: float) -> Window:
        """Let time pass while the sensor is read; return which."""
        start = self._clock.now()
        self._clock.sleep(seconds)
        return Window(start, self._clock.now())

    @property
    def latest(self) -> Trace:
        """What was sampled up to now, even if reading failed since."""
        return Trace(self._sensor.info, tuple(self._samples))

    def trace(self) -> Trace:
        """All samples.

        Raises
        ------
        PowerError
            The sensor could not be read at some moment: there is no energy of a part of the time.
        """
        if self.failure is not None:
            raise self.failure
        return self.latest

    def _run(self) -> None:
        period = self._sensor.info.period_s
        due = self._samples[0].seconds + period
        while not self._clock.wait(due - self._clock.now(), self._stop):
            if not self._try_take():
                return
            # Beats that were missed are left out, not made up for: two samples at once say no more than one.
            due += period * max(1, 1 + (self._clock.now() - due) // period)

    def _try_take(self) -> bool:
        try:
            self._take()
        except TsmEdgeError as error:
            self.failure = error
            return False
        return True

    def _take(self) -> None:
        """Read once; what cannot be true is refused here, for every sensor alike."""
        info = self._sensor.info
        before = self._clock.now()
        try:
            values = self._sensor.read()
        except OSError as error:
            raise PowerError(f"power sensor {info.name} cannot be read any more ({_reason(error)})", TRY) from None
        sample = Sample((before + self._clock.now()) / 2, values)
        last = self._samples[-1] if self._samples else sample
        if info.quantity == "power":
            check_watts(info, values)
        else:
            check_joules(info, last.values, values, sample.seconds - last.seconds)
        self._samples.append(sample)


def _reason(error: OSError) -> str:
    thing = f"{error.filename}: " if error.filename is not None else ""
    return f"{thing}{error.strerror or error}"
