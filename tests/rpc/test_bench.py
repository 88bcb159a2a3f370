"""``tsm-edge bench`` on devices: our server, TVM's own, several, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from background import Background, Start, served_at
from conftest import RunProgram

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.default_model import target_for
from tsm_edge.bench.result import read_document
from tsm_edge.cards import load_target
from tsm_edge.rpc.place import Endpoint, Place

QUICK = ("--duration", "0.3", "--warmup", "0", "--power", "none")


@pytest.mark.real_time
@pytest.mark.parametrize("server", ["ours", "stock"])
def test_a_device_is_measured_and_verified(
    server: str,
    run_program: RunProgram,
    artifact_with_runner: Artifact,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    place = request.getfixturevalue(server)
    arguments = ("--rpc", str(place.endpoint), "--key", place.key, "--json", str(tmp_path / "x.json"))
    done = run_program("bench", str(artifact_with_runner.path), *QUICK, *arguments)
    assert done.returncode == 0, done.stderr
    (result,) = read_document(tmp_path / "x.json").results
    assert (result.route, result.address) == ("rpc", str(place.endpoint))
    assert result.latency_ms.count >= 5
    assert result.verification is not None
    assert result.verification.passed
    assert result.network_ms is not None
    assert result.startup.upload_ms is not None
    assert place.key not in result.command.split()
    assert len(result.kernels) == len(artifact_with_runner.manifest.kernels)
    lacks = {entry.key for entry in result.unavailable}
    if server == "ours":
        assert result.environment_before is not None
        assert result.environment_before.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert lacks == {"power"}
    else:
        assert result.environment_before is None
        assert lacks == {"power", "environment", "threads"}
        assert "TVM's own server" in (result.server or "")


def test_the_stock_server_has_no_sensor_of_the_board(
    stock: Place, run_program: RunProgram, small_artifact: Artifact
) -> None:
    arguments = ("--rpc", str(stock.endpoint), "--key", stock.key, "--frames", "5")
    done = run_program("bench", str(small_artifact.path), "--power", "rapl", *arguments)
    assert done.returncode == 2
    assert "TVM's own server reads no power sensor (rapl)" in done.stderr.splitlines()[-1]


def test_all_devices_of_a_tracker_stand_side_by_side(
    our_tracked_server: Background,
    tracked: Endpoint,
    start: Start,
    run_program: RunProgram,
    small_artifact: Artifact,
    tmp_path: Path,
) -> None:
    our_tracked_server.wait_for("announced")
    tracker = f"{tracked.host}:{tracked.port}"
    other = start("tsm_edge.cli", "serve", "--port", "0", "--key", "gadget", "--tracker", tracker)
    try:
        other.wait_for("announced")
        arguments = ("--tracker", tracker, "--key", "gadget", "--json", str(tmp_path / "x.json"))
        done = run_program("bench", str(small_artifact.path), *QUICK, *arguments, "--html", str(tmp_path / "x.html"))
    finally:
        other.kill()
    assert done.returncode == 0, done.stderr
    assert "are one machine: measured one after the other" in done.stderr
    addresses = {result.address for result in read_document(tmp_path / "x.json").results}
    assert len(addresses) == 2
    assert all(f":{served_at(server).port} " in " ".join(map(str, addresses)) for server in (our_tracked_server, other))


def test_a_second_client_is_told_that_the_device_is_busy(
    ours: Place, run_program: RunProgram, small_artifact: Artifact
) -> None:
    from tsm_edge.rpc.session import RemoteSession

    with RemoteSession(small_artifact, ours):
        done = run_program(
            "bench", str(small_artifact.path), "--frames", "5", "--rpc", str(ours.endpoint), "--key", ours.key
        )
    assert done.returncode == 2
    assert "is busy with another session" in done.stderr.splitlines()[-1]


def test_a_server_that_dies_takes_no_result_with_it(
    start: Start, small_artifact: Artifact, tmp_path: Path, program_environment: dict[str, str]
) -> None:
    server = start("tsm_edge.cli", "serve", "--port", "0")
    path = tmp_path / "cut.json"
    command = [sys.executable, "-m", "tsm_edge.cli", "bench", str(small_artifact.path), "--duration", "60"]
    options = ["--warmup", "0", "--power", "none", "--rpc", str(served_at(server)), "--json", str(path)]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=program_environment) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if " frames, " in line:
                break
        server.kill()
        rest = program.stderr.read()
    assert program.returncode == 2, rest
    assert "the connection was lost" in rest.splitlines()[-1]
    (result,) = read_document(path).results
    assert "the connection was lost" in (result.partial or "")
    assert result.latency_ms.count > 0


def test_the_target_of_a_device_is_what_it_is(ours: Place) -> None:
    found, native = target_for(ours, None), load_target("native")
    assert (found.cpu, found.libc) == (native.cpu, native.libc)
    assert found.name == "detected"


def test_the_stock_server_gets_a_portable_target(stock: Place) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the stock server tells no more than the architecture")
    assert target_for(stock, None).name == "x86-64"
    assert target_for(stock, "native").name == "native"
