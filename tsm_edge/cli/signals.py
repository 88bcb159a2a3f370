"""Ctrl-C, SIGTERM and SIGHUP end a command alike: by an exception, so that what was begun is finished or removed.

systemd, ``docker stop`` and a closed ssh connection send the last two, which by default leave everything as it lies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One event may send two: a terminal that goes (the kernel and the shell), `timeout` (the program and its group).
_ONE_EVENT_S = 0.5
# While a module is imported, so often it is looked whether it still is.
_LOOK_AGAIN_S = 0.01


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Parameters
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__("interrupted" if number == signal.SIGINT else f"ended by {name}")
        self.exit_code = 128 + number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`Stopped` in the block on the first signal; a later one ends the process at once.

    Signals that were ignored before (by ``nohup``, say) stay ignored. Outside the main thread, where Python takes no
    signals, nothing changes. While a module is imported nothing is raised: one in native code that is half made can
    crash (protobuf's did). It is raised when the import is done.

    Raises
    ------
    Stopped
        Also instead of whatever else came of it: an OSError that finishing met with (the terminal it reported to is
        gone), or what native code makes of it where it called back into Python (TVM a RuntimeError).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped: Stopped | None = None
    since_s = 0.0
    is_raised = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped, since_s
        if stopped is None:
            stopped, since_s = Stopped(number), time.monotonic()
            end(number, frame)
        elif time.monotonic() - since_s > _ONE_EVENT_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # only reached as process 1 of a container, which no signal ends

    def end(_number: int, frame: FrameType | None) -> None:
        nonlocal is_raised
        if _is_importing(frame):
            if signal.SIGALRM not in before:
                before[signal.SIGALRM] = signal.signal(signal.SIGALRM, end)
            signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S)
        elif stopped is not None and not is_raised:
            is_raised = True
            raise stopped

    taken = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop) for number in taken}
    try:
        yield
    except Exception as error:
        if stopped is None:
            raise
        raise stopped from error
    finally:
        if signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped is not None and not is_raised:
        raise stopped


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
