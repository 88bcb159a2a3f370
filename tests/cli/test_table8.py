"""``tsm-edge bench --table8``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench_results import a_result, document

from tsm_edge.bench.result import to_json

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_table_as_wide_as_a_window_and_as_json(run_program: RunProgram, tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    path.write_text(json.dumps(to_json(document(a_result()))))
    done = run_program("bench", "--table8", str(path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 7
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Raspberry Pi 4B") and line.endswith("12.00 ms, 2.7 W") for line in lines)
    assert "paper: " in done.stderr
    table = json.loads(run_program("bench", "--table8", str(path), "--json").stdout)
    assert [row["status"] for row in table["devices"]].count("measured") == 1


def test_a_result_is_not_overwritten_by_the_place_of_an_option(run_program: RunProgram, tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    path.write_text("{}")
    done = run_program("bench", "--table8", "--json", str(path))
    assert done.returncode == 2
    assert "write --json last" in done.stderr.splitlines()[-1]
    assert path.read_text() == "{}"


def test_several_folders_are_no_artifact(run_program: RunProgram, tmp_path: Path) -> None:
    done = run_program("bench", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 2
    assert "2 folders, expected one DIR (files of results are for --table8)" in done.stderr
