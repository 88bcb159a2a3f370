"""The script for machines with a GPU: what it asks and keeps; a shell stands in for models."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
RUNNER = """#!/bin/sh
[ "$1" = verify ] && {{ echo '{{"passed": true}}'; exit {code}; }}
sleep {seconds}
[ -n "$TSM_EDGE_NO_GRAPH" ] && p=3.5 || p=2.5
echo '{{"results": [{{"latency_ms": {{"p50": '$p'}}}}]}}'
"""
SMI = "#!/bin/sh\necho 'NVIDIA Test 1, 535.1, 9.0, 1980 MHz, 1980 MHz, 41'\n"


def run(folder: Path, code: int = 0, arch: str = "9.0") -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run it on a prepared folder, with a stand-in for nvidia-smi."""
    model = folder / "build" / "model"
    model.mkdir(parents=True)
    programs = {model / "tsm-runner": RUNNER.format(code=code, seconds=0), folder / "bin" / "nvidia-smi": SMI}
    for path, text in programs.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    plan = {"model": "m", "artifacts": [{"name": "model", "arch": arch, "precision": "fp32"}]}
    (folder / "build" / "plan.json").write_text(json.dumps(plan))
    environment = {"PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        [str(SCRIPT), str(folder / "build"), str(folder / "results")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    (path,) = (folder / "results").iterdir()
    assert path.name.startswith("gpu-nvidia-test-1-20")
    return done, json.loads(path.read_text())


def test_everything_is_asked_and_kept(tmp_path: Path) -> None:
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert found["device"]["driver_version"] == "535.1"
    model = found["artifacts"]["model"]
    assert sorted(model["verify"]) == [
        "each launch waited for",
        "graph",
        "graph, spinning",
        "launches",
        "machine code",
    ]
    assert all(answer["passed"] for answer in model["verify"].values())
    assert {way: table["median_ms"] for way, table in model["bench"]["ways"].items()} == {
        "graph": 2.5,
        "graph, spinning": 2.5,
        "launches": 3.5,
    }
    assert "left_out" in model["sanitizer"] or "memcheck" in model["sanitizer"]


def test_a_wrong_answer_is_said_aloud(tmp_path: Path) -> None:
    done, found = run(tmp_path, code=1, arch="5.3")
    assert done.returncode == 1
    assert "WRONG: model, graph; model, graph, spinning" in done.stderr
    assert "machine code" not in found["artifacts"]["model"]["verify"]


@pytest.mark.parametrize("limit", [0, -5])
def test_no_step_begins_without_time(limit: int) -> None:
    import runpy

    script = runpy.run_path(str(SCRIPT.with_suffix(".py")))
    assert script["execute"](["true"], script["Clock"](limit), 60) == {"left_out": "no time was left"}
