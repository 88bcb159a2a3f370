"""Measuring a board over ssh and adb with ``tsm-runner`` alone: a real sshd on loopback, a stand-in for adb."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from background import Background, served_at
from power_fakes import FakeSensor, StepClock

from tsm_edge.artifact.folder import RUNNER, Artifact, load_artifact
from tsm_edge.bench.board_power import measure_outside
from tsm_edge.bench.boards import measure_on_board
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import Document, Result, Samples, from_json, read_document, to_json
from tsm_edge.bench.run import run
from tsm_edge.bench.runner_report import read_told
from tsm_edge.bench.runner_run import Said
from tsm_edge.bench.statistics import summary
from tsm_edge.bench.subject import Subject, here, over_rpc
from tsm_edge.deploy.adb import AdbDestination
from tsm_edge.deploy.deploy import DeployRequest, deploy
from tsm_edge.deploy.destination import parse_destination
from tsm_edge.errors import BenchError
from tsm_edge.power.registry import LiveMeter
from tsm_edge.rpc.place import Place, parse_endpoint

# The fixtures of this folder's conftest.py.
Board = Any
Adb = Any
QUICK = Plan(frames=70, warmup_s=0, power="none")


def measured(board: Board, model: Path, plan: Plan = QUICK, host: str = "board") -> Result:
    outcome = measure_on_board(load_artifact(model), parse_destination(host, board.config), plan, 1, "it")
    assert outcome.error is None
    return outcome.result


def left(board: Board) -> list[str]:
    return sorted(str(path.relative_to(board.home)) for path in board.home.rglob("*"))


def test_over_ssh_it_comes_back_whole_and_nothing_stays(board: Board, model: Path) -> None:
    result = measured(board, model)
    manifest = load_artifact(model).manifest
    assert (result.route, result.address, result.partial) == ("ssh", "board", None)
    assert result.latency_ms == summary(result.samples.step_ms)
    assert (result.latency_ms.count, result.latency_ms.p99) == (70, None)
    assert (result.model.name, result.model.sha256) == (manifest.model, manifest.files["model.so"])
    assert result.verification is not None
    assert result.verification.passed
    assert result.startup.upload_ms is not None
    assert {verdict.name for verdict in result.verdicts} >= {"verified"}
    before = result.environment_before
    assert before is not None
    assert before.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert before.at_s < 0
    assert from_json(json.loads(json.dumps(to_json(Document("tsm-edge-bench/1", "0", (result,))))), "x")
    assert left(board) == []


def test_what_is_deployed_is_used_where_it_lies_and_stays(board: Board, model: Path) -> None:
    destination = parse_destination("board", board.config)
    deploy(DeployRequest(model, destination, verify=False))
    before = left(board)
    assert measured(board, model).startup.upload_ms is None
    assert left(board) == before


def test_another_model_that_is_deployed_is_left_alone(board: Board, model: Path) -> None:
    folder = board.home / "tsm-edge" / model.name
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    measured(board, model)
    assert left(board) == ["tsm-edge", f"tsm-edge/{model.name}", f"tsm-edge/{model.name}/notes.txt"]


def test_over_adb(adb: Adb, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in adb.environment.items():
        monkeypatch.setenv(name, value)
    outcome = measure_on_board(load_artifact(model), AdbDestination(), QUICK, None, "it")
    result = outcome.result
    assert (result.route, result.address) == ("adb", "Android device emulator-5554")
    assert result.latency_ms.count == 70
    assert result.settings.threads == len(os.sched_getaffinity(0))
    assert [path for path in (adb.root / "data/local/tmp").rglob("*") if path.is_file()] == []


ODD: dict[str, tuple[Callable[[Any], None], str]] = {}


def odd(words: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """A change to an honest document, and what is said of it."""

    def note(change: Callable[[Any], None]) -> Callable[[Any], None]:
        ODD[change.__name__] = (change, words)
        return change

    return note


@odd("is of 70 frames, 2 threads")
def threads(result: Any) -> None:
    result["settings"]["threads"] = 2


@odd("its clock is fast, or jumped")
def long(result: Any) -> None:
    result["samples"]["start_s"] = [100000 * start for start in result["samples"]["start_s"]]
    result["samples"]["step_ms"] = [100000 * step for step in result["samples"]["step_ms"]]


@odd("began before the one before it had ended")
def overlapping(result: Any) -> None:
    result["samples"]["start_s"][1] = 1e-9


@odd("70 frames began and 69 ended")
def fewer(result: Any) -> None:
    result["samples"]["step_ms"].pop()


@odd("there are times that are none")
def negative(result: Any) -> None:
    result["samples"]["step_ms"][3] *= -1


@odd("and does not say that it ended early")
def early(result: Any) -> None:
    result["latency_ms"]["count"] = 69


@odd("p90 is 0.001, and ")
def faster(result: Any) -> None:
    result["latency_ms"]["p90"] = 0.001


@odd("golden frames pass with an error of 0.5")
def wrong(result: Any) -> None:
    result["verification"]["relative_error"] = 0.5


@odd("the golden frames were not run")
def unverified(result: Any) -> None:
    result["verification"] = None


@odd("was measured, expected gestures")
def another(result: Any) -> None:
    result["model"]["flops"] += 1


@odd("its energies do not follow from its powers")
def energies(result: Any) -> None:
    result["power"] = {**POWER, "net_w": 9.0}


@odd("it has the energy of 3 frames, and 70 were timed")
def few(result: Any) -> None:
    powers(result)
    result["power"]["frames"] = 3


@odd("the machine's speed has times that are none")
def backwards(result: Any) -> None:
    result["yardstick"].reverse()


@odd("measuring the machine's speed took longer than the whole run")
def slow_yardstick(result: Any) -> None:
    result["yardstick"][0]["memory_ms"] = 1e6


@odd("2.000 W, and 3.000 W in the mean of its samples")
def powers(result: Any) -> None:
    last = result["samples"]["start_s"][-1] + 1e-3 * result["samples"]["step_ms"][-1]
    joules = {"gross_j": 2 * last, "net_j": last, "gross_j_per_frame": 2 * last / 70, "net_j_per_frame": last / 70}
    result["power"] = {**POWER, **joules, "duration_s": last}
    result["watts"] = [{"at_s": 0.0, "power_w": 3.0}, {"at_s": last / 2, "power_w": 3.0}]


POWER = {
    **{"sensor": "rapl", "boundary": "SoC", "covers": "all", "rails": [], "uncertainty_percent": None},
    **{"gross_w": 2.0, "idle_w": 1.0, "net_w": 1.0, "idle_before_w": 1.0, "idle_after_w": 1.0, "gross_j": 2.0},
    **{"net_j": 1.0, "gross_j_per_frame": 0.1, "net_j_per_frame": 0.1, "frames": 70, "duration_s": 1.0},
    **{"uncertainty": "none", "samples": 10, "rate_hz": 10.0, "jitter_ms": 0.0, "longest_gap_ms": 0.0, "remarks": []},
}


@pytest.fixture(scope="module")
def honest(artifact_with_runner: Artifact) -> str:
    """What the runner prints."""
    command = [artifact_with_runner.path / RUNNER, "bench", "--frames", "70", "--warmup", "0"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_true_is_refused(name: str, honest: str, artifact_with_runner: Artifact) -> None:
    change, words = ODD[name]
    document = json.loads(honest)
    change(document["results"][0])
    with pytest.raises(BenchError, match=words):
        read_told(json.dumps(document), "pi", artifact_with_runner, QUICK, 1, 5.0)


def test_an_honest_document_is_believed(honest: str, artifact_with_runner: Artifact) -> None:
    assert read_told(honest, "pi", artifact_with_runner, QUICK, 1, 5.0).latency_ms.count == 70
    for text in ("[]", "{", honest.replace("tsm-edge-bench/1", "tsm-edge-bench/9"), honest.replace('"fps"', '"pfs"')):
        with pytest.raises(BenchError, match="pi: "):
            read_told(text, "pi", artifact_with_runner, QUICK, 1, 5.0)


class Cli:
    """``tsm-edge bench`` against the board, as a process that can be interrupted."""

    def __init__(self, board: Board, model: Path, folder: Path, environment: dict[str, str], *options: str) -> None:
        self.json = folder / "found.json"
        words = ["--power", "none", "--warmup", "0", "--json", str(self.json), *options]
        command = [sys.executable, "-m", "tsm_edge.cli", "bench", str(model), "--ssh-config", str(board.config)]
        self._home = str(board.home)
        self.process = subprocess.Popen(
            [*command, *words], env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def runner(self) -> psutil.Process:
        """``tsm-runner`` on the board, once it times frames."""
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            assert self.process.poll() is None, self.process.communicate()
            for process in psutil.process_iter(["cmdline", "cwd"]):
                words = process.info["cmdline"] or []
                if words[:2] == ["./tsm-runner", "bench"] and (process.info["cwd"] or "").startswith(self._home):
                    time.sleep(0.5)
                    return process
            time.sleep(0.05)
        raise AssertionError("tsm-runner does not run")

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said on stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def result(self) -> Result:
        """What it wrote."""
        [result] = read_document(self.json).results
        return result


@pytest.fixture
def cli(board: Board, model: Path, tmp_path: Path, program_environment: dict[str, str]) -> Iterator[Callable[..., Cli]]:
    """Start it."""
    started: list[Cli] = []

    def start(*options: str) -> Cli:
        started.append(Cli(board, model, tmp_path, program_environment, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()


def test_the_command_measures_a_board(cli: Callable[..., Cli], board: Board) -> None:
    run = cli("--ssh", "board", "--frames", "700", "--threads", "1")
    code, errors = run.end()
    assert code == 0, errors
    result = run.result()
    assert (result.route, result.latency_ms.count) == ("ssh", 700)
    assert "--ssh board" in result.command
    assert left(board) == []


@pytest.mark.real_time
def test_ctrl_c_stops_the_board_and_keeps_what_was_measured(cli: Callable[..., Cli], board: Board) -> None:
    run = cli("--ssh", "board-anew", "--duration", "60", "--fps", "200")
    runner = run.runner()
    run.process.send_signal(signal.SIGINT)
    code, errors = run.end()
    assert code == 130, errors
    result = run.result()
    assert result.partial is not None
    assert result.partial.startswith("stopped by signal 2 after ")
    assert result.latency_ms.count > 20
    assert not runner.is_running()
    assert left(board) == []


@pytest.mark.real_time
def test_a_connection_that_is_lost_is_taken_up_again(cli: Callable[..., Cli], board: Board) -> None:
    run = cli("--ssh", "board-anew", "--duration", "3", "--fps", "200")
    runner = run.runner()
    [session] = [process for process in runner.parents() if process.name().startswith("sshd")][:1]
    session.kill()
    code, errors = run.end()
    assert code == 0, errors
    assert run.result().partial is None
    assert run.result().latency_ms.count >= 300
    assert left(board) == []


def test_a_runner_that_is_killed_is_said(cli: Callable[..., Cli], board: Board) -> None:
    run = cli("--ssh", "board", "--duration", "60", "--fps", "200")
    run.runner().kill()
    code, errors = run.end()
    assert (code, run.json.exists()) == (2, False)
    [line] = [line for line in errors.splitlines() if "error" in line]
    assert line.startswith("tsm-edge: error: board: tsm-runner bench ended with 137 (")
    assert left(board) == []


def test_a_machine_of_another_kind_is_refused(cli: Callable[..., Cli], board: Board) -> None:
    board.add_program("uname", "echo aarch64")
    code, errors = cli("--ssh", "board", "--frames", "10").end()
    assert code == 2
    assert "tsm-edge: error: board is aarch64, the model is compiled for native (x86_64)" in errors
    assert left(board) == []


def test_a_full_disk_is_said_and_leaves_nothing(cli: Callable[..., Cli], board: Board) -> None:
    board.add_program("tar", "echo 'tar: write error: No space left on device' >&2; exit 1")
    code, errors = cli("--ssh", "board", "--frames", "10").end()
    assert code == 2
    assert "is full; make room there" in errors
    assert left(board) == []


def test_a_folder_that_may_not_be_written_to_is_enough(board: Board, model: Path) -> None:
    """Somebody else deployed the model; this user's notes go to the board's TMPDIR."""
    destination = parse_destination("board", board.config)
    deploy(DeployRequest(model, destination, verify=False))
    board.add_program("[", 'if /usr/bin/test "$1" = -w; then exit 1; fi; exec /usr/bin/[ "$@"')
    before = left(board)
    assert measured(board, model).latency_ms.count == 70
    assert left(board) == before


def test_an_artifact_without_a_runner_cannot_be_measured_there(board: Board, small_artifact: Artifact) -> None:
    with pytest.raises(BenchError, match="has no tsm-runner, which is what runs on a board"):
        measured(board, small_artifact.path)


def test_a_sensor_that_is_not_there_ends_it_before_anything_is_timed(cli: Callable[..., Cli], board: Board) -> None:
    code, errors = cli("--ssh", "board", "--frames", "10", "--power", "battery").end()
    assert code == 2
    assert "power sensor battery: no battery in /sys/class/power_supply" in errors
    assert left(board) == []


def test_a_meter_that_is_read_from_here_knows_when_frames_ran(honest: str, artifact_with_runner: Artifact) -> None:
    """The board draws 2 W; 3 W while the runner starts and ends; 5 W while frames run."""
    frames_s, tail_s = 0.6, 0.15
    clock, watts = StepClock(), [2.0]
    sensor = FakeSensor(lambda: (watts[0],), period_s=0.005)

    def run() -> Said:
        for power, seconds in ((3.0, 0.3), (5.0, frames_s), (3.0, tail_s)):
            watts[0] = power
            clock.sleep(seconds)
        watts[0] = 2.0
        return Said(honest, 1.05, clock.now())

    result = read_told(honest, "pi", artifact_with_runner, QUICK, 1, 5.0)
    assert result.environment_after is not None
    after = dataclasses.replace(result.environment_after, at_s=frames_s + tail_s)
    samples = Samples((0.0, 0.3), (300.0, 1e3 * (frames_s - 0.3)))
    measured = measure_outside(LiveMeter(sensor), 0.2, run, clock)
    result = measured.added_to(dataclasses.replace(result, samples=samples, environment_after=after))
    assert result.power is not None, result.unavailable
    assert result.power.gross_w == pytest.approx(5.0, rel=0.1)
    assert result.power.idle_w == pytest.approx(2.0, rel=0.02)
    assert result.power.net_j == pytest.approx(3.0 * frames_s, rel=0.15)
    assert min(sample.at_s for sample in result.watts) < -0.3
    assert max(sample.at_s for sample in result.watts) > frames_s + tail_s


@pytest.mark.real_time
def test_all_ways_find_the_same_latency(
    board: Board, adb: Adb, motion_artifact: Artifact, start_server: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, over RPC, ssh and adb: one machine. Turns are repeated until their fastest medians are near each other.

    Steps of a fifth of a millisecond: where one takes microseconds, the place of its pages in memory shows.
    """
    for name, value in adb.environment.items():
        monkeypatch.setenv(name, value)
    artifact, plan = motion_artifact, Plan(frames=200, warmup_s=0, power="none", peak=False)
    over_ssh = parse_destination("board", board.config)
    deploy(DeployRequest(artifact.path, over_ssh, verify=False))
    deploy(DeployRequest(artifact.path, AdbDestination(), verify=False))
    address = start_server()

    def on_board(destination: Any) -> Result:
        return measure_on_board(artifact, destination, plan, 1, "it").result

    def on_subject(subject: Subject) -> Result:
        with contextlib.closing(subject):
            return run(subject, plan, "it").result

    ways: dict[str, Callable[[], Result]] = {
        "local": lambda: on_subject(here(artifact, 1)),
        "rpc": lambda: on_subject(over_rpc(artifact, Place(parse_endpoint(address)), 1)),
        "ssh": lambda: on_board(over_ssh),
        "adb": lambda: on_board(AdbDestination()),
    }
    medians = dict.fromkeys(ways, float("inf"))
    for _ in range(6):
        for name, way in ways.items():
            result = way()
            assert result.route == name
            medians[name] = min(medians[name], result.latency_ms.p50 or float("inf"))
        if max(medians.values()) < 1.25 * min(medians.values()):
            return
    raise AssertionError(f"medians differ by more than a quarter: {medians}")


@pytest.fixture
def start_server(tmp_path: Path, program_environment: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Start ``tsm-edge serve``; its address."""
    servers: list[Background] = []

    def start() -> str:
        command = [sys.executable, "-m", "tsm_edge.cli", "serve", "--port", "0"]
        environment = {**program_environment, "TSM_EDGE_THREADS": "1"}
        servers.append(Background(command, tmp_path / "serve.log", environment))
        return str(served_at(servers[-1]))

    yield start
    for server in servers:
        server.kill()
