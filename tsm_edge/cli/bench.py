"""``tsm-edge bench``: how long a frame takes, here or on a board, what it costs, and whether that can be believed."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cards.architecture import MOST_THREADS
from tsm_edge.cli.bench_output import print_comparison, print_result, write_outputs
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import note, status, warn
from tsm_edge.cli.places import places_of
from tsm_edge.cli.table8 import show_table8
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.artifact.folder import Artifact
    from tsm_edge.bench.boards import Destination
    from tsm_edge.bench.plan import Plan
    from tsm_edge.bench.result import Result
    from tsm_edge.bench.run import Outcome, Show
    from tsm_edge.bench.subject import Subject
    from tsm_edge.bench.together import Job
    from tsm_edge.errors import TsmEdgeError
    from tsm_edge.rpc.place import Place

_SECRET = "--key"


@click.command("bench")
@click.argument("paths", metavar="[DIR]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--rpc", multiple=True, metavar="HOST:PORT", help="On the device served there; again for more.")
@click.option("--tracker", metavar="HOST:PORT", help="On all devices that this tracker has free under --key.")
@click.option("--key", metavar="K", default="", help="The server's key; with --tracker: the devices' key.")
@click.option("--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the key from a file.")
@click.option("--ssh", multiple=True, metavar="USER@HOST", help="On a board with no more than sshd; again for more.")
@click.option(
    "--ssh-config", metavar="FILE", type=click.Path(path_type=Path), help="Configuration for ssh, instead of your own."
)
@click.option(
    "--adb", is_flag=False, flag_value="", metavar="[SERIAL]", help="On an Android device, with no more than adb."
)
@click.option("--target", metavar="T", help="Without DIR: compile for this target.  [default: what the machine is]")
@click.option("--frames", metavar="N", type=click.IntRange(1, 1_000_000), help="At least so many frames.")
@click.option("--duration", metavar="S", type=RealRange(0.1, 86400), help="At least so many seconds.  [default: 10]")
@click.option(
    "--warmup",
    metavar="S",
    type=RealRange(0, 3600),
    default=1.0,
    show_default=True,
    help="Untimed seconds first.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, MOST_THREADS),
    help="CPU threads of the model.  [default: 1; board: all cores]",
)
@click.option(
    "--fps", metavar="F", type=RealRange(0.01, 10000), help="Paced: so many frames a second, as from a camera."
)
@click.option(
    "--video",
    metavar="FILE",
    help="Also time frames of a video (file, stream, camera) from decoding to label; on this machine.",
)
@click.option(
    "--power", metavar="SENSOR", default="auto", show_default=True, help="A sensor of tsm-edge power, auto or none."
)
@click.option(
    "--idle",
    metavar="S",
    type=RealRange(0.5, 3600),
    default=3.0,
    show_default=True,
    help="With --power: idling before and after.",
)
@click.option("--in-turn", is_flag=True, help="Several machines one after the other, not at the same time.")
@click.option("--no-peak", is_flag=True, help="Leave out the machine's highest GFLOP/s.")
@click.option(
    "--json",
    "json_file",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="The results as JSON, to stdout or FILE.",
)
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Also write a report to look at.")
@click.option(
    "--compare",
    metavar="OLD.json",
    type=click.Path(path_type=Path),
    help="Say whether this run is slower or faster than that.",
)
@click.option(
    "--tolerance",
    metavar="%",
    type=RealRange(0, 100),
    default=5.0,
    show_default=True,
    help="With --compare: slower by more is exit code 1.",
)
@click.option("--fix-clocks", is_flag=True, help="Print the commands that hold the clocks; run none, measure nothing.")
@click.option("--table8", is_flag=True, help="Lay results beside Table 8 of the TSM paper: --table8 FILE.json ...")
@click.pass_context
def command(
    ctx: click.Context,
    paths: tuple[Path, ...],
    rpc: tuple[str, ...],
    tracker: str | None,
    key: str,
    key_file: Path | None,
    ssh: tuple[str, ...],
    ssh_config: Path | None,
    adb: str | None,
    target: str | None,
    frames: int | None,
    duration: float | None,
    warmup: float,
    threads: int | None,
    fps: float | None,
    video: str | None,
    power: str,
    idle: float,
    in_turn: bool,
    no_peak: bool,
    json_file: str | None,
    html: Path | None,
    compare: Path | None,
    tolerance: float,
    fix_clocks: bool,
    table8: bool,
) -> None:
    """Measure latency and power of the compiled model in DIR, here or on boards, and say what the figures are worth.

    Frames run on the device, in model.so, with the caches fed back; the network is in no figure. Without DIR the
    default model is compiled for the machine. Exit code 1: slower than --compare by more than --tolerance, or wrong.
    """
    from tsm_edge.bench.plan import Plan
    from tsm_edge.bench.result import read_document
    from tsm_edge.rpc.key import chosen_key

    if table8:
        show_table8(paths, json_file)
        return
    if compare is not None and paths and paths[0].is_file():
        _compare_files(ctx, compare, paths, tolerance)
        return
    artifact = _only(paths, ctx)
    boards = _boards(ssh, ssh_config, adb)
    elsewhere = bool(boards) and not rpc and tracker is None
    places = [] if elsewhere else places_of(rpc, tracker, chosen_key(key, key_file))
    if fix_clocks:
        _print_clock_commands(places, boards)
        return
    if artifact is not None and target is not None:
        raise click.UsageError("--target is for a model that is compiled now: expected it or DIR", ctx)
    plan = Plan(frames, duration, warmup, fps=fps, video=video, power=power, idle_s=idle, peak=not no_peak)
    _refuse_video_elsewhere(video, places, boards)
    earlier = read_document(compare) if compare is not None else None
    json_path = None if json_file in (None, "-") else Path(str(json_file))
    quiet = json_file == "-"
    with contextlib.ExitStack() as stack:
        outcomes = stack.enter_context(write_outputs(json_path, html, quiet, artifact))
        subjects = [
            stack.enter_context(_opened(place, _artifact(place, artifact, target), threads)) for place in places
        ]
        jobs = [_job(subject, plan) for subject in subjects]
        jobs += [_job_on_board(board, artifact, target, plan, threads, len(places) + len(boards)) for board in boards]
        errors = _measure(jobs, outcomes, in_turn, plan)
        if not quiet:
            for outcome in outcomes:
                print_result(outcome.result)
    for error in errors:
        raise error
    _end(outcomes)
    results = [outcome.result for outcome in outcomes]
    code = print_comparison(earlier, results, tolerance, quiet) if earlier is not None else 0
    ctx.exit(1 if any(_is_wrong(result) for result in results) else code)


def _refuse_video_elsewhere(video: str | None, places: Sequence[Place | None], boards: Sequence[Destination]) -> None:
    """Before a model is compiled and machines are reached."""
    from tsm_edge.bench.camera import refuse_elsewhere

    elsewhere = [*(str(place) for place in places if place is not None), *("the board" for _ in boards)]
    if video is not None and elsewhere:
        raise refuse_elsewhere(video, elsewhere[0])


def _is_wrong(result: Result) -> bool:
    return result.verification is not None and not result.verification.passed


def _only(paths: Sequence[Path], ctx: click.Context) -> Path | None:
    if len(paths) > 1:
        raise click.UsageError(f"{len(paths)} folders, expected one DIR (files of results are for --table8)", ctx)
    return paths[0] if paths else None


def _compare_files(ctx: click.Context, old: Path, paths: Sequence[Path], tolerance: float) -> None:
    """Compare what was measured and written before; measures nothing."""
    from tsm_edge.bench.result import read_document

    earlier = read_document(old)
    results = [result for path in paths for result in read_document(path).results]
    ctx.exit(print_comparison(earlier, results, tolerance, quiet=False))


def _end(outcomes: Sequence[Outcome]) -> None:
    """Once all is written: end as what ended a measurement early says."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def _boards(ssh: tuple[str, ...], config: Path | None, adb: str | None) -> list[Destination]:
    from tsm_edge.deploy.adb import adb_destination
    from tsm_edge.deploy.destination import parse_destination

    over_ssh = [parse_destination(text, config) for text in ssh]
    return [*over_ssh, *([adb_destination(adb)] if adb is not None else [])]


