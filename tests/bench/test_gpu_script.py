"""The script for machines with a GPU: what it asks and keeps; a shell stands in for models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.artifact.folder import LIBRARY, RUNNER
from tsm_edge.verify.standin.build import StandIn, build_standin
from tsm_edge.verify.standin.shipped import shipped_ptx
from tsm_edge.verify.standin.translate import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
A_RUNNER = """#!/bin/sh
[ "$1" = verify ] && {{ echo '{{"passed": true}}'; echo '{said}' >&2; exit {code}; }}
[ {code} = 2 ] && exit 2
sleep {seconds}
[ -n "$TSM_EDGE_NO_GRAPH" ] && p=3.5 || p=2.5
echo '{{"results": [{{"latency_ms": {{"p50": '$p'}}}}]}}'
"""
SMI = "#!/bin/sh\necho 'NVIDIA Test 1, 535.1, 1980 MHz, 1980 MHz, 41, 9.0'\n"


def prepared(folder: Path, code: int = 0, arch: str = "9.0", said: str = "") -> None:
    """A folder as ``prepare`` leaves it, of one model that is a shell script."""
    program(folder / "build" / "model" / "tsm-runner", A_RUNNER.format(code=code, seconds=0, said=said))
    plan = {"model": "m", "artifacts": [{"name": "model", "arch": arch, "precision": "fp32"}]}
    (folder / "build" / "plan.json").write_text(json.dumps(plan))


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def script(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it, with a stand-in for nvidia-smi."""
    program(folder / "bin" / "nvidia-smi", SMI)
    environment = {"PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin", **variables}
    command = [str(SCRIPT), str(folder / "build"), str(folder / "results")]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def run(folder: Path, code: int = 0, arch: str = "9.0", said: str = "") -> tuple[subprocess.CompletedProcess[str], Any]:
    prepared(folder, code, arch, said)
    return script(folder), results(folder)


def results(folder: Path, model: str = "m") -> Any:
    (path,) = (folder / "results").iterdir()
    assert path.name.startswith(f"gpu-nvidia-test-1-{model}-20")
    return json.loads(path.read_text())


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
    assert len(found["peers"]) == 5
    for name, answer in found["peers"].items():
        assert not answer.get("median_ms")
        assert f"{name}: left out: " in done.stderr
    assert "left_out" in model["sanitizer"] or "memcheck" in model["sanitizer"]


def test_a_wrong_answer_is_said_aloud(tmp_path: Path) -> None:
    done, found = run(tmp_path, code=1, arch="5.3")
    assert done.returncode == 1
    assert "WRONG: model, graph; model, graph, spinning" in done.stderr
    assert "machine code" not in found["artifacts"]["model"]["verify"]


NO_DRIVER = "tsm-runner: error: the model: the NVIDIA driver cannot be loaded"
KERNEL_FAILED = "tsm-runner: error: step: cuStreamSynchronize failed"


def test_a_runner_that_could_not_run_is_not_wrong(tmp_path: Path) -> None:
    done, found = run(tmp_path, code=2, said=NO_DRIVER)
    assert done.returncode == 2
    assert f"model, graph: left out: {NO_DRIVER}\n" in done.stderr
    assert "NOTHING RAN" in done.stderr
    assert "WRONG" not in done.stderr
    assert not any("passed" in answer for answer in found["artifacts"]["model"]["verify"].values())


def test_a_kernel_that_failed_is_wrong(tmp_path: Path) -> None:
    done, _ = run(tmp_path, code=2, said=KERNEL_FAILED)
    assert done.returncode == 1
    assert f"model, graph: WRONG ({KERNEL_FAILED})\n" in done.stderr


@pytest.mark.parametrize(("own_s", "all_s", "code"), [(1.0, 60, 1), (60.0, 1.4, 2)])
def test_golden_frames_that_never_end_are_wrong_unless_it_is_for_lack_of_time(
    own_s: float, all_s: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    module = runpy.run_path(str(SCRIPT.with_suffix(".py")))
    module["verify"].__globals__["VERIFY_S"] = own_s
    program(tmp_path / "model" / "tsm-runner", "#!/bin/sh\nsleep 100\n")
    artifact = {"name": "model", "arch": "9.0", "precision": "fp32"}
    found = module["verify"](tmp_path, artifact, {}, module["Clock"](all_s))
    assert module["conclude"]({"model": {"verify": found}}) == code
    assert ("WRONG (did not end within 1 s)" if code == 1 else "left out: did not end") in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"model": "m", "artifacts": []}'])
