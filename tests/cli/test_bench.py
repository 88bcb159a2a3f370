"""``tsm-edge bench`` on this machine, as a person uses it."""

from __future__ import annotations

import copy
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunProgram
from encoded_clips import plain, write_avi

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.result import Document, from_json, read_document

QUICK = ("--duration", "0.3", "--warmup", "0", "--power", "none", "--no-peak")


def measured(run_program: RunProgram, artifact: Artifact, tmp_path: Path, *arguments: str, code: int = 0) -> Document:
    done = run_program("bench", str(artifact.path), *QUICK, "--json", str(tmp_path / "x.json"), *arguments)
    assert done.returncode == code, done.stderr
    return read_document(tmp_path / "x.json")


def test_a_run_says_what_it_found(run_program: RunProgram, artifact_with_runner: Artifact) -> None:
    done = run_program("bench", str(artifact_with_runner.path), *QUICK, "--frames", "700")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^step +\d{3,} +\d+\.\d{3}( +\d+\.\d{3}){6}$", done.stdout, re.MULTILINE)
    assert re.search(r"^kernels +\d+", done.stdout, re.MULTILINE)
    assert "4 frames agree with its golden.bin" in done.stdout
    assert re.search(r"ms a frame, p99 .* a second: ", done.stderr)


def test_clips_are_steps_of_several_frames(run_program: RunProgram, clips_artifact: Artifact, tmp_path: Path) -> None:
    """Nothing is told of a frame that is one of a step."""
    page = tmp_path / "page.html"
    done = run_program("bench", str(clips_artifact.path), *QUICK, "--frames", "9", "--html", str(page))
    assert done.returncode == 0, done.stderr
    title, names, *_ = done.stdout.splitlines()
    assert ", steps of 6 frames: this machine" in title
    assert names.split()[0] == "steps"
    assert re.search(r"steps a second; once: load .* first step ", done.stdout)
    assert "2 steps agree with its golden.bin" in done.stdout
    assert re.search(r"ms a step.* a second: ", done.stderr)
    words = re.sub("(?s)<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page.read_text())
    assert "6 a step" in words
    assert ", 2 different; each step follows the last at once" in words
    assert not re.findall(r".*(?:frames? a second|ms a frame|frames (?:vary|agree)|\d fps).*", words)
    refused = run_program("bench", str(clips_artifact.path), *QUICK, "--video", str(tmp_path / "x.mp4"))
    assert refused.returncode == 2
    assert "takes clips" in refused.stderr


def test_what_is_written_agrees_with_itself(
    run_program: RunProgram, artifact_with_runner: Artifact, tmp_path: Path
) -> None:
    (result,) = measured(run_program, artifact_with_runner, tmp_path).results
    samples = np.array(result.samples.step_ms)
    assert (result.route, result.address, result.partial, result.power) == ("local", None, None, None)
    assert result.latency_ms.count == len(samples) == len(result.samples.start_s)
    assert result.latency_ms.p50 == pytest.approx(np.median(samples))
    assert result.startup.first_label_ms == pytest.approx(
        (result.startup.load_ms or 0) + (result.startup.first_frame_ms or 0)
    )
    assert result.verification is not None
    assert result.verification.passed
    assert len(result.kernels) == len(artifact_with_runner.manifest.kernels)
    assert result.environment_before is not None
    assert result.environment_after is not None
    assert result.model.sha256 == artifact_with_runner.manifest.files["model.so"]


def test_json_on_stdout_is_all_of_it(run_program: RunProgram, small_artifact: Artifact) -> None:
    done = run_program("bench", str(small_artifact.path), *QUICK, "--json")
    assert json.loads(done.stdout)["schema"] == "tsm-edge-bench/1"


def test_few_frames_give_no_percentile_and_the_reason(run_program: RunProgram, small_artifact: Artifact) -> None:
    arguments = ("--warmup", "0", "--power", "none", "--no-peak")
    for frames, wanted in (("63", "no p90: 63 samples, 64 are needed at 99 % confidence"), ("64", "")):
        done = run_program("bench", str(small_artifact.path), "--frames", frames, *arguments)
        assert (wanted in done.stdout) if wanted else ("no p90" not in done.stdout), done.stdout


def test_a_camera_sets_the_pace(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    (result,) = measured(run_program, small_artifact, tmp_path, "--fps", "100").results
    assert result.deadlines is not None
    assert result.deadlines.period_ms == pytest.approx(10)
    assert result.fps is not None
    assert result.fps < 105  # as fast as the camera; frames that a busy machine misses are lost
    assert "deadlines" in {verdict.name for verdict in result.verdicts}


@pytest.mark.real_time
def test_a_video_is_timed_from_decoding_to_its_label(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    clip = write_avi(tmp_path / "clip.avi", [plain(level) for level in range(0, 250, 10)])
    (result,) = measured(run_program, small_artifact, tmp_path, "--frames", "5", "--video", str(clip)).results
    video = result.camera_to_label
    assert video is not None
    assert video.total_ms.count >= 5
    parts = [video.decode_ms.p50, video.preprocess_ms.p50, video.step_ms.p50]
    assert all(part is not None and part > 0 for part in parts)
    assert (video.total_ms.p50 or 0) >= max(part or 0 for part in parts)


def test_ctrl_c_keeps_what_was_measured(
    small_artifact: Artifact, tmp_path: Path, program_environment: dict[str, str]
) -> None:
    path = tmp_path / "cut.json"
    command = [sys.executable, "-m", "tsm_edge.cli", "bench", str(small_artifact.path), "--duration", "60"]
    options = ["--warmup", "0", "--power", "none", "--no-peak", "--json", str(path)]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=program_environment) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if " frames, " in line:
                break
        program.send_signal(signal.SIGINT)
        rest = program.stderr.read()
    assert program.returncode == 130, rest
    assert rest.rstrip().endswith("interrupted")
    (result,) = read_document(path).results
    assert re.fullmatch(r"interrupted after \d+ frames", result.partial or "")
    assert result.latency_ms.count > 0
    assert result.verdicts[0].name == "partial"


def stored(path: Path, table: dict[str, Any], factor: float, *bad: str) -> Path:
    """The measured result with other times, and these verdicts on the machine."""
    changed = copy.deepcopy(table)
    (result,) = changed["results"]
    random = np.random.default_rng(len(path.name))
    result["samples"] = {
        "start_s": np.arange(400.0).tolist(),
        "step_ms": (factor * random.normal(10, 0.2, 400)).tolist(),
    }
    result["yardstick"] = [
        {"at_s": at - 0.5, "arithmetic_ms": 0.4 + noise, "memory_ms": 1.9 + noise}
        for at, noise in zip(range(0, 401, 20), random.normal(0, 0.002, 21).tolist(), strict=True)
    ]
    result["verdicts"] = [{"name": name, "level": "bad", "text": "it was"} for name in bad]
    path.write_text(json.dumps(changed))
    return path


def test_a_slower_run_is_a_regression_and_the_same_is_none(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    measured(run_program, small_artifact, tmp_path)
    table = json.loads((tmp_path / "x.json").read_text())
    old = str(stored(tmp_path / "old.json", table, 1.0))
    cases = [
        (stored(tmp_path / "slow.json", table, 1.1), 1, r"^this machine: slower by .* a regression$"),
        (stored(tmp_path / "same-as-before.json", table, 1.0), 0, r"^this machine: not distinguishable"),
        (stored(tmp_path / "hot.json", table, 1.1, "throttled"), 0, r"not distinguishable.* disturbed \(throttled\)"),
    ]
    for path, code, line in cases:
        done = run_program("bench", str(path), "--compare", old)
        assert done.returncode == code, done.stderr
        assert re.search(line, done.stdout, re.MULTILINE), done.stdout
    done = run_program("bench", str(small_artifact.path), *QUICK, "--compare", old)
    assert re.search("^this machine: (faster|not distinguishable)", done.stdout, re.MULTILINE), done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--json", "."), "that is a folder, expected a file"),
        (("--json", "/proc/x.json"), "/proc/x.json cannot be written"),
        (("--compare", "none.json"), "none.json cannot be read"),
        (("--power", "rpl"), "unknown power sensor 'rpl' (did you mean 'rapl'?)"),
        (("--power", "pmic"), "power sensor pmic"),
        (("--target", "native"), "--target is for a model that is compiled now"),
        (("--rpc", "127.0.0.1:1"), "127.0.0.1:1"),
        (("--tracker", "127.0.0.1:1"), "none was given"),
        (("--video", "none.avi"), "none.avi"),
        (("--video", "x.avi", "--rpc", "127.0.0.1:1"), "127.0.0.1:1 is another machine, and decoding it here"),
        (("--video", "x.avi", "--ssh", "board"), "the board is another machine"),
        (("--frames", "0"), "'--frames': 0 is not in the range"),
    ],
)
def test_a_mistake_is_one_line(
    run_program: RunProgram, small_artifact: Artifact, arguments: tuple[str, ...], line: str
) -> None:
    done = run_program("bench", str(small_artifact.path), "--warmup", "0", "--no-peak", "--frames", "5", *arguments)
    assert done.returncode == 2, done.stderr
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_full_disk_loses_no_result(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    arguments = ("--json", str(path), "--html", str(tmp_path / "x.html"))
    done = run_program("bench", str(small_artifact.path), *QUICK, *arguments, preexec_fn=limit_files)
    assert done.returncode == 2
    assert re.search(r"x\.json cannot be written .*; the results follow on stdout; choose another", done.stderr)
    document = from_json(json.loads(done.stdout[done.stdout.index("\n{") :]), "stdout")
    assert document.results[0].latency_ms.count > 0
    assert list(tmp_path.iterdir()) == []


def test_the_report_holds_the_result(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    measured(run_program, small_artifact, tmp_path, "--html", str(tmp_path / "x.html"))
    page = (tmp_path / "x.html").read_text("utf-8")
    assert "tsm-edge-bench/1" in page
    assert "<svg" in page
