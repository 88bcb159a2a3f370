"""``tsm-edge profile``."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import run_on_terminal

from tsm_edge.artifact.folder import Artifact

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_table_of_kernels_and_one_of_rules(run_program: RunProgram, small_artifact: Artifact) -> None:
    done = run_program("profile", str(small_artifact.path), "--frames", "5", "--no-peak")
    assert done.returncode == 0, done.stderr
    title, heading, *rows = done.stdout.splitlines()
    assert title == f"{small_artifact.path}: {small_artifact.manifest.model}, 1 thread, 5 frames"
    assert heading.split()[:4] == ["layer", "rule", "tile", "items"]
    layers = [kernel.layer for kernel in small_artifact.manifest.kernels]
    assert [row.split("  ")[0] for row in rows[: len(layers)]] == layers
    rules = rows[rows.index("by rule") + 2 : rows.index("stages of fused kernels") - 1]
    assert {row.split()[0] for row in rules} == {kernel.rule for kernel in small_artifact.manifest.kernels}
    stages = rows[rows.index("stages of fused kernels") + 2 :]
    fused = [kernel.layer for kernel in small_artifact.manifest.kernels if kernel.stages]
    assert [row.split("  ")[0] for row in stages] == fused
    assert "kernels together" in done.stderr
    assert "peak" not in done.stderr  # not asked for: nothing to say


def test_clips_are_not_called_frames(run_program: RunProgram, clips_artifact: Artifact) -> None:
    done = run_program("profile", str(clips_artifact.path), "--frames", "4", "--no-peak")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(", 1 thread, 4 times 3 clips")


def test_in_a_window_of_80_columns_a_kernel_is_a_line(
    program_environment: dict[str, str], small_artifact: Artifact
) -> None:
    arguments = ["profile", str(small_artifact.path), "--frames", "3", "--no-peak"]
    environment = {**program_environment, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm"}
    code = f"from tsm_edge.cli.main import entry_point; entry_point({arguments!r})"
    lines = [re.sub(r"\x1b\[[\d;?]*\w", "", line) for line in run_on_terminal(code, environment).splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith("layer "))
    layers = [kernel.layer for kernel in small_artifact.manifest.kernels]
    assert [line.split("  ")[0] for line in lines[start + 1 : start + 1 + len(layers)]] == layers
    assert {"time", "share"} <= set(lines[start].split())
    assert max(map(len, lines[start : start + 1 + len(layers)])) <= 80
    assert len(lines) < 3 * len(layers) + 20


@pytest.mark.real_time
def test_json_and_html_of_one_run(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    options = ("--frames", "3", "--threads", "2", "--json", "--html", str(report))
    done = run_program("profile", str(small_artifact.path), *options)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert (table["threads"], table["frames"]) == (2, 3)
    assert len(table["kernels"]) == len(small_artifact.manifest.kernels)
    assert sum(kernel["share"] for kernel in table["kernels"]) == pytest.approx(1.0)
    assert table["kernels_milliseconds"] == pytest.approx(
        sum(kernel["microseconds"] for kernel in table["kernels"]) / 1e3
    )
    for kernel in table["kernels"]:
        if kernel["stages"]:
            assert sum(stage["microseconds"] for stage in kernel["stages"]) <= kernel["microseconds"] * 1.5
    assert table["peak_gflops"] > 0
    assert report.read_text("utf-8").startswith("<!doctype html>")


def test_without_an_artifact_it_says_how_to_make_one(run_program: RunProgram) -> None:
    done = run_program("profile")
    assert done.returncode == 2
    assert "make one with: tsm-edge compile" in done.stderr


def test_a_report_that_cannot_be_written_is_one_line(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "report.html")
    done = run_program("profile", str(small_artifact.path), "--frames", "1", "--no-peak", "--html", target)
    assert done.returncode == 2
    assert f"{target} cannot be written" in done.stderr.splitlines()[-1]
    assert done.stdout == ""  # said before anything is measured
