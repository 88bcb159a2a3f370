"""``tsm-edge tune``: what the rules chose, corrected by measurements on the board."""

from __future__ import annotations

import contextlib
import datetime
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cards import DEFAULT_MODEL, ModelCard, load_model, load_target, model_names, shipped_records
from tsm_edge.cards.architecture import MOST_THREADS, why_not_here
from tsm_edge.cards.detect_gpu import detect_gpu
from tsm_edge.cards.precision import FP32, INT8, precision_named
from tsm_edge.cards.threads import Threads
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.cli.report import check_report, not_writable
from tsm_edge.errors import CardError, TuneError
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.artifact.folder import Artifact
    from tsm_edge.cards import TargetCard
    from tsm_edge.compile.trials import Network
    from tsm_edge.rpc.place import Place
    from tsm_edge.tune.boards import Board
    from tsm_edge.tune.state import State, Tuned

FAST, FULL = "2m", "30m"
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{text!r}: expected a time like 90s, 5m or 1h", param_hint="--budget")
    return float(found[1]) * _UNITS_S[found[2] or "m"]


@click.command("tune")
@click.argument("model", metavar="[MODEL|DIR]", required=False)
@click.option("--target", metavar="T", help="Target card, for a MODEL that is compiled now.  [default: native]")
@click.option("--rpc", multiple=True, metavar="HOST:PORT", help="On the device served there; or on several alike.")
@click.option("--tracker", metavar="HOST:PORT", help="On all devices this tracker has free under --key.")
@click.option("--key", metavar="K", default="", help="The server's key; with --tracker: the devices' key.")
@click.option("--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the key from a file.")
@click.option("--budget", metavar="TIME", default="5m", show_default=True, help="How long: 90s, 5m, 1h.")
@click.option("--fast", "budget", flag_value=FAST, help=f"--budget {FAST}.")
@click.option("--full", "budget", flag_value=FULL, help=f"--budget {FULL}.")
@click.option("--precision", metavar="P", help="For a MODEL: fp32, fp16, or fp16-fp32 on a GPU.  [default: fp32]")
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, MOST_THREADS),
    help="CPU threads of a step; without, they are tuned, too.",
)
@click.option("--kernels", "pattern", metavar="PATTERN", default="*", help="Only these layers: 'features.1*'.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of records.  [default: records/TARGET.jsonl]",
)
@click.option("--continue", "go_on", is_flag=True, help="Go on with a file of records.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Also write a report to look at.")
@click.option("--dry-run", is_flag=True, help="Show kernels and candidates; measure nothing.")
@json_option
def command(
    model: str | None,
    target: str | None,
    rpc: tuple[str, ...],
    tracker: str | None,
    key: str,
    key_file: Path | None,
    budget: str,
    precision: str | None,
    threads: int | None,
    pattern: str,
    output: Path | None,
    go_on: bool,
    html: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find, on the board itself, what is faster than the rules' choice for each kernel, and keep it as records.

    MODEL is a model card, compiled for --target; DIR a compiled model. Nothing is recorded that is not faster beyond
    doubt. tsm-edge compile --records FILE then uses the records. Exit code 0 whether something is faster or not.
    """
    require("compile", "tsm-edge tune")
    from tsm_edge.cli.places import places_of
    from tsm_edge.compile.trial_library import TrialBuilder
    from tsm_edge.compile.trials import network_of
    from tsm_edge.files.atomic import scratch_folder
    from tsm_edge.rpc.key import chosen_key
    from tsm_edge.tune.boards import check_alike
    from tsm_edge.tune.candidates import kernels_to_tune
    from tsm_edge.tune.fleet import Fleet
    from tsm_edge.tune.ledger import Ledger
    from tsm_edge.tune.page import write_page
    from tsm_edge.tune.state import Budget
    from tsm_edge.tune.tuner import Tuner

    budget_s = _seconds(budget)
    places = places_of(rpc, tracker, chosen_key(key, key_file))
    compiled = _compiled(model, target, precision)
    card = load_target(target or "native") if compiled is None else compiled.manifest.target
    source = compiled or _source(model or DEFAULT_MODEL, card, precision)
    path = output or Path("records") / f"{card.name}.jsonl"
    if html is not None:
        check_report(html, [path])
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        is_begun = go_on and not path.exists()
        ledger = None if dry_run else stack.enter_context(Ledger(path, go_on, warn))
        if is_begun and ledger is not None:
            warn(f"{path}: is not there, so nothing is gone on with; it is begun")
        # Before anything is compiled: whether they can be reached, and run it.
        boards = [] if dry_run else [_board(place, threads, card) for place in places]
        for board in boards:
            stack.callback(board.close)
        check_alike(boards, warn)
        if isinstance(source, ModelCard):
            source = _compile(source, card, precision or FP32.name, folder)
        network = network_of(source)
        kernels_to_tune(network, {}, pattern)
        if ledger is None:
            _print_candidates(network, pattern, as_json)
            return
        trials = folder / "trials"
        trials.mkdir()
        show = stack.enter_context(_progress())
        about = _about(boards, threads, network)
        builder = TrialBuilder(network, trials)
        fleet, known = Fleet(boards, warn), _shipped(card)
        tuner = Tuner(network, fleet, ledger, builder, Budget(budget_s), about, show, known)
        tuned = tuner.run(pattern)
        records, used = tuner.known(), network.recorded(ledger.records).covered
    if as_json:
        print_json({"records": path, "faster": tuned.is_faster, "tuned": tuned})
    else:
        following = _next(model, target, precision, path) if compiled is None else _again(compiled, path)
        _print(tuned, path, used, about["threads"], following)
    if html is not None:
        try:
            write_page(tuned, records, f"{network.manifest.model} for {card.name}", html)
        except OSError as error:
            raise not_writable(html, error) from None
        note(f"report: {html}")


def _shipped(card: TargetCard) -> frozenset[str]:
    """The candidates that come with a target: what compile would use, were there not the records that are made now."""
    from tsm_edge.compile.records import read_records

    path = shipped_records(card.name)
    return frozenset(record.candidate for record in read_records(path).records) if path is not None else frozenset()


def _next(model: str | None, target: str | None, precision: str | None, path: Path) -> str:
    how = ("--precision", precision) if precision is not None else ()
    words = ("compile", model or DEFAULT_MODEL, "--target", target or "native", *how, "--records", str(path))
    return f"next: tsm-edge {shlex.join(words)}"


def _again(compiled: Artifact, path: Path) -> str:
    return f"next: compile {compiled.path} again as it was, with: --records {shlex.quote(str(path))}"


def _nothing_faster(tuned: Tuned, used: int) -> str:
    """What is said of a run without a new record; ``used``: kernels that earlier runs have records for."""
    kept = "the trials are kept for --continue"
    if tuned.refused:
        return f"the kernels are not recorded: {tuned.refused}; {kept}"
    if used:
        return f"no kernel makes the step faster beyond doubt now; compile uses {used} records of earlier runs; {kept}"
    what = "only the threads are used by compile" if tuned.threads else "no record is used by compile"
    return f"no kernel makes the step faster beyond doubt: {what}; {kept}"


def _compiled(model: str | None, target: str | None, precision: str | None) -> Artifact | None:
    """The compiled model in DIR; None: it is no folder of one."""
    from tsm_edge.artifact.folder import MANIFEST, load_artifact

    if model is None or not (Path(model) / MANIFEST).is_file():
        if model is not None and Path(model).is_dir() and model not in model_names():
            load_artifact(model)  # says what is missing
        return None
    if target is not None:
        raise click.UsageError("--target is for a model that is compiled now: expected it or DIR")
    found = load_artifact(model)
    if precision not in (None, found.manifest.precision):
        raise click.UsageError(
            f"--precision is for a model that is compiled now, and {model} is in {found.manifest.precision}: "
            "expected it or DIR"
        )
    return found


def _source(model: str, target: TargetCard, precision: str | None) -> ModelCard:
    """The card of MODEL, which can be tuned once it is compiled.

    Raises
    ------
    TuneError
        It cannot.
    """
    card = load_model(model)
    if card.network.temporal_mode != "online":
        raise TuneError(f"{model}: takes clips; models of streams can be tuned", "see the models: tsm-edge models")
    if precision == INT8.name:
        raise TuneError(
            f"precision int8 is tuned on a compiled model, calibrated with what it will see: expected DIR, not {model}",
            f"compile it first: tsm-edge compile {model} --target {target.name} --precision int8 --calibrate CLIP",
        )
    return card


def _compile(card: ModelCard, target: TargetCard, precision: str, folder: Path) -> Artifact:
    """A model, compiled by the rules alone."""
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    request = CompileRequest(
        target=target,
        output=folder / "model",
        card=card,
        runner=False,
        precision=precision_named(precision),
        records=(),
    )
    text = f"compiling {card.name} for {target.name}"
    with status(text) as show:
        return compile_model(request, lambda stage, done: show(f"{text}: {stage}", done), warn=warn)


def _board(place: Place | None, threads: int | None, card: TargetCard) -> Board:
    """The board behind a place; None: this machine.

    Raises
    ------
    TuneError
        This machine cannot run what is made for the target.
    """
    from tsm_edge.tune.boards import board_at, this_machine

    if place is not None:
        return board_at(place, threads, card)
    if why := why_not_here(card):
        raise TuneError(why, "name a board: --rpc HOST:PORT")
    if card.gpu is not None:
        try:
            detect_gpu()
        except CardError as error:
            raise TuneError(
                f"{card.name} is tuned on a GPU: {error.problem.partition(': ')[2]}", "name a board: --rpc HOST:PORT"
            ) from None
    return this_machine(threads, card.device)


def _about(boards: Sequence[Board], threads: int | None, network: Network) -> dict[str, str]:
    versions = network.manifest.versions
    return {
        "machine": ", ".join(dict.fromkeys(board.machine for board in boards)),
        "threads": str(threads or (1 if boards[0].local else "all")),
        "model": network.manifest.model,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **{name: versions[name] for name in ("tsm_edge", "tvm") if name in versions},
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[State], None]]:
    with status("tuning") as show:

        def tell(state: State) -> None:
            step = f"step {state.step_ms:.2f} ms, expected {state.hoped:.3f} of it" if state.step_ms else ""
            left = f"{state.left_s:.0f} s left" if state.left_s < 120 else f"{state.left_s / 60:.1f} min left"
            text = f"{state.doing}; {left}; {state.tried} tried, {state.kernels_tried} kernels; {step}"
            show(text.rstrip("; "), min(1.0, state.used))

        yield tell


def _print_candidates(network: Network, pattern: str, as_json: bool) -> None:
    from tsm_edge.tune.candidates import kernels_to_tune
    from tsm_edge.tune.tuner import A_CANDIDATE_S, A_GPU_CANDIDATE_S

    kernels = kernels_to_tune(network, {}, pattern)
    target = network.manifest.target
    count = sum(len(free.others) for free in kernels)
    seconds = count * (A_CANDIDATE_S if target.gpu is None else A_GPU_CANDIDATE_S)
    if as_json:
        rows = [{"kernel": free.label, "rule": free.rule, "candidates": len(free.others)} for free in kernels]
        print_json({"kernels": rows, "candidates": count, "seconds": round(seconds, 1)})
        return
    title = f"{network.manifest.model} for {target.name}"
    columns = ("kernel", "rule", "candidates")
    print_table(title, columns, [(free.label, free.rule, len(free.others)) for free in kernels])
    what, where = ("try", "") if target.gpu is None else ("compile", ", without the board")
    note(f"{count} candidates: to {what} all takes about {seconds / 60:.0f} min on a quiet server{where}")


def _print(tuned: Tuned, path: Path, used: int, threads: str, following: str) -> None:
    """``used``: records of the file that compile uses; ``threads``: of a step; ``following``: what to do with them."""
    from tsm_edge.bench.paired import Ratio
    from tsm_edge.tune.state import told

    how = str(Threads(int(threads))) if threads.isdigit() else f"{threads} threads"
    rows = [("kernels", str(tuned.kernels)), ("candidates tried", str(tuned.tried))]
    if tuned.wrong:
        rows.append(("of them wrong", f"{tuned.wrong}: their results differ, never used"))
    if tuned.failed:
        rows.append(("a board failed in", f"{tuned.failed} more, which are not tried again"))
    rows.append(("step by the rules", f"{tuned.step_ms:.2f} ms"))
    rows.append(("faster, each alone", f"{len(tuned.accepted)} kernels, beyond doubt"))
    if tuned.whole is not None:
        rows.append((f"whole step, {how}", f"{told(tuned.whole)} of the rules' time"))
    elif tuned.accepted:
        rows.append(("whole step", "together they compute something else, or do not fit: not recorded"))
    if tuned.threads is not None:
        best = tuned.threads
        step = "tuned step" if tuned.is_faster else "step by the rules"
        rows.append((f"{step}, {best.threads}", f"{told(Ratio(*best.ratio))} of its time with one thread"))
    if tuned.with_threads is not None:
        # Of the threads that it was refused for the record says nothing: it may have others.
        most = tuned.threads.threads if tuned.threads is not None and not tuned.refused else "more threads"
        rows.append((f"whole step, {most}", f"{told(tuned.with_threads)} of the rules' time with as many"))
    if tuned.refused:
        rows.append(("not recorded", f"what is faster, each alone: {tuned.refused}"))
    print_table(str(path), ("", ""), rows)
    if not tuned.tried:
        note("nothing new was tried: the time was up before, give more with --budget; or all was tried earlier")
    if used or tuned.threads is not None:
        note(following)
    if not tuned.is_faster and tuned.tried:
        note(_nothing_faster(tuned, used))
