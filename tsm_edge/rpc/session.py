"""Live inference on another machine: only the frame goes there and only the logits come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.cards.architecture import check_threads
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import RpcError
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.rpc.connection import ConnectionLost
from tsm_edge.rpc.device import Device, DeviceInfo, open_device
from tsm_edge.rpc.loop import RemoteLoop, RemoteYardstick
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.rpc.values import RemoteFunction, RemoteTensor
from tsm_edge.rpc.wire import Packet, call_packet, copy_from_packet, copy_to_packet
from tsm_edge.session.base import checked_caches, checked_frame, frame_logits_shape, session_is_closed
from tsm_edge.session.timings import Speed, Timings, cannot_measure, checked_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.artifact.manifest import Manifest

_Caches = tuple[RemoteTensor, ...]
_WIRE_FLOAT = "<f4"


class RemoteSession:
    """One video stream over a compiled model on another machine: a :class:`tsm_edge.session.base.Session`.

    The model is uploaded once (not at all if tsm-edge's server there still has it) after its architecture has been
    checked. The shift caches stay on the device. When the connection is lost during a step, one new one is made; the
    caches are lost with the old one, so they begin from zero, which ``notify`` is told.

    Parameters
    ----------
    model : str, Path or Artifact
        An artifact directory on this machine.
    place : Place
        Where the device is.
    threads : int, Threads or None
        CPU threads of a step there, and the cores they keep to. None: as tuning found (``manifest.threads``); without,
        as the device decides (every core).
    limits : TimeLimits
    notify : callable
        Is given one line on what the user should know: a reconnection, a setting without effect.

    Raises
    ------
    ArtifactError
        The artifact is missing or damaged, or there cannot be so many threads.
    RpcError
        The device cannot be reached, does not fit the model, or fails.
    """

    def __init__(
        self,
        model: str | Path | Artifact,
        place: Place,
        threads: int | Threads | None = None,
        limits: TimeLimits | None = None,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        if isinstance(threads, int):
            check_threads(threads)
            threads = Threads(threads)
        self.place = place
        self.reconnections = 0
        self._lock = threading.RLock()  # one thread at a time is in a call
        self._threads = threads
        self._limits = limits or TimeLimits()
        self._notify = notify
        self._loop: RemoteLoop | None = None
        self._yardstick: RemoteYardstick | None = None
        self._kernels = 0  # of the selected program; 0: the first
        self._link: _Link | None
        self.artifact, self._link = _begin(model, self._connect)
        if threads is not None and not self._link.threads_set:
            notify(
                f"{place}: TVM's own server does not take the number of threads; it is TSM_EDGE_THREADS of that "
                "process, or every core"
            )

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.artifact.manifest

    @property
    def device(self) -> DeviceInfo:
        """What is known of the device."""
        return self._open().device.info

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session, after the frame that another thread is in; closing twice is allowed."""
        with self._lock:
            if self._link is not None:
                self._link.device.close()
                self._link = None

    def reset(self) -> None:
        """Begin with zero caches: the next frame is the first of a video. Nothing is sent."""
        with self._lock:
            self._open().reset()

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one frame, float32 [1, 3, height, width]; one round trip. The logits, [1, classes], are the caller's own.

        Raises
        ------
        ArtifactError
            The frame has another shape or dtype, or the session is closed.
        RpcError
            The device fails, does not answer in time, or was lost and could not be reached again.
        """
        with self._lock:
            return self._step(checked_frame(frame, self.manifest))

    def _step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        link = self._open()
        try:
            return link.step(frame)
        except ConnectionLost as lost:
            link = self._reconnect(lost)
        try:
            return link.step(frame)
        except ConnectionLost as lost:
            self.close()
            raise RpcError(
                f"{lost.problem} twice on the same frame: the model crashes there",
                "look at the server's output, and check it with: tsm-edge verify --rpc",
            ) from None

    def frame_logits(self) -> NDArray[np.float32]:
        """See :meth:`tsm_edge.session.base.Session.frame_logits`; one round trip.

        A lost connection is not made again.

        Raises
        ------
        ArtifactError
            The model is none of clips, or the session is closed.
        RpcError
            There was no step yet, the device fails, does not answer in time, or is lost.
        """
        shape = frame_logits_shape(self.manifest)
        with self._lock:
            return self._open().frame_logits(shape)

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one frame with the caches in the caller's hands (NCHW), which do go over the network: for checking.

        A lost connection is not made again.
        """
        checked = checked_frame(frame, self.manifest), checked_caches(caches, self.manifest)
        with self._lock:
            return self._open().step_explicit(*checked)

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """See :meth:`tsm_edge.session.local.OnlineSession.measure`: the loop runs there, on that machine's clock.

        A lost connection is not made again.

        Raises
        ------
        ArtifactError
            The frames have another shape or dtype, the library is of an earlier version, or the session is closed.
        RpcError
            The device fails, does not answer in time, or is lost.
        """
        values = checked_frames(frames, self.manifest)
        with self._lock:
            link = self._open()
            if self._loop is None or not self._loop.is_of(link.device, frames):
                self._loop = RemoteLoop(link.device, link.module, self.artifact, frames, values)
                self._loop.kernels = self._kernels or self._loop.kernels
            return self._loop.run(first, count, period_ns, kernels, self._limits.answer_s)

    def machine_speed(self) -> Speed | None:
        """See :meth:`tsm_edge.session.local.OnlineSession.machine_speed`: of that machine.

        Raises
        ------
        ArtifactError
            The session is closed.
        RpcError
            The device fails, does not answer in time, or is lost.
        """
        with self._lock:
            link = self._open()
            if self._yardstick is None or not self._yardstick.is_of(link.device):
                self._yardstick = RemoteYardstick(link.device, link.module)
            return self._yardstick.measure(self._limits.answer_s)

    def select(self, program: int) -> int:
        """See :meth:`tsm_edge.session.local.OnlineSession.select`; it is :meth:`measure` that then runs the program.

        Raises
        ------
        ArtifactError
            The library is of an earlier version, or the session is closed.
        RpcError
            There is no such program, the device fails, does not answer in time, or is lost.
        """
        with self._lock:
            link = self._open()
            select = link.device.function(link.module, "select")
            if select is None:
                raise cannot_measure(str(self.artifact.path))
            (calls,) = link.device.connection.exchange([call_packet(select, program)], self._limits.answer_s)
            if not isinstance(calls, int) or calls < 1:
                raise RpcError(f"{self.place}: program {program} has {calls!r} kernels", "look at the server's output")
            self._kernels = calls
            if self._loop is not None:
                self._loop.kernels = calls
            return calls

    @property
    def connection(self) -> Device:
        """The device's end, for what is not a frame: its files, sensors and round trips. Not for ever: see ``step``."""
        return self._open().device

    @property
    def startup_s(self) -> tuple[float, float]:
        """How long sending the model and loading it took, seconds, round trips included."""
        link = self._open()
        return link.upload_s, link.load_s

    def _open(self) -> _Link:
        if self._link is None:
            raise session_is_closed()
        return self._link

    def _connect(self, artifact: Artifact) -> _Link:
        device = open_device(self.place, self._limits)
        try:
            link = _TensorLink if artifact.manifest.target.device == "cpu" else _StreamLink
            return link(device, artifact, self._threads or artifact.manifest.threads, self._limits.answer_s)
        except BaseException:
            device.close()
            raise

    def _reconnect(self, lost: ConnectionLost) -> _Link:
        """One attempt."""
        self.close()
        try:
            self._link = self._connect(self.artifact)
        except RpcError as error:
            raise RpcError(
                f"{lost.problem} during a step, and connecting again failed: {error.problem}", error.hint
            ) from None
        self.reconnections += 1
        self._notify(f"{lost.problem}; connected again, shift caches reset")
        return self._link


@again_if_replaced
def _begin(model: str | Path | Artifact, connect: Callable[[Artifact], _Link]) -> tuple[Artifact, _Link]:
    artifact = model if isinstance(model, Artifact) else load_artifact(model)
    return artifact, connect(artifact)


class _Link:
    """A loaded model on a connected device, with its tensors there."""

    def __init__(self, device: Device, artifact: Artifact, threads: Threads | None, limit_s: float) -> None:
        manifest = artifact.manifest
        device.check_fits(manifest.target)
        self.threads_set = threads is not None and device.set_threads(threads)
        self.device = device
        self._limit_s = limit_s
        times = [time.perf_counter()]
        path = device.send(artifact)
        times.append(time.perf_counter())
        self.module = device.load(path, artifact)
        times.append(time.perf_counter())
        self.upload_s, self.load_s = times[1] - times[0], times[2] - times[1]
        self._library = artifact.library
        self._step = self._function("step")
        self._frame = device.tensor(manifest.frame.shape)
        self._logits = device.tensor(manifest.logits.shape)
        self._cache_shapes = [info.shape for info in manifest.caches]
        self._explicit: tuple[_Caches, _Caches] | None = None
        self._frame_logits: tuple[RemoteFunction, RemoteTensor] | None = None

    def _function(self, name: str) -> RemoteFunction:
        function = self.device.function(self.module, name)
        if function is None:
            raise RpcError(f"{self._library} has no function {name}", "compile again with: tsm-edge compile")
        return function

    def _new_caches(self) -> _Caches:
        return tuple(self.device.tensor(shape) for shape in self._cache_shapes)

    def reset(self) -> None:
        raise NotImplementedError

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError

    def frame_logits(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if self._frame_logits is None:
            self._frame_logits = self._function("stream_output"), self.device.tensor(shape)
        function, tensor = self._frame_logits
        (logits,) = self._exchange(
            [call_packet(function, 1, tensor), copy_from_packet(tensor, tensor.nbytes)], [tensor]
        )
        return logits

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        if self._explicit is None:
            self._explicit = self._new_caches(), self._new_caches()
        return self._run(frame, *self._explicit, caches)

    def _run(
        self, frame: NDArray[np.float32], before: _Caches, after: _Caches, caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """All of a step in one exchange; ``caches``, where given, are sent, and the next ones fetched."""
        fetched = [self._logits, *(after if caches else ())]
        packets = [
            copy_to_packet(self._frame, _bytes(frame)),
            *(copy_to_packet(tensor, _bytes(cache)) for tensor, cache in zip(before, caches, strict=False)),
            call_packet(self._step, self._frame, *before, self._logits, *after),
            *(copy_from_packet(tensor, tensor.nbytes) for tensor in fetched),
        ]
        logits, *following = self._exchange(packets, fetched)
        return logits, following

    def _exchange(self, packets: Sequence[Packet], fetched: Sequence[RemoteTensor]) -> list[NDArray[np.float32]]:
        """Send the packets, of which the last fetch these tensors."""
        answers = self.device.connection.exchange(packets, self._limit_s)[-len(fetched) :]
        return [
            np.frombuffer(answer, _WIRE_FLOAT).reshape(tensor.shape).astype(np.float32)
            for answer, tensor in zip(answers, fetched, strict=True)
        ]


class _TensorLink(_Link):
    """Of a CPU's model: three sets of caches there, never copied.

    One set holds zeros for ever: a reset reads from it. The other two take turns.
    """

    def __init__(self, device: Device, artifact: Artifact, threads: Threads | None, limit_s: float) -> None:
        super().__init__(device, artifact, threads, limit_s)
        self._sets = [self._new_caches() for _ in range(3)]
        zeros = [copy_to_packet(tensor, _bytes(np.zeros(tensor.shape, np.float32))) for tensor in self._sets[0]]
        device.connection.exchange(zeros, limit_s)
        self._current = 0

    def reset(self) -> None:
        self._current = 0

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        following = 2 if self._current == 1 else 1
        logits, _ = self._run(frame, self._sets[self._current], self._sets[following], [])
        self._current = following
        return logits


class _StreamLink(_Link):
    """Of a GPU's model: the caches stay on the GPU, in the library's own stream."""

    def __init__(self, device: Device, artifact: Artifact, threads: Threads | None, limit_s: float) -> None:
        super().__init__(device, artifact, threads, limit_s)
        self._stream_step, self._stream_reset = self._function("stream_step"), self._function("stream_reset")
        self._is_new = True

    def reset(self) -> None:
        self._is_new = True

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        packets = [
            *([call_packet(self._stream_reset)] if self._is_new else []),
            copy_to_packet(self._frame, _bytes(frame)),
            call_packet(self._stream_step, self._frame, self._logits),
            copy_from_packet(self._logits, self._logits.nbytes),
        ]
        (logits,) = self._exchange(packets, [self._logits])
        self._is_new = False
        return logits


def _bytes(array: NDArray[np.float32]) -> memoryview:
    """The values as the protocol wants them: little-endian."""
    return array.astype(_WIRE_FLOAT, copy=False).reshape(-1).view(np.uint8).data
