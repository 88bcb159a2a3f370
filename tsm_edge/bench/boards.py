"""A board that is reached over ssh or adb and has nothing installed: ``tsm-runner bench`` runs there.

It times the frames, and reads the sensors that are files, on the board; nothing else goes over the connection while
frames run. What it sends back is checked here (:mod:`tsm_edge.bench.runner_report`).
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tsm_edge.artifact.folder import RUNNER, Artifact
from tsm_edge.bench.board_power import Chosen, choose_meter, measure_outside
from tsm_edge.bench.camera import refuse_elsewhere
from tsm_edge.bench.detected import detected_target
from tsm_edge.bench.environment import snapshot
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import Environment, Refused, Result, Route
from tsm_edge.bench.run import Outcome, Show, no_yardstick
from tsm_edge.bench.runner_report import read_told
from tsm_edge.bench.runner_run import Errand
from tsm_edge.bench.subject import model_of
from tsm_edge.bench.verdicts import verdicts
from tsm_edge.cards import TargetCard
from tsm_edge.cards.architecture import MOST_THREADS
from tsm_edge.deploy.adb import AdbDestination
from tsm_edge.deploy.deploy import open_transport
from tsm_edge.deploy.destination import SshDestination
from tsm_edge.deploy.transport import Transport
from tsm_edge.deploy.visit import Visit, visiting
from tsm_edge.errors import BenchError, DeployError, PowerError
from tsm_edge.power.system import ShellSystem

Destination = SshDestination | AdbDestination
_LOOK_S = 60.0  # for a script that only reads files


@dataclass(frozen=True)
class _Board:
    visit: Visit
    system: ShellSystem
    artifact: Artifact
    plan: Plan
    threads: int

    @property
    def name(self) -> str:
        return self.visit.transport.name

    def options(self, power: str) -> str:
        """Of ``tsm-runner bench``."""
        plan = self.plan
        given = {
            "--frames": plan.frames,
            "--duration": plan.duration_s,
            "--warmup": plan.warmup_s,
            "--threads": self.threads,
            "--fps": plan.fps,
            "--power": power,
            "--idle": plan.idle_s,
        }
        return shlex.join(word for name, value in given.items() if value is not None for word in (name, str(value)))


def measure_on_board(
    artifact: Artifact,
    destination: Destination,
    plan: Plan,
    threads: int | None,
    command: str,
    show: Show = lambda text, done: None,
    notify: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Measure a model on a board with its own ``tsm-runner``.

    Where the artifact is not deployed there, it is copied for the time of the run.

    Parameters
    ----------
    artifact : Artifact
    destination : SshDestination or AdbDestination
    plan : Plan
    threads : int or None
        None: as many as there are cores that the run may use.
    command : str
        Repeats it; for the report.
    show : callable
        Is told what is being done.
    notify : callable
        Is told what could not be removed from the board.

    Raises
    ------
    TsmEdgeError
        Nothing was measured: a video is to be timed, which only this machine can; the board cannot be reached, does not
        fit the model, has no room; the sensor is not there; the connection is lost for good; or what came back cannot
        be true.
    """
    if plan.video is not None:
        raise refuse_elsewhere(plan.video, open_transport(destination).name)
    if RUNNER not in artifact.manifest.files:
        raise BenchError(
            f"{artifact.path} has no {RUNNER}, which is what runs on a board", "compile it again with: tsm-edge compile"
        )
    with visiting(artifact.path, destination, lambda text: show(text, None), notify) as visit:
        show(f"{visit.transport.name}: looking at the machine", None)
        system = _system(visit.transport)
        before = snapshot(system, 0.0)
        board = _Board(visit, system, artifact, plan, threads or min(MOST_THREADS, max(1, len(before.affinity))))
        with _chosen(board) as chosen:
            outcome = _measure(board, chosen, show)
        after = _after(board)
    result = _completed(outcome.result, board, before, after, command)
    return Outcome(replace(result, route=_route(destination), verdicts=verdicts(result)), outcome.error)


def open_system(destination: Destination) -> tuple[str, ShellSystem]:
    """The name of the machine behind a destination, and its files and programs.

    Raises
    ------
    DeployError
        The program for this way is not installed, or there is no such device.
    """
    transport = open_transport(destination)
    transport.check()
    return transport.name, _system(transport)


