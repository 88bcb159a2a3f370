"""Where candidates are measured: this machine, or boards behind servers; boards of one kind share the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.environment import snapshot
from tsm_edge.power.system import LocalSystem
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.machine import RemoteSystem
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.race import Runner

UNKNOWN = "not known"


@dataclass(frozen=True)
class Board:
    """A machine.

    Attributes
    ----------
    name : str
    machine : str
        What it is, for records; without the names of hosts and people.
    open : callable
        Loads a trial library there.
    local : bool
        Whether it is this one.
    """

    name: str
    machine: str
    open: Callable[[Artifact], Runner]
    local: bool = False


def this_machine(threads: int) -> Board:
    """Measured in this process."""
    machine = snapshot(LocalSystem(), 0.0).cpu_model or UNKNOWN
    return Board("this machine", machine, lambda artifact: OnlineSession(artifact, threads), local=True)


def board_at(place: Place, threads: int | None) -> Board:
    """A device behind ``tsm-edge serve``, or TVM's own server, which does not say what it is.

    Raises
    ------
    RpcError
        It cannot be reached.
    """
    limits = TimeLimits()
    device = open_device(place, limits)
    try:
        ours = device.info.tsm_edge is not None
        machine = snapshot(RemoteSystem(device), 0.0).cpu_model if ours else device.info.machine
        name = str(place) if not place.by_tracker else device.name
    finally:
        device.close()
    return Board(name, machine or UNKNOWN, lambda artifact: RemoteSession(artifact, place, threads, limits))
