"""``tsm-edge serve``: a TVM RPC server that outlives what it is sent.

TVM's own Python server waits for a client's first bytes without a limit, and its accept loop ends when a session's
process dies. Here the accept loop runs none of the clients' code: it shakes hands with a time limit and gives each
session a process of its own, one at a time, so that a crash ends that session only and timings have the machine to
themselves. A second client is told that the device is busy.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tsm_edge.errors import RpcError
from tsm_edge.machine import this_architecture
from tsm_edge.rpc.greeting import Greeting, installed_build, write_greeting
from tsm_edge.rpc.key import check_key
from tsm_edge.rpc.place import DEFAULT_PORT, Endpoint
from tsm_edge.rpc.serving import load_runtime, serve_session
from tsm_edge.rpc.tracker import Announcement
from tsm_edge.rpc.wire import CODE_ACCEPTED, CODE_DUPLICATE, CODE_MISMATCH, MAGIC, last_line

Log = Callable[[str], None]

_TICK_S = 0.5
_HANDSHAKE_S = 5.0
_BUSY_GRACE_S = 1.0  # a session that has just ended may take a moment to go
_LONGEST_KEY = 4096
_MOST_GREETINGS = 32


@dataclass(frozen=True)
class ServeRequest:
    """What to serve.

    Attributes
    ----------
    host : str
        Address to bind; anything but a loopback address lets every machine that reaches it run programs here.
    port : int
        0: any free one.
    key : str
        What clients must give; for a tracker, the kind of device this is.
    tracker : Endpoint or None
        Announce the device there.
    announced_host : str or None
        The address the tracker shall give to clients; by default the one it sees.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    key: str = ""
    tracker: Endpoint | None = None
    announced_host: str | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.tracker is not None and not self.key:
            raise RpcError("a tracker knows devices by their key, and none was given", "name it with: --key K")


@dataclass
class _Guest:
    """A connection before its session begins."""

    stream: socket.socket
    name: str
    deadline_s: float
    data: bytearray = field(default_factory=bytearray)

    def words(self) -> list[str] | None:
        """What the client said: ``client:KEY`` and options; None: not all of it is there yet.

        Raises
        ------
        ValueError
            It does not speak TVM's RPC.
        """
        if len(self.data) < 8:
            if not struct.pack("<i", MAGIC).startswith(bytes(self.data[:4])):
                raise ValueError("it does not speak TVM's RPC")
            return None
        magic, length = struct.unpack_from("<ii", self.data)
        if magic != MAGIC or not 0 <= length <= _LONGEST_KEY:
            raise ValueError("it does not speak TVM's RPC")
        if len(self.data) < 8 + length:
            return None
        return bytes(self.data[8 : 8 + length]).decode("utf-8", "replace").split() or [""]

    def missing(self) -> int:
        """How many bytes may be read without taking any of the session's."""
        if len(self.data) < 8:
            return 8 - len(self.data)
        return int(8 + struct.unpack_from("<i", self.data, 4)[0] - len(self.data))


@dataclass
class _Session:
    """A session's process."""

    number: int
    process: int
    ends: int  # a pipe whose other end only that process has: readable when it is gone
    folder: Path
    began_s: float
    deadline_s: float | None
    overdue: bool = False


