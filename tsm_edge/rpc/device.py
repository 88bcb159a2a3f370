"""A device over RPC: connecting to it, finding out what it is, and putting a compiled model on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tsm_edge.artifact.folder import LIBRARY, Artifact, read_listed
from tsm_edge.cards import TargetCard
from tsm_edge.cards.architecture import architecture, elf_architecture, misfit
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import RpcError
from tsm_edge.rpc.connection import Connection, ConnectionLost, NoAnswer, RemoteFault, connect
from tsm_edge.rpc.foreign_text import printable
from tsm_edge.rpc.handshake import (
    BUILD,
    FIND_UPLOAD,
    KEEP_UPLOAD,
    SERVER_INFO,
    SET_CORES,
    SET_THREADS,
    Greeting,
    read_greeting,
)
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.rpc.sockets import SLOWEST_BYTES_PER_S
from tsm_edge.rpc.tracker import request_device
from tsm_edge.rpc.values import RemoteFunction, RemoteModule, RemoteTensor
from tsm_edge.rpc.wire import allocate_packet, call_packet, find_packet, init_packet

_LARGEST_PROGRAM = 1 << 27  # bytes of the program file that serves
_ELF_HEAD = 20  # bytes
# LLVM's description of the machine it runs on: in TVM's wheels, not in a runtime built without the compiler.
_LLVM_TRIPLE = "target.llvm_get_system_triple"
_SAME_VERSION = "install the same version of tsm-edge on both machines"


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a device.

    Attributes
    ----------
    machine : str or None
        Its architecture (:func:`tsm_edge.cards.architecture.architecture`); None: its server does not tell.
    build : str or None
        Of its TVM; None: TVM's own server does not tell.
    flags : tuple of str
        CPU features; empty: not known.
    tsm_edge : str or None
        Version of the tsm-edge that serves; None: TVM's own server.
    """

    machine: str | None = None
    build: str | None = None
    flags: tuple[str, ...] = ()
    tsm_edge: str | None = None


