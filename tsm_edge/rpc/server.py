"""``tsm-edge serve``: a server of TVM's RPC that outlives what it is sent, and needs no TVM.

TVM's own Python server waits for a client's first bytes without a limit, its accept loop ends when a session's process
dies, and it is a part of the compiler. Here the accept loop runs none of the clients' code: it shakes hands with a time
limit and gives each session a process of its own, one at a time, so that a crash ends that session only and timings
have the machine to themselves. A second client is told that the device is busy, and one for whom there is no room, why.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tsm_edge.cards.architecture import this_architecture
from tsm_edge.errors import RpcError, TsmEdgeError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.rpc.handshake import BUILD, Greeting, accepted, write_greeting
from tsm_edge.rpc.key import check_key
from tsm_edge.rpc.listener import Listener
from tsm_edge.rpc.place import Endpoint, UnixEndpoint
from tsm_edge.rpc.reception import Guest, Log, Reception
from tsm_edge.rpc.serving import serve_session
from tsm_edge.rpc.session_process import SessionProcess, begin_session
from tsm_edge.rpc.sockets import reason
from tsm_edge.rpc.tracker import Announcement
from tsm_edge.rpc.wire import fault_packet

_TICK_S = 0.5


@dataclass(frozen=True)
class ServeRequest:
    """What to serve.

    Attributes
    ----------
    endpoint : Endpoint or UnixEndpoint
        Where to listen; at anything but a loopback address every machine that reaches it can run programs here. Port
        0: any free one.
    key : str
        What clients must give; for a tracker, the kind of device this is.
    tracker : Endpoint or None
        Announce the device there.
    announced_host : str or None
        The address the tracker shall give to clients; by default the one it sees.
    """

    endpoint: Endpoint | UnixEndpoint
    key: str = ""
    tracker: Endpoint | None = None
    announced_host: str | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.announced_host is not None:
            Endpoint(self.announced_host, 0)  # can it be one?
        if self.tracker is not None and not self.key:
            raise RpcError("a tracker knows devices by their key, and none was given", "name it with: --key K")
        if self.tracker is not None and isinstance(self.endpoint, UnixEndpoint):
            raise RpcError("a tracker's clients cannot reach a Unix socket", "leave out --unix, or --tracker")


class Server:
    """A device server, used as a context manager; :meth:`run` serves until it is interrupted.

    Parameters
    ----------
    request : ServeRequest
    log : callable
        Is given one line for every session's beginning and end, and for clients that are sent away.

    Attributes
    ----------
    endpoint : Endpoint or UnixEndpoint
        Where it listens.
    machine, build : str
        The architecture, and whose RPC is spoken, as clients are told.

    Raises
    ------
    RpcError
        The address cannot be bound, or the system cannot fork.
    TsmEdgeError
        There is no room for temporary files.
    """

    def __init__(self, request: ServeRequest, log: Log) -> None:
        if not hasattr(os, "fork"):
            raise RpcError(
                "this system cannot fork a process for each session", "use TVM's own: python -m tvm.exec.rpc_server"
            )
        self._key = request.key
        self._log = log
        self._session: SessionProcess | None = None
        self._sessions = 0
        self._announced: bool | None = None  # what was logged last
        with contextlib.ExitStack() as stack:
            listener = Listener(request.endpoint)
            stack.callback(listener.close)
            self.endpoint = listener.endpoint
            self.machine, self.build = this_architecture(), BUILD
            self._greeting = accepted(write_greeting(request.key, Greeting(self.machine, self.build)))
            self._work = stack.enter_context(scratch_folder())
            self._selector = selectors.DefaultSelector()
            stack.callback(self._selector.close)
            self._reception = Reception(listener, self._selector, self._expected_key, log)
            stack.callback(self._reception.close)
            self._announcement = _announcement(request, self.endpoint)
            if self._announcement is not None:
                stack.callback(self._announcement.close)
            stack.callback(self._end_session)
            self._stack = stack.pop_all()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session under way, remove its files, and listen no more; closing twice is allowed."""
        self._stack.close()

    def run(self) -> None:
        """Serve until ``KeyboardInterrupt``."""
        if self._announcement is not None:
            self._announcement.offer()
        while True:
            self.turn(_TICK_S)

    def turn(self, wait_s: float) -> None:
        """Do what there is to do; wait so many seconds at most until there is something."""
        for key, _ in self._selector.select(wait_s):
            key.data()
        now_s = time.monotonic()
        self._tend_session(now_s)
        self._reception.tend(now_s)
        if self._session is None and (guest := self._reception.next_guest()) is not None:
            self._begin(guest)
        if self._announcement is not None and self._session is None:
            self._tend_announcement(self._announcement, now_s)

    def _tend_announcement(self, announcement: Announcement, now_s: float) -> None:
        announcement.tend(now_s)
        if self._announced is not announcement.connected:
            self._announced = announcement.connected
            self._log(f"tracker {announcement.tracker}: {'announced' if self._announced else 'not reachable'}")

    def _expected_key(self) -> str:
        return self._announcement.match_key if self._announcement is not None else self._key

    def _begin(self, guest: Guest) -> None:
        number = self._sessions + 1
        limit_s = guest.hello.session_limit_s if guest.hello is not None else None
        try:
            folder, uploads = self._folders(number)

            def serve() -> None:
                """Runs in the session's process."""
                self._selector.close()
                for other in self._reception.streams():
                    other.close()
                serve_session(guest.stream, self._greeting, folder, uploads)

            self._session = begin_session(guest.stream, folder, limit_s, serve)
        except (OSError, TsmEdgeError) as error:
            why = reason(error) if isinstance(error, OSError) else error.problem
            self._turn_away(guest, f"no session can begin on this device ({why})")
            return
        self._sessions = number
        self._selector.register(self._session.ends, selectors.EVENT_READ, lambda: None)  # wakes the loop
        self._log(f"session {number}: {guest.name} connected")

    def _folders(self, number: int) -> tuple[Path, Path]:
        """A name for a session's folder, and the folder of uploads that are kept."""
        if not self._work.is_dir():  # taken by a cleaner of temporary folders
            self._work = self._stack.enter_context(scratch_folder())
        uploads = self._work / "uploads"
        uploads.mkdir(exist_ok=True)
        return self._work / f"session-{number}", uploads

    def _turn_away(self, guest: Guest, why: str) -> None:
        """Shake hands, and answer the first call with an error: in words, which TVM's own client shows as well."""
        self._log(f"{guest.name}: turned away, {why}")
        with guest.stream, contextlib.suppress(OSError):
            guest.stream.send(b"".join([self._greeting, *fault_packet(why).framed()]))
            guest.stream.shutdown(socket.SHUT_WR)

    def _tend_session(self, now_s: float) -> None:
        if self._session is None or not (how := self._session.how_it_ended(now_s)):
            return
        self._log(f"session {self._sessions}: {how}")
        self._forget_session(self._session)
        if self._announcement is not None:
            self._announcement.offer()

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.kill()
            self._forget_session(self._session)

    def _forget_session(self, session: SessionProcess) -> None:
        self._session = None
        self._selector.unregister(session.ends)
        session.clear()


def _announcement(request: ServeRequest, endpoint: Endpoint | UnixEndpoint) -> Announcement | None:
    if request.tracker is None or not isinstance(endpoint, Endpoint):
        return None
    return Announcement(request.tracker, request.key, endpoint.port, request.announced_host)
