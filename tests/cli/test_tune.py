"""``tsm-edge tune`` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.compile.records import read_records

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_small_model_is_tuned_and_what_was_tried_is_kept(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    arguments = (
        "tune",
        str(small_artifact.path),
        "--kernels",
        "conv_0",
        "--budget",
        "60s",
        "-o",
        "mine.jsonl",
        "--html",
        "mine.html",
        "--json",
    )
    done = run_program(*arguments, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    found = read_records(tmp_path / "mine.jsonl")
    assert not found.damaged
    assert result["tuned"]["tried"] == sum(not record.accepted for record in found.records)
    assert any(record.accepted for record in found.records) == result["faster"]
    assert {record.card for record in found.records} == {found.records[0].card}
    assert found.records[0].about["machine"]
    page = (tmp_path / "mine.html").read_text("utf-8")
    assert "All kernels" in page
    assert "conv_0" in page
    again = run_program(*arguments, timeout=240)
    assert again.returncode == 2
    count = len(found.records) + len(found.threads)
    assert f"has {count} records already; go on with --continue" in again.stderr


def test_a_dry_run_lists_kernels_and_measures_nothing(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    done = run_program("tune", str(small_artifact.path), "--dry-run", timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["kernel", "rule", "candidates"]
    assert "candidates: to try all takes about" in done.stderr
    assert list(tmp_path.glob("**/*.jsonl")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kernels", "nothing*"), "no kernel is named 'nothing*'"),
        (("--budget", "soon"), "'soon': expected a time like 90s, 5m or 1h"),
        (("--target", "native"), "--target is for a model that is compiled now"),
        (("-o", "/proc/records.jsonl"), "/proc/records.jsonl: cannot be written"),
        (("--html", "/proc/report.html"), "/proc/report.html cannot be written"),
    ],
)
def test_mistakes_are_a_line(
    run_program: RunProgram, small_artifact: Artifact, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run_program("tune", str(small_artifact.path), *arguments, timeout=240)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_damaged_records_are_told_by_compile(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    shutil.copyfile(small_artifact.path / "model.onnx", tmp_path / "small.onnx")
    (tmp_path / "diary.jsonl").write_text("dear diary\n")
    caches = [f"--cache={cache.input}={cache.output}" for cache in small_artifact.manifest.caches]
    done = run_program("compile", "--onnx", "small.onnx", *caches, "--records", "diary.jsonl", timeout=240)
    assert done.returncode == 2
    assert "diary.jsonl: not a file of tuning records" in done.stderr
    assert not (tmp_path / "out").exists()
