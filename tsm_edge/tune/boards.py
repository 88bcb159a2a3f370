"""Where candidates are measured: this machine, or boards behind servers; boards of one kind share the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.environment import glance, snapshot
from tsm_edge.bench.result.environment import Environment
from tsm_edge.cards import TargetCard
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import TuneError
from tsm_edge.power.system import LocalSystem, System
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.machine import RemoteSystem
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.tune.apart import Apart
from tsm_edge.tune.race import Runner
from tsm_edge.tune.threads import ways_of

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
        Loads a trial library there; with some threads, or those that were asked for.
    ways : tuple of Threads
        What may be raced to find the best threads; empty: they were asked for, or cannot be chosen there.
    local : bool
        Whether it is this one.
    held_back : callable
        Why it runs slower than it could, now: too hot, too little power; empty: it does not, or does not tell.
    kind : str
        Its processor, by which boards that work together must be equal; empty: its server does not tell.
    boot : str
        Equal for two boards that are one machine; empty: not known.
    close : callable
        Ends what was begun for it.
    """

    name: str
    machine: str
    open: Callable[[Artifact, Threads | None], Runner]
    ways: tuple[Threads, ...] = ()
    local: bool = False
    held_back: Callable[[], tuple[str, ...]] = tuple
    kind: str = ""
    boot: str = ""
    close: Callable[[], None] = lambda: None


def this_machine(threads: int | None, device: str = "cpu") -> Board:
    """Measured in a process of its own, which a candidate may crash; kernels with one thread, if none are asked for.

    ``device`` is what is tuned there: ``cpu`` or ``cuda``, whose step has one thread.
    """
    system = LocalSystem()
    machine = _name_of(snapshot(system, 0.0), device)
    asked, apart = Threads(threads or 1), Apart()

    def open_it(artifact: Artifact, wanted: Threads | None) -> Runner:
        return apart.open(artifact, wanted or asked)

    return Board(
        "this machine",
        machine or UNKNOWN,
        open_it,
        () if threads or device != "cpu" else ways_of(system),
        local=True,
        held_back=lambda: _throttled(system),
        kind=machine,
        close=apart.close,
    )


def board_at(place: Place, threads: int | None, target: TargetCard) -> Board:
    """A device behind ``tsm-edge serve``, or TVM's own server, which does not say what it is.

    Raises
    ------
    RpcError
        It cannot be reached, or cannot run what is made for the target.
    """
    limits, device = TimeLimits(), target.device
    with closing(open_device(place, limits)) as reached:
        reached.check_fits(target)
        ours = reached.info.tsm_edge is not None
        system = RemoteSystem(reached)
        found = snapshot(system, 0.0) if ours else None
        kind = "" if found is None else _name_of(found, device)
        boot = "" if found is None else found.boot_id or ""
        machine = kind or reached.info.machine
        ways = ways_of(system) if ours and threads is None and device == "cpu" else ()
        name = str(place) if not place.by_tracker else reached.name

    def open_it(artifact: Artifact, wanted: Threads | None) -> Runner:
        return RemoteSession(artifact, place, wanted or threads, limits)

    def held_back() -> tuple[str, ...]:
        with closing(open_device(place, limits)) as again:
            return _throttled(RemoteSystem(again))

    return Board(name, machine or UNKNOWN, open_it, ways, held_back=held_back if ours else tuple, kind=kind, boot=boot)


def check_alike(boards: Sequence[Board], warn: Callable[[str], None]) -> None:
    """Boards that share candidates must be of one kind, as far as they tell; and should be machines of their own.

    Raises
    ------
    TuneError
        Two have unlike processors.
    """
    told = [board for board in boards if board.kind]
    for board in told[1:]:
        if board.kind != told[0].kind:
            raise TuneError(
                f"{told[0].name} is {told[0].kind}, {board.name} is {board.kind}: expected boards of one kind",
                "tune each alone, into a file of its own: -o FILE",
            )
    first: dict[str, Board] = {}
    for board in boards:
        # A tracker may have handed out the same one twice; it will hand out others.
        if board.boot and (other := first.setdefault(board.boot, board)).name != board.name:
            warn(f"{other.name} and {board.name} are one machine: what they measure at the same time is slower")


def _name_of(environment: Environment, device: str) -> str:
    """The CPU, or the GPU and its board."""
    if device == "cpu":
        return environment.cpu_model or ""
    return ", ".join(filter(None, (environment.board, *(gpu.name for gpu in environment.gpus))))


def _throttled(system: System) -> tuple[str, ...]:
    return glance(system, 0.0).throttled_now
