"""Brings events to one receiver, in their order, in a thread of its own: again and again until they arrive."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from tsm_edge.events.outbox import Letter, Outbox

# Twice as long after each failure, up to the longest; jitter keeps many devices from coming back at one moment.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _JITTER = 0.5, 60.0, 0.25
# At the end of a run, for what still waits.
_GRACE_S = 3.0
_LOOK_S = 1.0


class NotNow(Exception):
    """The receiver cannot be reached, or says that it cannot take an event now."""


class Refused(Exception):
    """The receiver will never take this event."""


class Receiver(Protocol):
    """Somebody who is told of events.

    Attributes
    ----------
    name : str
        For people and metrics.
    """

    name: str

    def deliver(self, letter: Letter) -> None:
        """Return once the event has arrived.

        Raises
        ------
        NotNow, OSError
            It is to be tried again.
        Refused
            It is given up.
        """

    def close(self) -> None:
        """Let go of the receiver."""


@dataclass(frozen=True)
class Counts:
    """What became of events.

    Attributes
    ----------
    name : str
    delivered, retries, waiting, lost : int
        Arrived; tries that failed; on their way; given up.
    trouble : str
        Why the latest try failed; empty: it did not.
    """

    name: str
    delivered: int
    retries: int
    waiting: int
    lost: int
    trouble: str = ""


class Courier:
    """A receiver with its outbox.

    Parameters
    ----------
    receiver : Receiver
        Closed by this object.
    outbox : Outbox
        Closed by this object.
    """

    def __init__(self, receiver: Receiver, outbox: Outbox) -> None:
        self._receiver = receiver
        self._outbox = outbox
        self._delivered = self._retries = self._refused = 0
        self._stopping = threading.Event()
        self._until_s = float("inf")
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name=f"tsm-edge-{receiver.name}", daemon=True)
        self._thread.start()

    def put(self, letter: Letter) -> None:
        """Add an event; returns at once."""
        self._outbox.put(letter)

    @property
    def counts(self) -> Counts:
        """What became of events so far."""
        lost = self._outbox.lost + self._refused
        return Counts(self._receiver.name, self._delivered, self._retries, len(self._outbox), lost, self._trouble)

    def close(self) -> None:
        """Deliver what waits, for some seconds; then let go."""
        self._until_s = time.monotonic() + _GRACE_S
        self._stopping.set()
        self._outbox.end()
        # A receiver may hang for as long as its own time limit; the thread ends with the process.
        self._thread.join(2 * _GRACE_S)

    def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while time.monotonic() < self._until_s:
            letter = self._outbox.oldest(_LOOK_S)
            if letter is None:
                if self._stopping.is_set():
                    break
                continue
            if self._try(letter):
                pause_s = _FIRST_PAUSE_S
                continue
            self._retries += 1
            self._pause(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._receiver.close()
        self._outbox.close()

    def _try(self, letter: Letter) -> bool:
        try:
            self._receiver.deliver(letter)
            self._delivered += 1
        except Refused as why:
            self._refused += 1
            self._trouble = str(why)
        except (NotNow, OSError) as why:
            self._trouble = str(why)
            return False
        except Exception as why:  # noqa: BLE001 - whatever it is, this thread goes on for months
            self._trouble = f"{type(why).__name__}: {why}"
            return False
        else:
            self._trouble = ""
        self._outbox.done(letter)
        return True

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; at the end of a run not for long."""
        until_s = time.monotonic() + seconds
        while not self._stopping.is_set() and (left_s := until_s - time.monotonic()) > 0:
            self._outbox.keep(min(left_s, _LOOK_S))
        if self._stopping.is_set():
            time.sleep(min(seconds, _FIRST_PAUSE_S))


def plain(counts: Counts) -> dict[str, Any]:
    """For JSON."""
    return {
        "name": counts.name,
        "delivered": counts.delivered,
        "retries": counts.retries,
        "waiting": counts.waiting,
        "lost": counts.lost,
        "trouble": counts.trouble,
    }