def test_a_folder_that_was_not_prepared_is_refused_in_a_line(text: str | None, tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    if text is not None:
        (tmp_path / "build" / "plan.json").write_text(text)
    done = script(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"gpu.py: error: {tmp_path / 'build' / 'plan.json'}: ")
    assert f"; prepare it with: python -m benchmarks.gpu prepare {tmp_path / 'build'}\n" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--cards", "cuda-sm90", "cuda-sm91"], "unknown target 'cuda-sm91' (did you mean 'cuda-sm90'?)"),
        (["--cards", "raspberry-pi-4"], "--cards raspberry-pi-4: has no GPU; choose a CUDA target"),
        (["--cards", "native-cuda"], "GPU"),
        (["--onnx", "nowhere.onnx"], "nowhere.onnx: no such file"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_a_line_and_leaves_nothing(
    words: list[str], problem: str, tmp_path: Path
) -> None:
    pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed: pip install tsm-edge[cuda]")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, "-m", "benchmarks.gpu", "prepare", str(tmp_path / "build"), *words]
    environment = {**os.environ, **hidden}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=SCRIPT.parents[1], env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("gpu.py: error: ")
    assert problem in done.stderr
    assert not (tmp_path / "build").exists()


def test_a_folder_that_could_not_be_prepared_again_is_no_whole_one(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed: pip install tsm-edge[cuda]")
    prepared(tmp_path)
    command = [sys.executable, "-m", "benchmarks.gpu", "prepare", str(tmp_path / "build"), "--onnx", "nowhere.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=SCRIPT.parents[1])
    assert done.returncode == 2
    assert (tmp_path / "build" / "model" / "tsm-runner").exists()
    assert not (tmp_path / "build" / "plan.json").exists()


@pytest.mark.parametrize("limit", [0, -5])
def test_no_step_begins_without_time(limit: int) -> None:
    import runpy

    script = runpy.run_path(str(SCRIPT.with_suffix(".py")))
    assert script["execute"](["true"], script["Clock"](limit), 60) == {"left_out": "no time was left"}


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    """compute-sanitizer that takes too long leaves no program on the GPU."""
    import runpy

    script = runpy.run_path(str(SCRIPT.with_suffix(".py")))
    pid = tmp_path / "pid"
    answer = script["execute"](["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], script["Clock"](1.2), 60)
    assert answer == {"left_out": "did not end within 1 s"}
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(pid.read_text()))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_an_old_driver_is_asked_for_less(tmp_path: Path) -> None:
    old = "#!/bin/sh\ncase $1 in *compute_cap*) echo not a valid field; exit 2;; esac\n" + SMI.partition("\n")[2]
    program(tmp_path / "bin" / "nvidia-smi", old.replace(", 9.0", ""))
    code = "import runpy, sys, json; s = runpy.run_path(sys.argv[1]); print(json.dumps(s['ask_device'](s['Clock'](9))))"
    command = [sys.executable, "-c", code, str(SCRIPT.with_suffix(".py"))]
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    found = json.loads(done.stdout)
    assert (found["driver_version"], found.get("compute_cap")) == ("535.1", None)


def test_without_python_the_models_are_checked_all_the_same(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("env", "dirname", "sleep"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    done = script(tmp_path, PATH=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    assert "no python3 here: no peers, no compute-sanitizer" in done.stderr
    assert done.stdout.count('"passed": true') == 2
    assert done.stdout.count('"p50": 3.5') == 2


@pytest.mark.parametrize(
    ("code", "said", "ends", "last"), [(2, NO_DRIVER, 2, "NOTHING RAN"), (2, KERNEL_FAILED, 1, ""), (1, "", 1, "")]
)
def test_without_python_it_ends_as_with_it(code: int, said: str, ends: int, last: str, tmp_path: Path) -> None:
    prepared(tmp_path, code, said=said)
    (tmp_path / "bin").mkdir()
    for name in ("env", "dirname", "sleep"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    done = script(tmp_path, PATH=str(tmp_path / "bin"))
    assert (done.returncode, said in done.stderr, last in done.stderr) == (ends, True, True), done.stderr


@pytest.mark.slow
def test_from_the_preparation_to_the_result_on_a_stand_in(tmp_path: Path) -> None:
    """Real artifacts of a small network; nothing but the standard library where they run."""
    pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed: pip install tsm-edge[cuda]")
    onnx.save(small_network(), str(tmp_path / "small.onnx"))
    command = [sys.executable, "-m", "benchmarks.gpu", "prepare", str(tmp_path / "build")]
    command += ["--onnx", str(tmp_path / "small.onnx"), "--cards"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "build" / "plan.json").read_text())
    names = [artifact["name"] for artifact in plan["artifacts"]]
    assert names == ["jetson-nano-on-x86-fp32", "jetson-nano-on-x86-fp16"]
    assert len(list((tmp_path / "build").rglob("*.onnx"))) == 1
    (tmp_path / "driver").mkdir()
    images = [Image(shipped_ptx(tmp_path / "build" / name / LIBRARY)) for name in names]
    build_standin(tmp_path / "driver", images, StandIn(capability=90, newest_ptx=80))
    done = script(tmp_path, LD_LIBRARY_PATH=str(tmp_path / "driver"))
    assert done.returncode == 0, done.stderr
    found = results(tmp_path, "small")
    for name in names:
        steps = found["artifacts"][name]
        assert all(answer["passed"] for answer in steps["verify"].values()), steps["verify"]
        assert all(table["median_ms"] > 0 for table in steps["bench"]["ways"].values())
        assert len(steps["bench"]["ways"]) == 3
    assert "all that ran is right" in done.stderr
    runner = tmp_path / "build" / names[0] / RUNNER
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 20, 3), np.uint8).tobytes()
    driver = {"LD_LIBRARY_PATH": str(tmp_path / "driver")}
    for words, given, count in (("info", b"", 1), ("stream", frames, 2)):
        asked = subprocess.run([runner, words], input=given, capture_output=True, timeout=60, env=driver)
        assert asked.returncode == 0, asked.stderr
        lines = asked.stdout.splitlines() if words == "stream" else [asked.stdout]
        assert [isinstance(json.loads(line), dict) for line in lines] == [True] * count
