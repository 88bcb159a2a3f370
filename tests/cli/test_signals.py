"""Ctrl-C, SIGTERM and SIGHUP: what was begun is finished or removed, and the exit code says what happened."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from mjpeg_server import serving, steady, wait_until
from onnx_graphs import small_network

from tsm_edge.cli.signals import Stopped, stopped_by_signals
from tsm_edge.video.source import open_source

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = TESTS / "run_cli_with_fake_session.py"

# A command that works for long in a scratch folder, and takes SLOW seconds to clean up.
WORKING = """
import sys, tempfile, time
import tsm_edge.cli.models
from tsm_edge.cli.main import entry_point

def work():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep(float(sys.argv[2]))
    return []

tsm_edge.cli.models.model_names = work
sys.exit(entry_point(["models"]))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(program_environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start :data:`WORKING` and wait until it works."""
    started = []

    def run(slow_s: float = 0.0, ignored: signal.Signals | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKING, str(tmp_path), str(slow_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=program_environment,
            preexec_fn=(lambda: signal.signal(ignored, signal.SIG_IGN)) if ignored else None,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "tsm-edge: interrupted\n"),
        (signal.SIGTERM, 143, "tsm-edge: ended by SIGTERM\n"),
        (signal.SIGHUP, 129, "tsm-edge: ended by SIGHUP\n"),
    ],
)
def test_every_command_cleans_up_and_says_what_ended_it(
    start: Start, tmp_path: Path, number: signal.Signals, code: int, said: str
) -> None:
    process = start()
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("cleaning\n", said)
    assert process.returncode == code
    assert not list(tmp_path.iterdir())


def test_one_event_that_signals_twice_does_not_disturb_the_cleaning(start: Start, tmp_path: Path) -> None:
    process = start(slow_s=0.6)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 129
    assert not list(tmp_path.iterdir())


def test_a_later_second_signal_ends_what_hangs(start: Start) -> None:
    process = start(slow_s=60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_that_comes_while_native_code_calls_back() -> None:
    """As TVM's code generation does: what is raised there comes out as a RuntimeError."""
    import tvm_ffi

    call_back = tvm_ffi.convert(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="ended by SIGTERM"), stopped_by_signals():
        call_back()


def test_what_native_code_makes_of_a_signal_is_no_error_of_the_users() -> None:
    def native() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    with pytest.raises(Stopped, match="ended by SIGTERM"), stopped_by_signals():
        native()


# Its import takes a signal, and then half a second.
IMPORTED = """
import os, signal, time

os.kill(os.getpid(), signal.SIGTERM)
ends = time.monotonic() + 0.5
while time.monotonic() < ends:
    pass
print("imported", flush=True)
"""
IMPORTING = """
import sys, time
import tsm_edge.cli.models
from tsm_edge.cli.main import entry_point

def work():
    import interrupted
    if len(sys.argv) > 1:
        time.sleep(60)
    return []

tsm_edge.cli.models.model_names = work
sys.exit(entry_point(["models"]))
"""


@pytest.mark.parametrize("then", [["and", "work"], []])
def test_an_import_is_not_broken_off(then: list[str], program_environment: dict[str, str], tmp_path: Path) -> None:
    """A module in native code that is half made can crash: the signal waits until it is imported."""
    (tmp_path / "interrupted.py").write_text(IMPORTED)
    environment = {**program_environment, "PYTHONPATH": f"{program_environment['PYTHONPATH']}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, *then], capture_output=True, text=True, env=environment, timeout=40
    )
    assert (done.returncode, done.stderr) == (143, "tsm-edge: ended by SIGTERM\n")
    assert done.stdout.startswith("imported\n")


def test_under_nohup_a_closed_terminal_ends_nothing(start: Start) -> None:
    process = start(ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


def test_a_recording_is_finished_when_the_terminal_goes(program_environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**program_environment, "PYTHONPATH": f"{program_environment['PYTHONPATH']}:{TESTS}"}
    terminal, its_end = pty.openpty()
    with serving(steady(2000, interval_s=0.02)) as server:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, "run", "model", "--video", server.url, "--out", "out.mp4"],
            stdin=its_end, stdout=its_end, stderr=its_end, cwd=tmp_path, env=environment,
        )  # fmt: skip
        os.close(its_end)
        shown = b""
        while shown.count(b"frame ") < 5:
            shown += os.read(terminal, 65536)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 129
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with open_source(tmp_path / "out.mp4") as video:
        assert sum(1 for _ in video) >= 2


def test_a_compilation_that_is_terminated_leaves_nothing(program_environment: dict[str, str], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    onnx.save(small_network(), str(tmp_path / "model.onnx"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tsm_edge.cli", "compile", "--onnx", "model.onnx", "-o", "artifact"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**program_environment, "TMPDIR": str(scratch)},
    )  # fmt: skip
    wait_until(lambda: len(list(tmp_path.iterdir())) > 2 and bool(list(scratch.iterdir())), timeout_s=30)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.splitlines()[-1]) == (143, "", "tsm-edge: ended by SIGTERM")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "scratch"]
    assert not list(scratch.iterdir())