class Server:
    """A device server; :meth:`run` serves until it is interrupted.

    Parameters
    ----------
    request : ServeRequest
    log : callable
        Is given one line for every session's beginning and end.

    Attributes
    ----------
    endpoint : Endpoint
        Where it listens.
    machine, build : str
        The architecture and the TVM build, as clients are told.

    Raises
    ------
    RpcError
        The address cannot be bound, TVM is not installed, or the system cannot fork.
    """

    def __init__(self, request: ServeRequest, log: Log) -> None:
        if not hasattr(os, "fork"):
            raise RpcError(
                "this system cannot fork a process for each session", "use TVM's own: python -m tvm.exec.rpc_server"
            )
        self._request = request
        self._log = log
        self._listener = _bind(request)
        self.endpoint = Endpoint(request.host, self._listener.getsockname()[1])
        try:
            load_runtime()  # once, for all sessions
        except (ImportError, OSError, RuntimeError) as error:
            self._listener.close()
            raise RpcError(
                f"TVM cannot be loaded ({last_line(str(error))})", "install it with: pip install apache-tvm"
            ) from None
        self.machine, self.build = this_architecture(), installed_build()
        self._greeting = write_greeting(request.key, Greeting(self.machine, self.build)).encode()
        self._selector = selectors.DefaultSelector()
        self._guests: dict[int, _Guest] = {}
        self._waiting: list[tuple[_Guest, float]] = []
        self._session: _Session | None = None
        self._sessions = 0
        self._announcement: Announcement | None = None
        if request.tracker is not None:
            self._announcement = Announcement(request.tracker, request.key, self.endpoint.port, request.announced_host)
        self._listener.listen(16)  # before anybody is told the address; who connects now waits for ``run``

    def run(self) -> None:
        """Serve until ``KeyboardInterrupt`` (Ctrl-C, or ``SIGTERM``); ends the session under way, removes its files."""
        work = Path(tempfile.mkdtemp(prefix="tsm-edge-serve-"))
        (work / "uploads").mkdir()
        with _terminated_as_interrupted():
            try:
                self._selector.register(self._listener, selectors.EVENT_READ)
                if self._announcement is not None:
                    self._announcement.offer()
                self._loop(work)
            finally:
                self._close(work)

    def _loop(self, work: Path) -> None:
        told: bool | None = None
        while True:
            for key, _ in self._selector.select(_TICK_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd in self._guests:
                    self._listen_to(self._guests[key.fd])
            now_s = time.monotonic()
            self._tend_session(now_s)
            for guest in [guest for guest in self._guests.values() if guest.deadline_s < now_s]:
                self._dismiss(guest, "said nothing that TVM's RPC begins with")
            self._admit(work, now_s)
            if self._announcement is not None and self._session is None:
                self._announcement.tend(now_s)
                if told is not self._announcement.connected:
                    told = self._announcement.connected
                    self._log(f"tracker {self._announcement.tracker}: {'announced' if told else 'not reachable'}")

    def _accept(self) -> None:
        try:
            stream, address = self._listener.accept()
        except OSError:
            return  # it went away again
        if len(self._guests) >= _MOST_GREETINGS:
            stream.close()
            return
        stream.setblocking(False)
        guest = _Guest(stream, str(Endpoint(*address[:2])), time.monotonic() + _HANDSHAKE_S)
        self._guests[stream.fileno()] = guest
        self._selector.register(stream, selectors.EVENT_READ)

    def _listen_to(self, guest: _Guest) -> None:
        try:
            block = guest.stream.recv(guest.missing())
            guest.data += block
            words = guest.words()
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._dismiss(guest, str(error))
            return
        if words is not None:
            self._forget(guest)
            if words[0] == f"client:{self._expected_key()}":
                self._waiting.append((guest, time.monotonic() + _BUSY_GRACE_S))
            else:
                self._log(f"{guest.name}: refused, wrong key")
                _refuse(guest, CODE_MISMATCH)
        elif not block:
            self._dismiss(guest, "")

    def _expected_key(self) -> str:
        return self._announcement.match_key if self._announcement is not None else self._request.key

    def _admit(self, work: Path, now_s: float) -> None:
        """Begin a session for the guest who waits longest; tell those that wait too long that the device is busy."""
        if self._waiting and self._session is None:
            guest, _ = self._waiting.pop(0)
            self._begin(guest, work, now_s)
        for guest, until_s in [pair for pair in self._waiting if pair[1] < now_s]:
            self._waiting.remove((guest, until_s))
            self._log(f"{guest.name}: refused, session {self._sessions} is not over")
            _refuse(guest, CODE_DUPLICATE)

    def _begin(self, guest: _Guest, work: Path, now_s: float) -> None:
        stream = guest.stream
        try:
            stream.setblocking(True)
            _prepare(stream)
            answer = struct.pack("<ii", CODE_ACCEPTED, len(self._greeting)) + self._greeting
            stream.sendall(answer)
        except OSError:
            stream.close()  # it went away while it waited
            return
        self._sessions += 1
        folder = work / f"session-{self._sessions}"
        folder.mkdir()
        ends, keeps = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(ends)
            self._become_session(stream, folder, work / "uploads")
        os.close(keeps)
        stream.close()
        limit_s = _time_limit(guest)
        deadline_s = now_s + limit_s if limit_s else None
        self._session = _Session(self._sessions, process, ends, folder, now_s, deadline_s)
        self._selector.register(ends, selectors.EVENT_READ)
        self._log(f"session {self._sessions}: {guest.name} connected")

    def _become_session(self, stream: socket.socket, folder: Path, uploads: Path) -> None:
        """Runs in the new process, and does not return."""
        code = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _die_with_parent()
            self._selector.close()
            waiting = [guest for guest, _ in self._waiting]
            for other in [self._listener, *(guest.stream for guest in [*self._guests.values(), *waiting])]:
                other.close()
            serve_session(stream, folder, uploads)
            code = 0
        except Exception as error:  # noqa: BLE001 - the outermost frame of a process
            print(f"session {self._sessions}: {_first_line(error)}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)

    def _tend_session(self, now_s: float) -> None:
        session = self._session
        if session is None:
            return
        if session.deadline_s is not None and now_s > session.deadline_s and not session.overdue:
            session.overdue = True
            os.kill(session.process, signal.SIGKILL)
        process, status = os.waitpid(session.process, os.WNOHANG)
        if process == 0:
            return
        self._finish(session)
        how = _how_it_ended(status)
        if session.overdue:
            how = "was ended: the time limit its client set is over"
        self._log(f"session {session.number}: {how} after {now_s - session.began_s:.1f} s")
        if self._announcement is not None:
            self._announcement.offer()

    def _finish(self, session: _Session) -> None:
        self._session = None
        self._selector.unregister(session.ends)
        os.close(session.ends)
        shutil.rmtree(session.folder, ignore_errors=True)

    def _dismiss(self, guest: _Guest, reason: str) -> None:
        if reason:
            self._log(f"{guest.name}: dismissed, {reason}")
        self._forget(guest)
        guest.stream.close()

    def _forget(self, guest: _Guest) -> None:
        del self._guests[guest.stream.fileno()]
        self._selector.unregister(guest.stream)

    def _close(self, work: Path) -> None:
        if self._announcement is not None:
            self._announcement.close()
        if self._session is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # interrupted while it was being buried
                os.kill(self._session.process, signal.SIGKILL)
                os.waitpid(self._session.process, 0)
            self._finish(self._session)
        for guest in [*self._guests.values(), *(guest for guest, _ in self._waiting)]:
            guest.stream.close()
        self._selector.close()
        self._listener.close()
        shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True)
class Reach:
    """Who can connect to a server.

    Attributes
    ----------
    exposed : bool
        Other machines can.
    text : str
        One line: the danger, or how to connect from another machine.
    """

    exposed: bool
    text: str


def reach(endpoint: Endpoint) -> Reach:
    """Say who can connect to a server listening on ``endpoint``, and how to tunnel to it."""
    port = endpoint.port
    tunnel = f"ssh -L {port}:127.0.0.1:{port} USER@{socket.gethostname()} (Android: adb forward tcp:{port} tcp:{port})"
    if _is_loopback(endpoint.host):
        return Reach(False, f"only this machine can connect; from another one tunnel first: {tunnel}")
    return Reach(
        True,
        f"other machines can connect to {endpoint}, and whoever does can run any program here: TVM's RPC has no "
        f"authentication and no encryption; leave out --host and tunnel instead: {tunnel}",
    )


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(host) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in addresses)


