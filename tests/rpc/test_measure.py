"""The timed loop, and the machine beside it, behind our server and TVM's own."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import Reference
from power_fakes import write_tree
from power_trees import jetson_nano

from tsm_edge.artifact.folder import MODEL_ONNX, Artifact
from tsm_edge.errors import ArtifactError, PowerError, RpcError
from tsm_edge.power.system import LocalSystem
from tsm_edge.rpc.handshake import END_POWER
from tsm_edge.rpc.machine import RemoteMeter, RemoteSystem, round_trips_s
from tsm_edge.rpc.place import Place
from tsm_edge.rpc.served_machine import ServedMachine
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.local import OnlineSession


@pytest.fixture(scope="module")
def frames(small_artifact: Artifact) -> Any:
    return np.concatenate(Reference(small_artifact.path / MODEL_ONNX).frames(3))


@pytest.fixture
def session(ours: Place, small_artifact: Artifact) -> Iterator[RemoteSession]:
    with RemoteSession(small_artifact, ours, 1) as opened:
        yield opened


@pytest.mark.parametrize("server", ["ours", "stock"])
def test_the_loop_feeds_caches_back_and_is_timed_there(
    server: str, small_artifact: Artifact, frames: Any, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(server)
    with OnlineSession(small_artifact) as here, RemoteSession(small_artifact, place) as there:
        begin_ns = time.monotonic_ns()
        found = [there.measure(frames, first, count, kernels=True) for first, count in ((0, 4), (4, 7))]
        end_ns = time.monotonic_ns()
        wanted = [here.measure(frames, first, count) for first, count in ((0, 4), (4, 7))]
        assert min(round_trips_s(there.connection, 5)) > 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        starts = one.start_ns.astype(np.int64)
        assert begin_ns <= starts[0] <= starts[-1] <= end_ns  # the same machine, so the same clock
        assert (np.diff(starts) >= one.duration_ns[:-1].astype(np.int64) - 1000).all()
        assert one.kernels_ns is not None
        assert (one.kernels_ns.sum(axis=1) <= one.duration_ns + 1000).all()


@pytest.mark.parametrize("server", ["ours", "stock"])
def test_the_yardstick_is_the_same_there(server: str, small_artifact: Artifact, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(server)
    with OnlineSession(small_artifact) as here, RemoteSession(small_artifact, place) as there:
        speeds = [(here.machine_speed(), there.machine_speed()) for _ in range(7)]
    for key in ("arithmetic_ns", "memory_ns"):
        own, other = (min(getattr(pair[index], key) for pair in speeds) for index in range(2))
        assert other == pytest.approx(own, rel=2.0)  # one machine, whatever else it does


def test_a_camera_paces_the_loop(session: RemoteSession, frames: Any) -> None:
    due = session.measure(frames, 0, 5, period_ns=5_000_000).due_ns.astype(np.int64)
    assert (np.diff(due) >= 5_000_000 - 1000).all()


def test_files_of_the_machine_are_read_over_the_connection(session: RemoteSession) -> None:
    system = RemoteSystem(session.connection)
    assert system.read(["/proc/version"]) == [Path("/proc/version").read_text().strip()]
    assert "/proc/version" in system.find("/proc/versio*")
    assert system.gather(["/proc/versio*", "/nowhere/*"]).keys() == {"/proc/version"}
    assert system.run("uname", "-m").strip() == os.uname().machine
    with pytest.raises(OSError, match="No such file") as caught:
        system.read(["/nowhere"])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nowhere")


def test_a_sensor_that_is_not_there_is_refused_by_name(session: RemoteSession) -> None:
    with pytest.raises(PowerError, match="ina3221"):
        RemoteMeter(session.connection, "ina3221").measure(lambda: None, 0.1)


def test_frames_of_another_shape_are_refused(session: RemoteSession, frames: Any) -> None:
    with pytest.raises(ArtifactError, match="frames are float32"):
        session.measure(frames[:, :1], 0, 1)


def test_the_stock_server_has_no_files_to_offer(stock: Place, small_artifact: Artifact) -> None:
    with RemoteSession(small_artifact, stock) as session, pytest.raises(RpcError, match="has no function tsm_edge"):
        RemoteSystem(session.connection).read(["/proc/version"])


class Behind:
    """The device of a connection, without the connection."""

    name = "board"

    def __init__(self, machine: ServedMachine) -> None:
        self.functions = machine.functions()

    def call(self, name: str, *arguments: str, answer_size: int = 0) -> str:
        del answer_size
        return self.functions[name](*arguments)


def test_power_is_sampled_on_the_device(tmp_path: Path) -> None:
    write_tree(tmp_path, jetson_nano(5.0, 0.0))
    device: Any = Behind(ServedMachine(LocalSystem(tmp_path)))
    meter = RemoteMeter(device, "auto")
    assert meter.info.name == "ina3221"
    found = meter.measure(lambda: "done", 0.3)
    assert found.result == "done"
    assert [watts for _, watts in found.watts] == pytest.approx([5.0] * len(found.watts), rel=0.01)
    assert found.report is None  # three windows of so few samples
    assert "samples" in found.reason


def test_a_recording_that_cannot_be_is_a_reason_and_no_power(tmp_path: Path) -> None:
    write_tree(tmp_path, jetson_nano(5.0, 0.0))
    device: Any = Behind(ServedMachine(LocalSystem(tmp_path)))
    meter = RemoteMeter(device, "ina3221")
    end = device.functions[END_POWER]
    device.functions[END_POWER] = lambda: end().replace('"values": [', '"values": [1.0, ')
    found = meter.measure(lambda: "done", 0.1)
    assert (found.result, found.report) == ("done", None)
    assert "another number of rails" in found.reason
