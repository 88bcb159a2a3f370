"""``tsm-edge run`` with a network of clips: one label of a whole video, or a label for each section of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cli.clips import figures, guesses, video_line
from tsm_edge.cli.given import refuse_given
from tsm_edge.cli.output import print_json_line, print_table, status, warn
from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable

if TYPE_CHECKING:
    from tsm_edge.artifact.manifest import Manifest
    from tsm_edge.cli.clips import ClipOptions
    from tsm_edge.label.decoding import VideoEnded
    from tsm_edge.label.labelling import SectionLabel, Spent
    from tsm_edge.label.members import Ensemble
    from tsm_edge.rpc.place import Place
    from tsm_edge.session.base import Session

# Options of `run` that only make sense frame by frame: parameter and option.
_FRAME_BY_FRAME = {
    "camera": "--camera",
    "loop": "--loop",
    "out": "--out",
    "every": "--every",
    "smooth": "--smooth",
    "show": "--show",
    "limit": "--limit",
    "gap": "--gap",
    "reconnect": "--reconnect",
    "quiet": "--quiet",
    "page": "--page",
    "events": "--events",
    "webhook": "--webhook",
    "mqtt": "--mqtt",
    "record": "--record",
}


def refuse_what_is_not_for(manifest: Manifest, ctx: click.Context, showing: ClipOptions, sliding: float | None) -> None:
    """Refuse options that are for the other kind of network.

    Raises
    ------
    UsageError
        Naming the first.
    """
    if not manifest.clip:
        wrong = [*showing.given(), *(["--sliding"] if sliding is not None else [])]
        if wrong:
            raise click.UsageError(
                f"{wrong[0]} is for networks of clips, and {manifest.model} takes one frame after another: "
                "leave it out, or compile with --mode offline",
                ctx,
            )
        return
    refuse_given(
        ctx,
        _FRAME_BY_FRAME,
        f"is for online networks, and {manifest.model} takes clips of {manifest.frames} frames of a file: "
        "leave it out, or compile with --mode online",
    )
    both = [option for option in showing.given() if option in ("--sampling", "--clips")]
    if sliding is not None and both:
        raise click.UsageError(f"{both[0]} is for whole videos: expected it or --sliding, not both", ctx)


def run_clips(
    session: Session,
    place: str,
    showing: ClipOptions,
    sliding: float | None,
    device: Place | None,
    threads: int,
    as_json: bool,
) -> None:
    """Label a file, and print what it shows."""
    from tsm_edge.video.capture import is_pipeline, is_url

    if is_url(place) or is_pipeline(place):
        raise VideoError(
            f"{session.manifest.model} takes clips from all of a video: expected a file, not a stream",
            "download it, or compile with --mode online",
        )
    with showing.together(session, device, threads) as members:
        if sliding is not None:
            _over_time(members, Path(place), sliding, as_json)
        else:
            _whole(members, Path(place), showing, as_json)


def _whole(members: Ensemble, path: Path, showing: ClipOptions, as_json: bool) -> None:
    from tsm_edge.label.decoding import NotLabelled
    from tsm_edge.label.labelling import label_videos

    with status(f"labelling {printable(path)}"):
        (found,) = label_videos(members, [path], showing.how())
    if isinstance(found, NotLabelled):
        raise found.error
    if as_json:
        print_json_line(video_line(found))
    else:
        rows = [(guess.label, f"{100 * guess.probability:15.1f}") for guess in found.top]
        print_table("", ("label", "probability (%)"), rows)
        _print_figures(found.video, found.spent)
    _tell_trouble(found.video)


def _over_time(members: Ensemble, path: Path, sliding: float, as_json: bool) -> None:
    from tsm_edge.label.decoding import Sliding
    from tsm_edge.label.labelling import SectionLabel, label_sections

    width = max(map(len, members.labels or (f"class {members.manifest.classes - 1}",)))
    for found in label_sections(members, path, Sliding(sliding)):
        if isinstance(found, SectionLabel):
            _print_section(found, width, as_json)
        else:
            _print_end(found.video, found.spent, as_json)


def _print_section(section: SectionLabel, width: int, as_json: bool) -> None:
    if as_json:
        times = {"start_s": round(section.start_s, 3), "end_s": round(section.end_s, 3)}
        print_json_line({"type": "section", **times, **guesses(section.top)})
        return
    best = section.top[0]
    click.echo(
        f"{section.start_s:8.2f} to {section.end_s:8.2f} s  {best.label:<{width}}  {100 * best.probability:5.1f} %"
    )


def _print_end(video: VideoEnded, spent: Spent, as_json: bool) -> None:
    if as_json:
        print_json_line({"type": "summary", "video": video.video, **figures(video, spent)})
    else:
        click.echo()
        _print_figures(video, spent)
    _tell_trouble(video)


def _print_figures(video: VideoEnded, spent: Spent) -> None:
    click.echo(
        f"{video.frames} frames, {video.duration_s:.2f} s; clips shown: {spent.clips}; decoding {video.decode_s:.2f} s "
        f"beside the network's {spent.network_s:.2f} s"
    )


def _tell_trouble(video: VideoEnded) -> None:
    if video.trouble:
        warn(f"video {video.video}: {video.trouble}")
