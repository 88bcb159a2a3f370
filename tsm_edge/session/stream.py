"""A stream of a loaded ``model.so``: its caches, its threads, and one call on it at a time."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from tsm_edge.cards.threads import Threads
from tsm_edge.errors import ArtifactError
from tsm_edge.session.affinity import Cores
from tsm_edge.session.base import session_is_closed
from tsm_edge.session.library import Library


class Stream:
    """A ``tsm_stream``: one thread at a time is in a call on it, and it is not freed meanwhile.

    Attributes
    ----------
    lock : threading.RLock
        Held in every call; whoever has it may read what the call has written.
    calls : int
        Kernel calls of a frame.
    """

    def __init__(self, library: Library, threads: Threads, program: int = 0) -> None:
        self._library = library
        self._cores = Cores(threads.cores)
        self._address: int | None = None
        self._in_a_call = False
        self._closing = False
        self.lock = threading.RLock()
        with self._cores.workers_begin():
            self._address = library.open_stream(threads.count, program)
        self.calls = library.calls(self._address)
        _streams.add(self)

    def __del__(self) -> None:
        self.close()

    def call(self, function: Any, *arguments: Any) -> None:
        """``function(stream, *arguments)`` of the library.

        Raises
        ------
        ArtifactError
            It failed, or the stream is closed.
        """
        with self.lock:
            self._refuse_in_a_call()
            try:
                self._in_a_call = True  # from here on no signal handler can close it
                if self._address is None or self._closing:
                    raise session_is_closed()
                if self._cores:
                    self._cores.keep()
                code = function(self._address, *arguments)
            finally:
                self._in_a_call = False
            if code:
                raise self._library.failure(f"check it with: tsm-edge verify {self._library.artifact.path}")

    def close(self) -> None:
        """Free the stream, after the call that another thread is in; closing twice is allowed."""
        self._closing = True  # a thread that steps on and on would take the lock again before this one gets it
        with self.lock:
            try:
                self._refuse_in_a_call()
            except ArtifactError:
                self._closing = False
                raise
            address, self._address = self._address, None
            if address is not None:
                self._library.tsm_close(address)
                self._cores.release()

    def new_lock(self) -> None:
        """In the child of a fork: whoever had the lock may be in the parent."""
        self.lock, self._in_a_call, self._closing = threading.RLock(), False, False

    def _refuse_in_a_call(self) -> None:
        """A signal handler may come in the middle of its own thread's call: to wait for its end would be for ever."""
        if self._in_a_call:
            raise ArtifactError("the session is in the middle of a frame", "use it after that, not in a signal handler")


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def _after_fork() -> None:
    for stream in list(_streams):
        stream.new_lock()


os.register_at_fork(after_in_child=_after_fork)