def board_target(destination: Destination) -> TargetCard:
    """Describe the machine behind a destination as a target.

    Raises
    ------
    TsmEdgeError
        It cannot be reached, or does not tell what it is.
    """
    name, system = open_system(destination)
    try:
        machine = system.run("uname", "-m").strip()
    except OSError as error:
        problem = f"{name} does not say what machine it is ({error.strerror})"
        raise BenchError(problem, "name its target: --target T") from None
    return detected_target(system, machine)


def _measure(board: _Board, chosen: Chosen, show: Show) -> Outcome:
    """Run the runner, with its own sensor, another one or none."""
    errand = Errand(board.visit.transport, board.visit.folder)
    show(f"{board.name}: measuring", None)
    if chosen.meter is None:
        said = errand.run(board.options(chosen.by_runner), _limit_s(board.plan))
        result = read_told(said.text, board.name, board.artifact, board.plan, board.threads, said.seconds)
        return Outcome(_with_reason(result, chosen), said.stopped)
    measured = measure_outside(
        chosen.meter, board.plan.idle_s, lambda: errand.run(board.options("none"), _limit_s(board.plan))
    )
    said = measured.said
    result = read_told(said.text, board.name, board.artifact, board.plan, board.threads, said.seconds)
    return Outcome(measured.added_to(result), said.stopped)


@contextlib.contextmanager
def _chosen(board: _Board) -> Iterator[Chosen]:
    chosen = choose_meter(board.plan.power, board.system)
    try:
        yield chosen
    finally:
        if chosen.meter is not None:
            chosen.meter.close()


def _with_reason(result: Result, chosen: Chosen) -> Result:
    """Say why no sensor was asked for."""
    if not chosen.reason:
        return result
    others = tuple(entry for entry in result.unavailable if entry.key != "power")
    return replace(result, unavailable=(*others, Refused("power", chosen.reason)))


def _completed(result: Result, board: _Board, before: Environment, after: Environment | None, command: str) -> Result:
    """Add what only this side knows."""
    unavailable = [entry for entry in result.unavailable if entry.key != "verdicts"]
    yardstick = result.yardstick if board.artifact.manifest.target.device == "cpu" else ()
    if not yardstick:
        unavailable.append(Refused("yardstick", no_yardstick(board.artifact)))
    return replace(
        result,
        name=board.name,
        address=board.name,
        server=None,
        command=command,
        clock="CLOCK_MONOTONIC of the board, read in tsm-runner",
        model=model_of(board.artifact),
        settings=board.plan.settings(board.threads),
        startup=replace(result.startup, upload_ms=None if board.visit.copy_s is None else 1e3 * board.visit.copy_s),
        environment_before=_merged(before, result.environment_before),
        environment_after=result.environment_after if after is None else _merged(after, result.environment_after),
        yardstick=yardstick,
        unavailable=tuple(unavailable),
    )


def _merged(seen: Environment, told: Environment | None) -> Environment:
    """What was seen over the shell, with what moves as the runner saw it, right before and after its frames."""
    if told is None:
        return seen
    return replace(
        seen,
        at_s=told.at_s,
        cores=told.cores or seen.cores,
        affinity=told.affinity or seen.affinity,
        temperatures=told.temperatures or seen.temperatures,
        load_1min=told.load_1min,
        busy_s=told.busy_s,
        stolen_s=told.stolen_s,
        own_s=told.own_s,
        memory_available_mb=told.memory_available_mb,
    )


def _after(board: _Board) -> Environment | None:
    """The machine afterwards; None: it does not answer any more, and the times are whole all the same."""
    try:
        return snapshot(board.system, 0.0)
    except PowerError:
        return None


def _system(transport: Transport) -> ShellSystem:
    def shell(script: str) -> str:
        try:
            return transport.run(script, _LOOK_S).output
        except DeployError as error:
            raise PowerError(error.problem, error.hint) from None

    return ShellSystem(shell)


def _route(destination: Destination) -> Route:
    return "ssh" if isinstance(destination, SshDestination) else "adb"


def _limit_s(plan: Plan) -> float:
    """After so long without an end a board hangs."""
    known_s = plan.duration_s if plan.frames is None else None
    return 86400.0 if plan.frames is not None else 600.0 + plan.warmup_s + 2 * plan.idle_s + 3 * (known_s or 10.0)