def _measure(jobs: Sequence[Job], outcomes: list[Outcome], in_turn: bool, plan: Plan) -> list[TsmEdgeError]:
    """Measure all, into a list; returns what went wrong where nothing was measured."""
    from tsm_edge.bench.subject import is_beside
    from tsm_edge.bench.together import measure_together, shared_machines

    several = len(jobs) > 1 and not in_turn
    for names in shared_machines(jobs) if several else ():
        note(f"{' and '.join(names)} are one machine: measured one after the other")
    if several and is_beside(plan.power):
        note(f"--power {plan.power} reads one meter for all machines: measured one after the other")
        in_turn = True
    errors: list[TsmEdgeError] = []
    with status(f"{', '.join(job.name for job in jobs)}: measuring") as show:
        for found in measure_together(jobs, in_turn, show):
            if isinstance(found, Exception):
                errors.append(found)
            else:
                outcomes.append(found)
    return errors


def _job(subject: Subject, plan: Plan) -> Job:
    from tsm_edge.bench.run import run
    from tsm_edge.bench.together import Job, machine_behind

    def measure(show: Show) -> Outcome:
        return run(subject, plan, _command(), lambda text, done: show(f"{subject.name}: {text}", done))

    return Job(subject.name, machine_behind(subject.system, subject.address), measure)