def _bind(request: ServeRequest) -> socket.socket:
    where = Endpoint(request.host, request.port)
    try:
        family = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise RpcError(
            f"{where} is not an address of this machine ({error.strerror})", "try: --host 127.0.0.1"
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((request.host, request.port))
    except OSError as error:
        listener.close()
        hint = "try: --host 127.0.0.1" if error.errno == errno.EADDRNOTAVAIL else f"try: --port {request.port + 1}"
        raise RpcError(f"{where} cannot be bound ({error.strerror})", hint) from None
    return listener


def _prepare(stream: socket.socket) -> None:
    """Small answers go out at once; a client whose network is gone is noticed within half a minute."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _refuse(guest: _Guest, code: int) -> None:
    with contextlib.suppress(OSError):
        guest.stream.send(struct.pack("<i", code))
    guest.stream.close()


def _time_limit(guest: _Guest) -> float | None:
    """Seconds, from the option ``-timeout=`` of TVM's own client."""
    for word in (guest.words() or [""])[1:]:
        if word.startswith("-timeout="):
            with contextlib.suppress(ValueError):
                return float(word.partition("=")[2])
    return None


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}; serving goes on,"
    return "ended" if os.WEXITSTATUS(status) == 0 else "was cut off"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _die_with_parent() -> None:
    """Do not outlive the server, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let ``SIGTERM`` end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
