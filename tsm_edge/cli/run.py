"""``tsm-edge run``: live predictions on a video file, a stream or a camera."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.artifact.folder import files_of_artifact
from tsm_edge.artifact.manifest import RANDOM_WEIGHTS
from tsm_edge.cli.artifacts import advised_threads_option, artifact_argument, chosen_artifact, rpc_options
from tsm_edge.cli.clips import ClipOptions, clip_options
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import json_option, print_json_line, print_table, print_text, to_plain, warn
from tsm_edge.cli.run_clips import refuse_what_is_not_for, run_clips
from tsm_edge.cli.watching import Watching, watched, watching_options
from tsm_edge.files.paths import refuse_replacing

if TYPE_CHECKING:
    from tsm_edge.artifact.manifest import Manifest
    from tsm_edge.live.observer import Observer
    from tsm_edge.live.result import FrameResult, RunSummary
    from tsm_edge.live.run import RunRequest
    from tsm_edge.rpc.place import Place
    from tsm_edge.session.base import Session
    from tsm_edge.video.base import VideoSource


@click.command("run")
@artifact_argument
@click.option("--video", metavar="FILE|URL", help="A video file, a folder of pictures, a stream, or a pipeline.")
@click.option("--camera", metavar="N|URL|FILE", help="A camera, by its number or address; or a file in its place.")
@click.option("--loop", is_flag=True, help="Play a file again and again, at its own pace.")
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    metavar="FILE.mp4",
    type=click.Path(path_type=Path),
    help="Write the annotated video here.",
)
@json_option
@click.option(
    "--every", metavar="K", type=click.IntRange(min=1), default=1, show_default=True, help="Predict on each K-th frame."
)
@click.option("--smooth/--raw", default=False, help="Steady the label by the model card's rules.  [default: raw]")
@advised_threads_option
@click.option("--show", is_flag=True, help="Show the annotated video in a window (q: quit).")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Stop after N frames.")
@click.option(
    "--gap",
    metavar="S",
    type=RealRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Reset the caches after a gap of S seconds.",
)
@click.option(
    "--reconnect",
    metavar="S",
    type=RealRange(0),
    default=0.0,
    show_default=True,
    help="Try a lost live source again for S seconds (inf: for ever).",
)
@click.option("--quiet", is_flag=True, help="Print no line a frame.")
@click.option("--sliding", metavar="S", type=RealRange(), help="Networks of clips: a label for each S seconds.")
@clip_options
@watching_options
@rpc_options
@click.pass_context
def command(
    ctx: click.Context,
    artifact: Path | None,
    video: str | None,
    camera: str | None,
    loop: bool,
    out: Path | None,
    as_json: bool,
    every: int,
    smooth: bool,
    threads: int | None,
    show: bool,
    limit: int | None,
    gap: float,
    reconnect: float,
    quiet: bool,
    sliding: float | None,
    showing: ClipOptions,
    watching: Watching,
    device: Place | None,
) -> None:
    """Predict on every frame of a video with the compiled model in DIR, and say how long each part took.

    A network of clips gives one label for the whole file, or with --sliding one for each section of it.

    A live source gives its newest frame each time, so that predictions never lag behind. Ctrl-C ends the run; the
    annotated video is finished first. With --rpc or --tracker the network runs on another machine: decoding stays
    here, and step times include the network.
    """
    place = checked_source(ctx, video, camera, loop)
    from tsm_edge.live.run import RunRequest
    from tsm_edge.session.open import open_session
    from tsm_edge.video.capture import SourceOptions
    from tsm_edge.video.source import open_looped, open_source

    logs = bool(ctx.obj.debug)
    options = SourceOptions(gap_s=gap, reconnect_s=reconnect, native_logs=logs)
    request = RunRequest(every=every, smooth=smooth, limit=limit, out=out, show=show, native_logs=logs)
    path = chosen_artifact(artifact)
    if out is not None:
        refuse_replacing(out, files_of_artifact(path), "-o FILE.mp4")
    with open_session(path, device, threads, notify=warn) as session:
        refuse_what_is_not_for(session.manifest, ctx, showing, sliding)
        if session.manifest.clip:
            run_clips(session, str(place), showing, sliding, device, threads or 1, as_json)
            return
        source = open_looped(place, options) if loop else open_source(place, options)
        with source, watched(watching, session.manifest, source.info) as observers:
            output = Output(as_json, quiet, "step, with network" if device else "step")
            _run(session, source, request, observers, output)


def checked_source(ctx: click.Context, video: str | None, camera: str | None, loop: bool) -> str | int:
    """What is watched.

    Raises
    ------
    UsageError
        Nothing or two things are, or a camera shall be played again.
    """
    if (video is None) == (camera is None):
        raise click.UsageError("expected either --video FILE|URL or --camera N|URL|FILE", ctx)
    from tsm_edge.video.source import chosen_source

    place = chosen_source(video, camera)
    if loop and isinstance(place, int):
        raise click.UsageError("--loop plays a file again, and a camera is none", ctx)
    return place


@dataclass(frozen=True)
class Output:
    """How a run is printed.

    Attributes
    ----------
    as_json : bool
    quiet : bool
        No line a frame.
    step : str
        What is timed as a step.
    """

    as_json: bool
    quiet: bool
    step: str


def _run(session: Session, source: VideoSource, request: RunRequest, observers: list[Observer], output: Output) -> None:
    from tsm_edge.live.run import run

    if session.manifest.random_weights:
        warn(RANDOM_WEIGHTS)
    width = _label_width(session.manifest)
    results = run(session, source, request, observers)
    try:
        with results:
            for result in results:
                if not output.quiet:
                    _print_frame(result, width, output.as_json)
    finally:
        # Also after Ctrl-C or a lost camera: what was done until then counts.
        summary = results.summary()
        _print_summary(summary, output.as_json, output.step)
    if not summary.complete:
        warn(f"{summary.source}: {summary.ended}")


def _label_width(manifest: Manifest) -> int:
    names = manifest.labels or (f"class {manifest.classes - 1}",)
    return max(map(len, names))


# Columns that the parts of a line a frame take beside the label.
_BESIDE_LABEL = 84


def _print_frame(result: FrameResult, width: int, as_json: bool) -> None:
    if as_json:
        fields = to_plain(result)
        del fields["logits"]
        print_json_line({"type": "frame", **fields})
        return
    reset = f"  caches reset: {result.reset}" if result.reset not in ("", "start") else ""
    # A window that is too narrow does without what is in the summary anyway.
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < width + _BESIDE_LABEL
    parts = "" if narrow else f"  decode {result.decode_ms:4.1f} ms  preprocess {result.preprocess_ms:4.1f} ms"
    click.echo(
        f"frame {result.index:<5d} {result.time_s:8.2f} s  {result.label:<{width}}  {100 * result.probability:5.1f} %"
        f"{parts}  step {result.step_ms:5.1f} ms{reset}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _print_summary(summary: RunSummary, as_json: bool, step: str) -> None:
    if as_json:
        print_json_line({"type": "summary", **to_plain(summary)})
    else:
        _print_tables(summary, step)


def _print_tables(summary: RunSummary, step: str) -> None:
    parts = {
        "decode": summary.decode,
        "preprocess": summary.preprocess,
        step: summary.step,
        "frame to label": summary.latency,
    }
    rows = [(name, f"{timing.median_ms:11.2f}", f"{timing.p90_ms:8.2f}") for name, timing in parts.items() if timing]
    click.echo()
    if rows:
        print_table("", ("part", "median (ms)", "p90 (ms)"), rows)
    print_text(
        f"{summary.predictions} predictions on {summary.frames} frames in {summary.wall_s:.2f} s: "
        f"{summary.frames_per_s:.1f} frames/s, {summary.dropped} frames dropped, caches reset {_times(summary.resets)}"
    )
    click.echo(f"ended: {summary.ended}")
    if summary.out is not None:
        click.echo(f"annotated video: {summary.out}")
    if summary.random_weights:
        click.echo(RANDOM_WEIGHTS)