def _job_on_board(
    board: Destination, path: Path | None, target: str | None, plan: Plan, threads: int | None, places: int
) -> Job:
    from tsm_edge.bench.boards import measure_on_board, open_system
    from tsm_edge.bench.together import Job, machine_behind

    artifact = _artifact(board, path, target)
    name, system = open_system(board)
    # Who is alone needs not be told from others.
    machine = machine_behind(system, name) if places > 1 else name
    return Job(name, machine, lambda show: measure_on_board(artifact, board, plan, threads, _command(), show, warn))


@contextlib.contextmanager
def _opened(place: Place | None, artifact: Artifact, threads: int | None) -> Iterator[Subject]:
    from tsm_edge.bench.subject import here, over_rpc

    subject = here(artifact, threads or 1) if place is None else over_rpc(artifact, place, threads, notify=warn)
    with contextlib.closing(subject):
        yield subject


def _artifact(place: Place | Destination | None, path: Path | None, target: str | None) -> Artifact:
    from tsm_edge.artifact.folder import load_artifact

    if path is not None:
        return load_artifact(path)
    require("compile", "tsm-edge bench without DIR")
    from tsm_edge.bench.boards import board_target
    from tsm_edge.bench.default_model import default_artifact, target_for
    from tsm_edge.rpc.place import Place

    if target is None and not isinstance(place, Place) and place is not None:
        card = board_target(place)
    else:
        card = target_for(place if isinstance(place, Place) else None, target)
    with status(f"compiling the default model for {card.name}") as show:
        artifact = default_artifact(card, lambda text, done: show(f"the default model for {card.name}: {text}", done))
    note(f"model: {artifact.manifest.model} for {card.name}, {artifact.path}")
    return artifact


def _print_clock_commands(places: Sequence[Place | None], boards: Sequence[Destination]) -> None:
    from tsm_edge.bench.boards import open_system
    from tsm_edge.bench.environment import fix_clock_commands, snapshot
    from tsm_edge.power.system import LocalSystem
    from tsm_edge.rpc.device import open_device
    from tsm_edge.rpc.machine import RemoteSystem
    from tsm_edge.rpc.place import TimeLimits

    for place in places:
        if place is None:
            commands = fix_clock_commands(snapshot(LocalSystem(), 0.0))
        else:
            with contextlib.closing(open_device(place, TimeLimits())) as device:
                commands = fix_clock_commands(snapshot(RemoteSystem(device), 0.0))
        _print_commands(str(place or "this machine"), commands)
    for board in boards:
        name, system = open_system(board)
        _print_commands(name, fix_clock_commands(snapshot(system, 0.0)))


def _print_commands(name: str, commands: Sequence[str]) -> None:
    for line in commands:
        click.echo(line)
    if not commands:
        note(f"{name}: shows no clock that could be held")


def _command() -> str:
    """What repeats this run; keys are secrets."""
    words = ["tsm-edge", *sys.argv[1:]]
    for index, word in enumerate(words):
        if word == _SECRET and index + 1 < len(words):
            words[index + 1] = "KEY"
        elif word.startswith(f"{_SECRET}="):
            words[index] = f"{_SECRET}=KEY"
    return shlex.join(words)
