"""``tsm-edge label``: recorded videos in, a line of JSON each out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsm_edge.artifact.folder import files_of_artifact
from tsm_edge.cli.artifacts import rpc_options, threads_option
from tsm_edge.cli.clips import ClipOptions, clip_options, video_line
from tsm_edge.cli.output import note, print_json_line, progress_bar, to_plain, warn
from tsm_edge.files.paths import printable, refuse_replacing

if TYPE_CHECKING:
    from tsm_edge.cli.output import Advance
    from tsm_edge.label.decoding import NotLabelled
    from tsm_edge.label.labelling import VideoLabel
    from tsm_edge.label.members import Ensemble
    from tsm_edge.label.output import Done, LabelFile
    from tsm_edge.rpc.place import Place

EXIT_SOME_FAILED = 1


@click.command("label")
@click.argument("artifact", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path),
    help="Append lines here; given again, go on where it was.  [default: print them]",
)
@click.option("--retry", is_flag=True, help="With -o: try videos again that could not be labelled.")
@clip_options
@threads_option
@rpc_options
@click.pass_context
def command(
    ctx: click.Context,
    artifact: Path,
    videos: tuple[Path, ...],
    output: Path | None,
    retry: bool,
    showing: ClipOptions,
    threads: int,
    device: Place | None,
) -> None:
    """Label recorded videos with the network of clips in DIR: a line of JSON for each.

    VIDEO is a file, a folder of pictures, or a folder with such below it. Decoding runs beside the network. A video
    that cannot be read gets a line with "error", and the exit code is 1.
    """
    from tsm_edge.label.labelling import label_videos
    from tsm_edge.label.listing import find_videos
    from tsm_edge.session.open import open_session
    from tsm_edge.video.capture import SourceOptions

    sampling = showing.how()
    found = find_videos(videos)
    if retry and output is None:
        raise click.UsageError("--retry is for the lines of a file: expected -o FILE.jsonl with it", ctx)
    if output is not None:
        refuse_replacing(output, [*found, *files_of_artifact(artifact)], "-o FILE.jsonl")
    options = SourceOptions(native_logs=bool(ctx.obj.debug))
    with (
        open_session(artifact, device, threads, notify=warn) as session,
        showing.together(session, device, threads) as members,
        _written(output, members, showing) as file,
    ):
        done = {} if file is None else file.done
        due = [path for path in found if _is_due(path, done.get(printable(path)), retry)]
        failed = sum(not done[printable(path)].labelled for path in {*found} - {*due})
        if len(due) < len(found):
            note(f"{output}: goes on after {len(found) - len(due)} of {len(found)} videos")
        began_s = time.monotonic()
        with progress_bar("labelling", len(due), file is not None) as advance:
            failed += _label(label_videos(members, due, sampling, options), file, advance)
    _sum_up(len(found), len(due), failed, time.monotonic() - began_s)
    if failed:
        ctx.exit(EXIT_SOME_FAILED)


def _is_due(path: Path, done: Done | None, retry: bool) -> bool:
    """Whether a video is to be labelled now; None: it has no line yet."""
    from tsm_edge.label.decoding import size_of

    if done is None or (retry and not done.labelled):
        return True
    return done.bytes is not None and done.bytes != size_of(path)  # another file has its name now


def _label(results: Iterator[VideoLabel | NotLabelled], file: LabelFile | None, advance: Advance) -> int:
    """Write a line for each; returns how many could not be labelled."""
    failed = 0
    for result in results:
        line = _line(result)
        failed += line["type"] == "error"
        if file is None:
            print_json_line(line)
        else:
            file.append(line)
        advance(str(line["video"]))
    return failed


def _line(result: VideoLabel | NotLabelled) -> dict[str, Any]:
    from tsm_edge.label.decoding import NotLabelled

    if isinstance(result, NotLabelled):
        error, size = result.error, {"bytes": result.bytes}
        return {"type": "error", "video": result.video, "error": error.problem, "hint": error.hint, **size}
    plain: dict[str, Any] = to_plain(video_line(result))
    return plain


@contextmanager
def _written(output: Path | None, members: Ensemble, showing: ClipOptions) -> Iterator[LabelFile | None]:
    """The file of labels, if one is wanted."""
    if output is None:
        yield None
        return
    from tsm_edge.label.output import LabelFile

    networks = [
        {
            "model": member.session.manifest.model,
            # Of integers the reference in integers: the same file gives others with another calibration.
            "onnx": member.session.manifest.hashes.get("exact", member.session.manifest.hashes.get("onnx", "")),
            "precision": member.session.manifest.precision,
            "preprocess": to_plain(member.session.manifest.preprocess),
            "frames": member.frames,
            "weight": member.weight,
        }
        for member in members.members
    ]
    how = showing.how()
    settings = {
        "networks": networks,
        "sampling": how.kind,
        "clips": how.clips,
        "crops": showing.crops or 1,
        "scores": members.scores,
        "flow": members.flow,
    }
    with LabelFile(output, settings) as file:
        yield file


def _sum_up(found: int, due: int, failed: int, seconds: float) -> None:
    pace = f", {due / seconds:.2f} videos/s" if due and seconds > 0 else ""
    note(f"labelled {found - failed} of {found} videos; {due} now, in {seconds:.1f} s{pace}")
    if failed:
        warn(f"{failed} of {found} videos could not be labelled: their lines say why")
