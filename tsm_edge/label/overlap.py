"""An iterator that works ahead in a thread of its own, but only so far."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

_T = TypeVar("_T")
# How often the thread looks whether anybody still wants what it makes, seconds; how long its end is waited for.
_LOOK_S, _END_S = 0.1, 5.0


class _End:
    """What comes after the last item."""


def ahead(source: Generator[_T, None, None], depth: int) -> Generator[_T, None, None]:
    """Yield what ``source`` yields, which runs in a thread meanwhile; at most ``depth`` items wait.

    An error in the source is raised here, after what came before it. Closing this closes the source, in its thread.

    Parameters
    ----------
    source : generator
    depth : int
        At least 1.
    """
    waiting: queue.Queue[_T | _End | BaseException] = queue.Queue(depth)
    unwanted = threading.Event()

    def work() -> None:
        last: _End | BaseException = _End()
        try:
            for item in source:
                if not _put(waiting, item, unwanted):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            last = error
        finally:
            source.close()
        _put(waiting, last, unwanted)

    thread = threading.Thread(target=work, name="tsm-edge-decode", daemon=True)
    thread.start()
    try:
        yield from _taken(waiting)
    finally:
        unwanted.set()
        thread.join(_END_S)


def _taken(waiting: queue.Queue[_T | _End | BaseException]) -> Iterator[_T]:
    while True:
        item = waiting.get()
        if isinstance(item, _End):
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def _put(waiting: queue.Queue[_T], item: _T, unwanted: threading.Event) -> bool:
    """Put an item, as soon as there is room; False: nobody wants it any more."""
    while not unwanted.is_set():
        try:
            waiting.put(item, timeout=_LOOK_S)
            return True
        except queue.Full:
            continue
    return False