class Device:
    """A session with a device's server; made by :func:`open_device`.

    Attributes
    ----------
    connection : Connection
    info : DeviceInfo
    """

    def __init__(self, connection: Connection, limits: TimeLimits) -> None:
        self.connection = connection
        self._limit_s = limits.answer_s
        self.info = DeviceInfo()

    @property
    def name(self) -> str:
        """Of the device, for messages."""
        return self.connection.name

    def close(self) -> None:
        """End the session; closing twice is allowed."""
        self.connection.close()

    def find(self, name: str) -> RemoteFunction | None:
        """A global function of the server, or None."""
        (function,) = self.connection.exchange([find_packet(name)], self._limit_s)
        return function  # type: ignore[no-any-return]

    def call(self, name: str, *arguments: Any, more_s: float = 0.0, answer_size: int = 0) -> Any:
        """Call a global function of the server.

        Parameters
        ----------
        name : str
        *arguments
            As :func:`tsm_edge.rpc.wire.call_packet` takes them.
        more_s : float
            Seconds more than usual that may pass until it answers.
        answer_size : int
            The most bytes of data it may answer with.

        Raises
        ------
        RpcError
            There is none of that name, it raised an error, or the connection failed.
        """
        function = self.find(name)
        if function is None:
            raise RpcError(f"{self.name} has no function {name}", "expected TVM's RPC server or tsm-edge serve there")
        packet = call_packet(function, *arguments, answer_size=answer_size)
        return self.connection.exchange([packet], self._limit_s + more_s)[0]

    def ask(self, name: str, *arguments: Any) -> str:
        """Call a global function of the server that returns a text.

        Raises
        ------
        RpcError
            As :meth:`call`, or it returned something else.
        """
        answer = self.call(name, *arguments)
        if not isinstance(answer, str):
            raise RpcError(f"{self.name}: {name} returned {type(answer).__name__}, expected a text", _SAME_VERSION)
        return answer

    def tensor(self, shape: tuple[int, ...]) -> RemoteTensor:
        """Allocate a float32 tensor, its values undefined; it lives as long as the session."""
        size = RemoteTensor(0, shape).nbytes
        (handle,) = self.connection.exchange([allocate_packet(size)], self._limit_s)
        return RemoteTensor(handle, shape)

    def begin(self) -> None:
        """Begin the session and fill :attr:`info`, without sending any file.

        Raises
        ------
        RpcError
            The server has another build of TVM, or fails.
        """
        build = read_greeting(self.connection.greeting).build
        if build and build != BUILD:
            raise RpcError(f"{self.name} runs another build: {build}, expected {BUILD}", _SAME_VERSION)
        try:
            self.connection.exchange([init_packet()], self._limit_s)
            self._look()
        except (ConnectionLost, NoAnswer) as error:
            # The handshake is the same in all releases of TVM; what follows is not.
            raise RpcError(
                f"{error.problem} at the session's beginning: it is another build of TVM's RPC, or its server failed",
                f"install {BUILD.replace('+', ' and ')} there",
            ) from None

    def _look(self) -> None:
        """Find out what the device is.

        Raises
        ------
        RpcError
            The server describes itself in another way than tsm-edge's.
        """
        greeting = read_greeting(self.connection.greeting)
        if not greeting.build:
            self.info = DeviceInfo(machine=self._machine())
            return
        try:
            self.info = _read_info(self.ask(SERVER_INFO), greeting)
        except (ValueError, RecursionError):  # of JSON, or in it
            raise RpcError(f"{self.name} does not tell what it is as tsm-edge does", _SAME_VERSION) from None

    def _machine(self) -> str | None:
        """The architecture of a server that does not tell: what its LLVM says, or the program file that serves."""
        if self.find(_LLVM_TRIPLE) is not None:
            return architecture(printable(self.ask(_LLVM_TRIPLE)))
        try:
            program = self.call("tvm.rpc.server.download", "/proc/self/exe", answer_size=_LARGEST_PROGRAM)
        except RemoteFault:
            return None
        return elf_architecture(program[:_ELF_HEAD]) if isinstance(program, bytes) else None

    def check_fits(self, target: TargetCard) -> None:
        """Refuse a model for another machine.

        Raises
        ------
        RpcError
            It was compiled for another architecture or device, or the CPU lacks what it needs.
        """
        found = self.info.machine
        if why := misfit(self.name, target, found or "", self.info.flags):
            raise RpcError(
                why, f"compile for it with: tsm-edge compile --target T (the targets: tsm-edge targets), T for {found}"
            )

    def set_threads(self, threads: Threads) -> bool:
        """Choose the threads of models loaded from now on; False: this server lets nobody choose.

        Cores that are not there are not kept to.
        """
        if self.find(SET_THREADS) is None:
            return False
        self.call(SET_THREADS, threads.count)
        if threads.cores and self.find(SET_CORES) is not None:
            self.call(SET_CORES, json.dumps(threads.cores))
        return True

    def send(self, artifact: Artifact) -> str:
        """Have the library of a model on the device, its content checked; nothing is sent when the server still has it.

        Returns
        -------
        str
            What to :meth:`load`.

        Raises
        ------
        ArtifactError
            The library was replaced since the artifact was loaded.
        RpcError
            The copy on the device differs from the file here.
        """
        content = read_listed(artifact, LIBRARY)
        return self._put(content, hashlib.sha256(content).hexdigest())

    def load(self, path: str, artifact: Artifact) -> RemoteModule:
        """Load what was sent.

        Raises
        ------
        RpcError
            It cannot be loaded there.
        """
        try:
            module = self.call("tvm.rpc.server.load_module", path)
        except RemoteFault as fault:
            raise RpcError(
                f"{fault.problem} (loading the model compiled for {artifact.manifest.target.name})",
                "compile for that machine and its C library: tsm-edge targets",
            ) from None
        if isinstance(module, RemoteModule):
            return module
        raise RpcError(f"{self.name} loads no module from {artifact.library}", "compile again with: tsm-edge compile")

    def function(self, module: RemoteModule, name: str) -> RemoteFunction | None:
        """A packed function of a module, or None."""
        found = self.call("tvm.rpc.server.ModuleGetFunction", module, name, True)
        return found if isinstance(found, RemoteFunction) else None

    def _put(self, content: bytes, sha256: str) -> str:
        """Have the library on the device, its content checked; returns what to load."""
        if self.info.tsm_edge is not None:
            path = self.ask(FIND_UPLOAD, sha256)
            if not path:
                self._upload(content)
                path = self.ask(KEEP_UPLOAD, LIBRARY, sha256)
            return path
        self._upload(content)
        # TVM's own server cannot hash: what it has is fetched back.
        if self.call("tvm.rpc.server.download", LIBRARY, answer_size=len(content)) != content:
            raise RpcError(f"{self.name}: the uploaded model differs from the file here", "try again")
        return LIBRARY

    def _upload(self, content: bytes) -> None:
        # What this machine has sent may wait in buffers on the way for as long as a slow network takes.
        self.call("tvm.rpc.server.upload", LIBRARY, content, more_s=len(content) / SLOWEST_BYTES_PER_S)


def open_device(place: Place, limits: TimeLimits) -> Device:
    """Connect to a device and find out what it is.

    Raises
    ------
    RpcError
        It cannot be reached, does not answer, refuses the key, is busy, or has another build of TVM.
    """
    endpoint, key, name = place.endpoint, place.key, str(place.endpoint)
    if place.by_tracker:
        endpoint, key = request_device(place.endpoint, place.key, limits)
        name = f"{endpoint} (from tracker {place.endpoint})"
    device = Device(connect(endpoint, key, limits.connect_s, name), limits)
    try:
        device.begin()
    except BaseException:
        device.close()
        raise
    return device


def _read_info(text: str, greeting: Greeting) -> DeviceInfo:
    """What tsm-edge's server says of its machine.

    Raises
    ------
    ValueError, RecursionError
        It is not JSON, or another table.
    """
    table = json.loads(text)
    flags, version = (table.get(name) for name in ("flags", "tsm_edge")) if isinstance(table, dict) else (None, None)
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags) or not isinstance(version, str):
        raise ValueError("not what a server of tsm-edge says")
    return DeviceInfo(architecture(greeting.machine), greeting.build, tuple(flags), version)
