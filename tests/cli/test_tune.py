"""``tsm-edge tune`` as a user types it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.paired import Ratio
from tsm_edge.cards.architecture import this_architecture
from tsm_edge.cards.detect_gpu import detect_gpu
from tsm_edge.cards.threads import Threads
from tsm_edge.cli import tune as command
from tsm_edge.cli.main import entry_point
from tsm_edge.compile import pipeline, trial_library
from tsm_edge.compile.records import read_records
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.compile.trials import network_of
from tsm_edge.errors import TuneError
from tsm_edge.tune import page as report_page
from tsm_edge.tune.candidates import candidates
from tsm_edge.tune.state import Tuned
from tsm_edge.tune.tuner import Trial, Tuner

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
        (("--precision", "int8"), "--precision is for a model that is compiled now, and"),
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


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The program in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        return Done(entry_point(("tune", *arguments)), *capsys.readouterr())

    return run


FOREIGN = "raspberry-pi-4" if this_architecture() == "x86_64" else "x86-64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--target", FOREIGN),
            f"this machine is {this_architecture()}, the model is compiled for {FOREIGN} (",
        ),
        (("--target", "native", "--rpc", "127.0.0.1:1"), "nothing listens on 127.0.0.1:1"),
        (("--target", "cuda-sm86"), "no NVIDIA GPU is usable here: its driver cannot be loaded (no-driver.so"),
    ],
)
def test_a_board_that_is_not_there_is_told_before_anything_is_compiled(
    run_here: Callable[..., Done],
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if "cuda-sm86" in arguments and this_architecture() != "x86_64":
        pytest.skip("the card is of a PC")
    monkeypatch.setattr(command, "detect_gpu", lambda: detect_gpu("no-driver.so"))
    monkeypatch.setattr(pipeline, "compile_model", lambda *given, **named: pytest.fail("it compiles"))
    done = run_here("motion", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_model_of_clips_is_refused_before_it_is_compiled(
    run_here: Callable[..., Done], options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipeline, "compile_model", lambda *given, **named: pytest.fail("it compiles"))
    done = run_here("mobilenetv2-kinetics-8f", *options)
    assert done.returncode == 2
    assert done.stderr == (
        "tsm-edge: error: mobilenetv2-kinetics-8f: takes clips; models of streams can be tuned; "
        "see the models: tsm-edge models\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_there_may_be_nothing_to_go_on_with(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuner, "run", lambda self, pattern: Tuned((), None, None, 1.0, 3, 1, 0))
    monkeypatch.setattr(trial_library, "TrialBuilder", lambda network, folder: None)
    done = run_here(str(small_artifact.path), "--continue", "-o", "r.jsonl")
    assert done.returncode == 0, done.stderr
    assert "r.jsonl: is not there, so nothing is gone on with; it is begun" in done.stderr


def test_what_was_compared_is_said(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = next(candidates(network := network_of(small_artifact), network.freedoms, {})).blank
    threads = ThreadRecord("n", Threads(2), (0.6, 0.5, 0.7), 9.0, {})
    tuned = Tuned((record,), Ratio(0.9, 0.8, 0.95), threads, 1.0, 3, 1, 0, (), 1, Ratio(0.97, 0.93, 1.01))
    monkeypatch.setattr(Tuner, "run", lambda self, pattern: tuned)
    monkeypatch.setattr(trial_library, "TrialBuilder", lambda network, folder: None)

    def lines() -> list[str]:
        done = run_here(str(small_artifact.path), "-o", "r.jsonl", "--html", "r.html")
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    assert "whole step, 1 thread 0.900 (95 %: 0.800 to 0.950) of the rules' time" in lines()
    assert "tuned step, 2 threads 0.600 (95 %: 0.500 to 0.700) of its time with one thread" in lines()
    assert "whole step, 2 threads 0.970 (95 %: 0.930 to 1.010) of the rules' time with as many" in lines()
    assert "a board failed in 1 more, which are not tried again" in lines()
    tuned = dataclasses.replace(tuned, refused="with 2 threads it is not faster")
    assert "step by the rules, 2 threads 0.600 (95 %: 0.500 to 0.700) of its time with one thread" in lines()
    assert "not recorded what is faster, each alone: with 2 threads it is not faster" in lines()
    told = run_here(str(small_artifact.path), "-o", "r.jsonl").stderr
    assert "the kernels are not recorded: with 2 threads it is not faster; the trials are kept" in told
    page = Path("r.html").read_text("utf-8").replace("&#x27;", "'")
    assert "The tuned step is faster, but with 2 threads it is not faster: its kernels are not recorded" in page
    assert "tuned, of the rules' with as many" in page
    assert re.search(r"3(<[^>]*>)+candidates of 1 kernels tried; a board failed in 1 more", page)


def test_what_comes_with_the_target_is_tried_first(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """compile --records would use it no more."""
    network, tried = network_of(small_artifact), list[str]()
    shipped = list(candidates(network, network.freedoms, {}))[-1].blank
    (tmp_path / "shipped.jsonl").write_text(
        f"{dataclasses.replace(shipped, accepted=True, ratio=(0.9, 0.8, 0.95), rounds=16).line()}\n", "utf-8"
    )
    monkeypatch.setattr(command, "shipped_records", lambda target: tmp_path / "shipped.jsonl")

    def tries(self: Tuner, runner: object, trial: Trial) -> None:
        tried.append(trial.candidate.blank.candidate)
        raise TuneError("enough", "that was the first")

    monkeypatch.setattr(Tuner, "_try", tries)
    assert "enough" in run_here(str(small_artifact.path), "--budget", "10h", "-o", "r.jsonl").stderr
    assert tried == [shipped.candidate]


def test_a_report_that_cannot_be_written_hides_no_result(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(report_page, "write_atomic", full)
    monkeypatch.setattr(Tuner, "run", lambda self, pattern: Tuned((), None, None, 1.0, 3, 1, 0))
    monkeypatch.setattr(trial_library, "TrialBuilder", lambda network, folder: None)
    done = run_here(str(small_artifact.path), "-o", "r.jsonl", "--html", "r.html")
    assert done.returncode == 2
    assert "candidates tried" in done.stdout
    assert "r.html cannot be written (No space left on device)" in done.stderr.splitlines()[-1]


def test_a_folder_of_something_else_is_told(run_here: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = run_here("folder")
    assert done.returncode == 2
    assert "folder: has no manifest.json, expected a compiled artifact" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_dry_run_as_json_is_numbers(run_here: Callable[..., Done], small_artifact: Artifact) -> None:
    plan = json.loads(run_here(str(small_artifact.path), "--dry-run", "--json").stdout)
    assert plan["candidates"] == sum(one["candidates"] for one in plan["kernels"]) > 0
    assert plan["seconds"] > 0


def test_what_earlier_runs_accepted_is_not_said_to_be_unused(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = network_of(small_artifact)
    one = next(candidates(network, network.freedoms, {}))
    earlier = dataclasses.replace(one.blank, accepted=True, ratio=(0.9, 0.8, 0.95), rounds=16)
    (tmp_path / "r.jsonl").write_text(f"{earlier.line()}\n", "utf-8")
    nothing = Tuned((), None, None, 1.0, 3, 1, 0)
    monkeypatch.setattr(Tuner, "run", lambda self, pattern: nothing)
    monkeypatch.setattr(trial_library, "TrialBuilder", lambda network, folder: None)
    done = run_here(str(small_artifact.path), "--continue", "-o", "r.jsonl")
    assert done.returncode == 0, done.stderr
    assert "compile uses 1 records of earlier runs" in done.stderr
    assert f"next: compile {small_artifact.path} again as it was, with: --records r.jsonl" in done.stderr
    (tmp_path / "r.jsonl").unlink()
    done = run_here(str(small_artifact.path), "-o", "r.jsonl")
    assert "no record is used by compile" in done.stderr
    assert "next:" not in done.stderr


def test_the_next_command_is_that_of_the_model_that_was_tuned(
    run_here: Callable[..., Done], small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = ThreadRecord("n", Threads(2), (0.6, 0.5, 0.7), 9.0, {})
    monkeypatch.setattr(Tuner, "run", lambda self, pattern: Tuned((), None, threads, 1.0, 3, 1, 0))
    monkeypatch.setattr(trial_library, "TrialBuilder", lambda network, folder: None)
    monkeypatch.setattr(pipeline, "compile_model", lambda *given, **named: small_artifact)
    done = run_here("motion", "--target", "native", "--precision", "fp32", "-o", "my records.jsonl")
    assert "tsm-edge compile motion --target native --precision fp32 --records 'my records.jsonl'" in done.stderr


def test_damaged_records_are_told_by_compile(run_program: RunProgram, small_artifact: Artifact, tmp_path: Path) -> None:
    shutil.copyfile(small_artifact.path / "model.onnx", tmp_path / "small.onnx")
    (tmp_path / "diary.jsonl").write_text("dear diary\n")
    caches = [f"--cache={cache.input}={cache.output}" for cache in small_artifact.manifest.caches]
    done = run_program("compile", "--onnx", "small.onnx", *caches, "--records", "diary.jsonl", timeout=240)
    assert done.returncode == 2
    assert "diary.jsonl: not a file of tuning records" in done.stderr
    assert not (tmp_path / "out").exists()
