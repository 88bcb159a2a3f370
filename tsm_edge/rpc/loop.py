"""The timed loop of ``model.so`` on a device, and its yardstick.

Both are packed functions, which TVM's own server can call, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.errors import RpcError
from tsm_edge.rpc.device import Device
from tsm_edge.rpc.values import RemoteModule, RemoteTensor
from tsm_edge.rpc.wire import call_packet, copy_from_packet, copy_to_packet
from tsm_edge.session.timings import Speed, Timings, cannot_measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIRE_FLOAT = "<f4"
_COLUMNS = 3  # of a sample: due, start, duration; microseconds


class RemoteLoop:
    """Frames that are on a device, and the loop over them.

    Parameters
    ----------
    device : Device
    module : RemoteModule
        The loaded ``model.so``.
    artifact : Artifact
    frames : numpy.ndarray
        What the caller gave.
    values : numpy.ndarray
        The same, contiguous: sent once.

    Attributes
    ----------
    kernels : int
        Kernel calls of a frame.

    Raises
    ------
    ArtifactError
        The library is of an earlier version, without such a loop.
    RpcError
        The device fails.
    """

    def __init__(
        self,
        device: Device,
        module: RemoteModule,
        artifact: Artifact,
        frames: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None:
        measure = device.function(module, "measure")
        if measure is None:
            raise cannot_measure(str(artifact.path))
        self._measure = measure
        self._device = device
        self._given = frames
        self.kernels = len(artifact.manifest.kernels)
        self._logits = device.tensor(artifact.manifest.logits.shape)
        self._frames = device.tensor(values.shape)
        self._outputs: dict[tuple[int, ...], RemoteTensor] = {}
        data = values.astype(_WIRE_FLOAT, copy=False).reshape(-1).view(np.uint8).data
        device.connection.exchange([copy_to_packet(self._frames, data)], 60.0)

    def is_of(self, device: Device, frames: NDArray[np.float32]) -> bool:
        """Whether these very frames are on this device."""
        return device is self._device and frames is self._given

    def run(self, first: int, count: int, period_ns: int, kernels: bool, limit_s: float) -> Timings:
        """Run ``count`` frames; ``limit_s``: how long that may take beyond the camera's time.

        Raises
        ------
        RpcError
            The device fails, or what it answers cannot be.
        """
        samples = self._output((count, _COLUMNS))
        times = self._output((count, self.kernels)) if kernels else None
        fetched = [samples, self._logits, *([] if times is None else [times])]
        packets = [
            call_packet(self._measure, self._frames, first, period_ns, False, samples, self._logits, times),
            *(copy_from_packet(tensor, tensor.nbytes) for tensor in fetched),
        ]
        began, *answers = self._device.connection.exchange(packets, limit_s + count * period_ns * 1e-9)
        arrays = [
            np.frombuffer(answer, _WIRE_FLOAT).reshape(tensor.shape)
            for answer, tensor in zip(answers, fetched, strict=True)
        ]
        offsets = np.rint(arrays[0].astype(np.float64) * 1e3)
        if not isinstance(began, int) or began < 0 or not (np.isfinite(offsets).all() and (offsets >= 0).all()):
            raise RpcError(f"{self._device.name}: measured times that cannot be", "look at the server's output")
        due, start, duration = offsets.T.astype(np.uint64)
        spent = np.rint(arrays[2].astype(np.float64) * 1e3).astype(np.uint64) if times is not None else None
        return Timings(due + np.uint64(began), start + np.uint64(began), duration, arrays[1].astype(np.float32), spent)

    def _output(self, shape: tuple[int, ...]) -> RemoteTensor:
        """A tensor of a shape: they live as long as the session, so each is made once."""
        if shape not in self._outputs:
            self._outputs[shape] = self._device.tensor(shape)
        return self._outputs[shape]


class RemoteYardstick:
    """The yardstick in a loaded ``model.so`` on a device.

    Parameters
    ----------
    device : Device
    module : RemoteModule
    """

    def __init__(self, device: Device, module: RemoteModule) -> None:
        self._device = device
        self._yardstick = device.function(module, "yardstick")
        self._times = None if self._yardstick is None else device.tensor((2,))

    def is_of(self, device: Device) -> bool:
        """Whether it is on this device."""
        return device is self._device

    def measure(self, limit_s: float) -> Speed | None:
        """How fast the device is now; None: the library is of an earlier version.

        Raises
        ------
        RpcError
            The device fails, or what it answers cannot be.
        """
        if self._yardstick is None or self._times is None:
            return None
        packets = [call_packet(self._yardstick, self._times), copy_from_packet(self._times, self._times.nbytes)]
        _, answer = self._device.connection.exchange(packets, limit_s)
        times = np.frombuffer(answer, _WIRE_FLOAT).astype(np.float64) * 1e3
        if not (np.isfinite(times).all() and (times > 0).all() and (times < 1e12).all()):
            raise RpcError(f"{self._device.name}: measured times that cannot be", "look at the server's output")
        return Speed(round(float(times[0])), round(float(times[1])))
