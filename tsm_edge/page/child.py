"""The page's process, seen from the run: started, fed, and started again when it fails."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
from typing import Any

from tsm_edge.page.wire import WITH_PICTURE, pack

# Isolated: until it has our path, a json.py in the user's folder would be taken for Python's.
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tsm_edge.page.process import main; main()"
# For the page to take a message, and to end by itself.
_SEND_S, _END_S = 5.0, 3.0


class Child:
    """A process that serves the page; it ends when its pipe does, whatever became of the run.

    Parameters
    ----------
    listener : socket
        Where it serves; stays open.
    about : dict
        What it is told first (:class:`tsm_edge.page.state.About`).

    Attributes
    ----------
    ready : bool
        It has asked for a message and not got one.
    wants_picture : bool
        Somebody looks.

    Raises
    ------
    OSError
        There is no memory or file for it.
    """

    def __init__(self, listener: socket.socket, about: dict[str, Any]) -> None:
        self.ready = self.wants_picture = False
        self._stream, theirs = socket.socketpair()
        try:
            sockets = [listener.fileno(), theirs.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, json.dumps(sys.path), *map(str, sockets)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=sockets,
            )
        except OSError:
            self._stream.close()
            raise
        finally:
            theirs.close()
        self._stream.settimeout(_SEND_S)
        self._poller = select.poll()
        self._poller.register(self._stream, select.POLLIN)
        try:
            self._stream.sendall(pack(about))
        except OSError:
            self.close()
            raise

    def listen(self) -> None:
        """Take what it has said; does not wait.

        Raises
        ------
        OSError
            It has gone.
        """
        # MSG_DONTWAIT alone would wait: Python looks at the socket's timeout first.
        if not self._poller.poll(0):
            return
        said = self._stream.recv(4096)
        if not said:
            raise ConnectionError("the page's process ended")
        self.ready = True
        self.wants_picture = said.endswith(WITH_PICTURE)

    def send(self, document: dict[str, Any], picture: bytes) -> None:
        """Send a message.

        Raises
        ------
        OSError
            It has gone, or does not take it.
        """
        self.ready = False
        self._stream.sendall(pack(document, picture))

    def close(self) -> None:
        """End it."""
        self._stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # held up in the kernel: the run goes on without it
            self._process.wait(_END_S)
