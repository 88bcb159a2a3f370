"""What ``tsm-edge bench`` prints and writes."""

from __future__ import annotations

import contextlib
import errno
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cli.output import note, print_entry, print_json, print_table, print_text, warn
from tsm_edge.errors import BenchError

if TYPE_CHECKING:
    from tsm_edge.bench.result import Document, Latency, Result
    from tsm_edge.bench.run import Outcome


@contextlib.contextmanager
def write_outputs(
    json_path: Path | None, html: Path | None, to_stdout: bool, artifact: Path | None
) -> Iterator[list[Outcome]]:
    """Refuse places that cannot be written before the work; write what is in the list after it, however it ends."""
    for option, path in (("--json", json_path), ("--html", html)):
        if path is not None:
            _check(option, path, artifact)
    outcomes: list[Outcome] = []
    try:
        yield outcomes
    finally:
        if outcomes:
            _write(_document(outcomes), json_path, html, to_stdout)


def _document(outcomes: Sequence[Outcome]) -> Document:
    from tsm_edge import __version__
    from tsm_edge.bench.result import SCHEMA, Document

    return Document(SCHEMA, __version__, tuple(outcome.result for outcome in outcomes))


def _write(document: Document, json_path: Path | None, html: Path | None, to_stdout: bool) -> None:
    """A result that cannot be written to its file goes to stdout instead: it is not measured again so easily."""
    from tsm_edge.bench.result import to_json, write_document

    if to_stdout:
        print_json(to_json(document))
    failed: list[BenchError] = []
    if json_path is not None:
        try:
            write_document(document, json_path)
            note(f"results: {json_path}")
        except OSError as error:
            failed.append(_not_written("--json", json_path, error, "; the results follow on stdout"))
            print_json(to_json(document))
    if html is not None:
        from tsm_edge.bench.page import write_page

        try:
            write_page(document, html)
            note(f"report: {html}")
        except OSError as error:
            failed.append(_not_written("--html", html, error))
    for problem in failed[1:]:
        warn(str(problem))
    if failed:
        raise failed[0]


def _check(option: str, path: Path, artifact: Path | None) -> None:
    from tsm_edge.artifact.folder import files_of_artifact
    from tsm_edge.files.atomic import check_writable
    from tsm_edge.files.paths import refuse_replacing

    if path.is_dir():
        raise click.UsageError(f"{option} {path}: that is a folder, expected a file; DIR comes first, or {option}=FILE")
    if artifact is not None:
        refuse_replacing(path, files_of_artifact(artifact), f"{option} FILE")
    try:
        check_writable(path)
    except OSError as error:
        raise _not_written(option, path, error) from None


def _not_written(option: str, path: Path, error: OSError, more: str = "") -> BenchError:
    hints = {
        errno.ENOSPC: f"make room there, or choose another place: {option} FILE",
        errno.EDQUOT: f"make room there, or choose another place: {option} FILE",
        errno.ENOENT: f"make its folder: mkdir -p {shlex.quote(str(path.parent))}",
    }
    hint = hints.get(error.errno or 0, f"choose another place: {option} FILE")
    return BenchError(f"{option} {path} cannot be written ({error.strerror}){more}", hint)


def print_result(result: Result) -> None:
    """One result: a table, then what it means, to stdout; loud where it cannot be believed."""
    from tsm_edge.bench.verdicts import headline

    settings = result.settings
    threads = (
        "threads as the server decides"
        if settings.threads is None
        else f"{settings.threads} thread" + ("s" if settings.threads > 1 else "")
    )
    unit = result.model.unit
    pace = f", steps of {result.model.frame_shape[0]} frames" if unit == "step" else ""
    pace += "" if settings.fps is None else f", {settings.fps:g} {unit}s a second"
    title = f"{result.model.name} ({result.model.precision}) for {result.model.target}, {threads}{pace}: {result.name}"
    rows = [_row("step", result.latency_ms)]
    if result.kernels_ms is not None:
        rows.append(_row("kernels", result.kernels_ms))
    if result.camera_to_label is not None:
        video = result.camera_to_label
        rows += [
            _row("decode", video.decode_ms),
            _row("preprocess", video.preprocess_ms),
            _row("camera to label", video.total_ms),
        ]
    if result.network_ms is not None:
        rows.append(_row("network, apart", result.network_ms))
    names = ("", f"{unit}s", "p50 (ms)", "p90 (ms)", "p99 (ms)", "min (ms)", "mean (ms)", "max (ms)", "std (ms)")
    print_table(title, names, rows, optional=("std (ms)", "mean (ms)", "min (ms)", f"{unit}s"))
    for entry in result.latency_ms.refused:
        print_text(f"no {entry.key}: {entry.reason}")
    print_text(_startup(result))
    for verdict in result.verdicts:
        mark = {"good": "  ok", "note": "note", "bad": " BAD"}[verdict.level]
        print_entry(mark, verdict.text)
    for entry in result.unavailable:
        if not any(verdict.text.endswith(entry.reason) for verdict in result.verdicts):
            print_entry("  no", f"{entry.key}: {entry.reason}")
    (warn if any(verdict.level == "bad" for verdict in result.verdicts) else note)(f"{result.name}: {headline(result)}")


def _row(name: str, latency: Latency) -> tuple[object, ...]:
    figures = (latency.p50, latency.p90, latency.p99, latency.min, latency.mean, latency.max, latency.std)
    return (name, latency.count, *(None if value is None else f"{value:.3f}" for value in figures))


def _startup(result: Result) -> str:
    startup, unit = result.startup, result.model.unit
    parts = [
        f"{name} {value:.1f} ms"
        for name, value in (
            ("upload", startup.upload_ms),
            ("load", startup.load_ms),
            (f"first {unit}", startup.first_frame_ms),
            ("first label", startup.first_label_ms),
        )
        if value is not None
    ]
    rate = "" if result.fps is None else f"{result.fps:.2f} {unit}s a second; "
    return f"{rate}once: {', '.join(parts)}"


def print_comparison(earlier: Document, results: Sequence[Result], tolerance: float, quiet: bool) -> int:
    """Say faster, slower or neither; returns the exit code."""
    from tsm_edge.bench.compare import compare, pairs

    code = 0
    for old, new in pairs(earlier.results, results):
        found = compare(old, new, tolerance)
        text = f"{found.name}: {found.text()}"
        (note if quiet else click.echo)(text)
        for remark in found.remarks:
            note(f"  {remark}")
        code = 1 if found.is_regression else code
    return code
