"""What is measured: a model that is loaded on a machine, and what can be asked of that machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tsm_edge.artifact.folder import LIBRARY, Artifact
from tsm_edge.bench.result import Model, Refused, Route, Startup
from tsm_edge.errors import PowerError
from tsm_edge.power.registry import CSV, NONE, Meter, open_meter
from tsm_edge.power.system import LocalSystem, System
from tsm_edge.rpc.handshake import BUILD
from tsm_edge.rpc.machine import RemoteMeter, RemoteSystem, round_trips_s
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.base import Session
from tsm_edge.session.local import OnlineSession
from tsm_edge.session.timings import Speed, Timings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROUND_TRIPS = 50
_BESIDE = {CSV, "shelly", "tasmota", "scpi"}


def model_of(artifact: Artifact) -> Model:
    """What was measured."""
    manifest = artifact.manifest
    return Model(
        name=manifest.model,
        target=manifest.target.name,
        precision=manifest.precision,
        path=str(artifact.path),
        sha256=manifest.files.get(LIBRARY, ""),
        frame_shape=manifest.frame.shape,
        flops=sum(kernel.flops for kernel in manifest.kernels),
        bytes=sum(kernel.bytes for kernel in manifest.kernels),
        device=manifest.target.device,
    )


class TimedSession(Session, Protocol):
    """A session whose library times frames in its own loop."""

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """See :meth:`tsm_edge.session.local.OnlineSession.measure`."""

    def machine_speed(self) -> Speed | None:
        """See :meth:`tsm_edge.session.local.OnlineSession.machine_speed`."""


def is_beside(sensor: str) -> bool:
    """Whether a sensor is beside the machine and not in it: it is read from here, whatever is measured."""
    return sensor.partition(":")[0] in _BESIDE


@dataclass(frozen=True)
class Subject:
    """A loaded model on a machine.

    Attributes
    ----------
    name : str
        What a report calls it.
    route : {"local", "rpc"}
    address, server : str or None
        See :class:`tsm_edge.bench.result.Result`.
    clock : str
        Which clock times the frames, in words.
    artifact : Artifact
    session : TimedSession
    threads : int or None
        Of a step; None: not known here.
    startup : Startup
        What loading took; the first frame is still to come.
    system : System or None
        Its files and programs; None: it does not show them.
    open_meter : callable
        Opens what ``--power`` names.
    round_trips_s : callable
        Seconds of some calls that do nothing; empty without a network.
    unavailable : tuple of Refused
    """

    name: str
    route: Route
    address: str | None
    server: str | None
    clock: str
    artifact: Artifact
    session: TimedSession
    threads: int | None
    startup: Startup
    system: System | None
    open_meter: Callable[[str], Meter | None]
    round_trips_s: Callable[[], list[float]]
    unavailable: tuple[Refused, ...] = ()

    def close(self) -> None:
        """Close the session."""
        self.session.close()


def here(artifact: Artifact, threads: int) -> Subject:
    """Load a model in this process.

    Raises
    ------
    ArtifactError
        It is damaged, or made for another machine.
    """
    start = time.perf_counter()
    session = OnlineSession(artifact, threads)
    load_ms = 1e3 * (time.perf_counter() - start)
    return Subject(
        name="this machine",
        route="local",
        address=None,
        server=None,
        clock="CLOCK_MONOTONIC of this machine, read in model.so",
        artifact=artifact,
        session=session,
        threads=threads,
        startup=Startup(load_ms=load_ms),
        system=LocalSystem(),
        open_meter=open_meter,
        round_trips_s=list,
    )


def over_rpc(
    artifact: Artifact,
    place: Place,
    threads: int | None,
    limits: TimeLimits | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Subject:
    """Load a model on a device behind a server, ours or TVM's own.

    Raises
    ------
    ArtifactError
        It is damaged, or of an earlier version.
    RpcError
        The device cannot be reached, is busy, does not fit the model, or fails.
    """
    session = RemoteSession(artifact, place, threads, limits, notify)
    advised = artifact.manifest.threads
    known = threads or (advised.count if advised else None)
    device = session.connection
    upload_s, load_s = session.startup_s
    version = device.info.tsm_edge
    ours = version is not None

    def meter(text: str) -> Meter | None:
        if text == NONE or is_beside(text):
            return open_meter(text)
        if not ours:
            raise PowerError(f"{device.name}: TVM's own server reads no power sensor ({text})", _INSTEAD)
        return RemoteMeter(device, text)

    return Subject(
        name=str(place) if not place.by_tracker else device.name,
        route="rpc",
        address=device.name,
        server=f"tsm-edge serve {version}" if ours else f"TVM's own server ({BUILD})",
        clock="CLOCK_MONOTONIC of the device, read in model.so there",
        artifact=artifact,
        session=session,
        threads=known if ours else None,
        startup=Startup(load_ms=1e3 * load_s, upload_ms=1e3 * upload_s),
        system=RemoteSystem(device) if ours else None,
        open_meter=meter,
        round_trips_s=lambda: round_trips_s(device, _ROUND_TRIPS),
        unavailable=() if ours else _STOCK_LACKS,
    )


_INSTEAD = "serve with: tsm-edge serve"
_STOCK_LACKS = (
    Refused("power", f"TVM's own server reads no sensors of the board; a meter beside it can be named; {_INSTEAD}"),
    Refused("environment", f"TVM's own server tells neither clocks, temperatures nor load; {_INSTEAD}"),
    Refused("threads", f"TVM's own server takes no number of threads: every core, or its TSM_EDGE_THREADS; {_INSTEAD}"),
)
