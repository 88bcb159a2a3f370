from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
from background import Background, Start, served_at
from conftest import RunProgram

from tsm_edge.artifact.folder import Artifact
from tsm_edge.errors import RpcError
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.handshake import (
    BUILD,
    CODE_ACCEPTED,
    CODE_DUPLICATE,
    MAGIC,
    TVM_FFI_VERSION,
    TVM_VERSION,
    Greeting,
    read_greeting,
    write_greeting,
)
from tsm_edge.rpc.place import Endpoint, Place, TimeLimits, UnixEndpoint
from tsm_edge.rpc.server import ServeRequest
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.local import OnlineSession

USER = pwd.getpwuid(os.geteuid()).pw_name
LIMITS = TimeLimits(connect_s=10.0, answer_s=20.0)


def raw_connection(place: Place, hello: bytes = b"") -> socket.socket:
    stream = socket.create_connection((place.endpoint.host, place.endpoint.port), timeout=10)
    stream.sendall(hello)
    return stream


def hello(key: str) -> bytes:
    words = f"client:{key}".encode()
    return struct.pack("<ii", MAGIC, len(words)) + words


def test_it_says_what_it_is(our_server: Background, ours: Place) -> None:
    output = our_server.output()
    assert f"serving on {ours.endpoint} with a key: x86_64, {BUILD}" in output
    assert f"ssh -L {ours.endpoint.port}:127.0.0.1:{ours.endpoint.port} {USER}@" in output
    assert f"adb forward tcp:{ours.endpoint.port} tcp:{ours.endpoint.port}" in output
    assert "warning" not in output
    device = open_device(ours, LIMITS)
    assert (device.info.machine, device.info.build) == ("x86_64", BUILD)
    assert "sse2" in device.info.flags
    device.close()


def test_tvms_own_client_works_with_it(ours: Place, small_artifact: Artifact) -> None:
    from tvm import rpc, runtime

    frame = np.random.default_rng(0).standard_normal(small_artifact.manifest.frame_shape, np.float32)
    caches = [np.zeros(info.shape, np.float32) for info in small_artifact.manifest.caches]
    with OnlineSession(small_artifact) as session:
        expected, following = session.step_explicit(frame, caches)
    remote = rpc.connect(ours.endpoint.host, ours.endpoint.port, ours.key, session_timeout=60)
    remote.upload(str(small_artifact.library))
    module = remote.load_module("model.so")
    tensors = [runtime.tensor(value, remote.cpu(0)) for value in (frame, *caches, expected * 0, *caches)]
    module["step"](*tensors)
    for tensor, value in zip(tensors[1 + len(caches) :], [expected, *following], strict=True):
        np.testing.assert_array_equal(tensor.numpy(), value)
    assert module.time_evaluator("step", remote.cpu(0), number=2)(*tensors).mean > 0


@pytest.mark.real_time
def test_clients_that_say_nothing_or_nonsense_hold_up_nobody(our_server: Background, ours: Place) -> None:
    silent = [raw_connection(ours, part) for part in (b"", b"\x71", hello("board")[:10])]
    nonsense = [raw_connection(ours, part) for part in (b"GET / HTTP/1.1\r\n\r\n", struct.pack("<ii", MAGIC, 1 << 30))]
    for stream in nonsense:
        with stream, contextlib.suppress(ConnectionResetError):
            assert stream.recv(1) == b""
    began_s = time.monotonic()
    open_device(ours, LIMITS).close()
    assert time.monotonic() - began_s < 12  # one after the other they would take 15 s
    for stream in silent:
        with stream:
            assert stream.recv(1) == b""  # shown the door in the end
    our_server.wait_for("dismissed, said nothing that TVM's RPC begins with", count=3)
    our_server.wait_for("dismissed, it does not speak TVM's RPC", count=2)


def test_a_handshake_in_pieces(ours: Place) -> None:
    with raw_connection(ours) as stream:
        for byte in hello("board"):
            stream.sendall(bytes([byte]))
            time.sleep(0.002)
        code, length = struct.unpack("<ii", stream.recv(8, socket.MSG_WAITALL))
        greeting = read_greeting(stream.recv(length, socket.MSG_WAITALL).decode())
    assert code == CODE_ACCEPTED
    assert greeting == Greeting("x86_64", BUILD)


def test_a_second_client_is_told_that_the_device_is_busy(ours: Place) -> None:
    first = open_device(ours, LIMITS)
    with pytest.raises(RpcError, match="is busy with another session; try again when that has ended"):
        open_device(ours, LIMITS)
    first.close()
    open_device(ours, LIMITS).close()


def test_a_crash_ends_only_its_session(our_server: Background, ours: Place) -> None:
    for _ in range(2):
        device = open_device(ours, LIMITS)
        (process,) = psutil.Process(our_server.process.pid).children()
        process.send_signal(signal.SIGSEGV)
        with pytest.raises(RpcError, match="the connection was lost"):
            device.call("tvm.rpc.server.download", "x")
    our_server.wait_for("died of SIGSEGV; serving goes on", count=2)


def test_the_time_limit_of_tvms_own_client(our_server: Background, ours: Place) -> None:
    with raw_connection(ours, hello("board -timeout=0.2")) as stream:
        while stream.recv(1 << 16):
            pass
    our_server.wait_for("was ended: the time limit its client set is over")


def test_an_upload_that_was_damaged_is_refused(ours: Place) -> None:
    device = open_device(ours, LIMITS)
    device.call("tvm.rpc.server.upload", "model.so", b"damaged")
    with pytest.raises(RpcError, match=r"the uploaded model\.so has SHA-256 [0-9a-f]{64}, expected 0{64}"):
        device.call("tsm_edge.keep_upload", "model.so", "0" * 64)
    assert device.call("tsm_edge.find_upload", "0" * 64) == ""
    with pytest.raises(RpcError, match="is not a SHA-256"):
        device.call("tsm_edge.find_upload", "../../etc/passwd")
    for name in ("../evil", "/evil", ""):
        with pytest.raises(RpcError, match="is not the name of a file in the session's folder"):
            device.call("tvm.rpc.server.upload", name, b"x")
        with pytest.raises(RpcError, match="is not the name of a file in the session's folder"):
            device.call("tvm.rpc.server.remove", name)
        with pytest.raises(RpcError, match="is not the name of a file in the session's folder"):
            device.call("tsm_edge.keep_upload", name, "0" * 64)
    device.call("tvm.rpc.server.remove", "model.so")
    assert json.loads(device.call("tsm_edge.server_info"))["cores"] == os.cpu_count()
    device.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_and_the_session_under_way(
    how: signal.Signals, start: Start, small_artifact: Artifact, tmp_path: Path
) -> None:
    server = start("tsm_edge.cli", "serve", "--port", "0", TMPDIR=str(tmp_path))
    place = Place(served_at(server))
    with RemoteSession(small_artifact, place, limits=LIMITS) as session:
        assert len(list(tmp_path.iterdir())) == 1
        os.kill(server.process.pid, how)
        assert server.process.wait(10) == 0
        with pytest.raises(RpcError, match=r"during a step, and connecting again failed: nothing listens on"):
            session.step(np.zeros(small_artifact.manifest.frame_shape, np.float32))
    assert server.output().rstrip().endswith("stopped")
    assert list(tmp_path.iterdir()) == []


def test_sessions_end_with_a_server_that_is_killed(start: Start) -> None:
    server = start("tsm_edge.cli", "serve", "--port", "0")
    device = open_device(Place(served_at(server)), LIMITS)
    work = Path(device.ask("tvm.rpc.server.workpath", "x")).parents[1]
    (session,) = psutil.Process(server.process.pid).children()
    server.process.kill()
    session.wait(10)
    with pytest.raises(RpcError, match="the connection was lost"):
        device.call("no such function")
    assert work.exists()
    start("tsm_edge.cli", "serve", "--port", "0").wait_for("tunnel first")
    assert not work.exists()  # the next server cleans up


def test_a_warning_when_other_machines_can_connect(start: Start) -> None:
    server = start("tsm_edge.cli", "serve", "--host", "0.0.0.0", "--port", "0")
    served_at(server)
    assert "warning: other machines can connect to 0.0.0.0:" in server.output()
    assert f"whoever connects can run any program here as {USER}: TVM's RPC has no encryption" in server.output()
    assert server.interrupt() == 0


@pytest.mark.real_time
def test_many_silent_connections_hold_up_nobody(ours: Place) -> None:
    silent = [raw_connection(ours) for _ in range(40)]
    began_s = time.monotonic()
    open_device(ours, LIMITS).close()
    assert time.monotonic() - began_s < 3
    assert struct.unpack("<i", silent[0].recv(4)) == (CODE_DUPLICATE,)  # had to make room
    for stream in silent:
        stream.close()


@contextlib.contextmanager
def limited(server: Background, kind: int, soft: int) -> Iterator[None]:
    """The server, and the sessions it begins now, have less of something."""
    process = psutil.Process(server.process.pid)
    before = process.rlimit(kind)
    process.rlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        process.rlimit(kind, before)


def test_no_file_descriptor_for_a_session(our_server: Background, ours: Place) -> None:
    sessions = our_server.output().count(" connected")
    our_server.wait_for(r"session \d+: .* after", count=sessions)  # they have given theirs back
    for more in range(2):
        taken = {int(name) for name in os.listdir(f"/proc/{our_server.process.pid}/fd")}
        free = next(number for number in range(len(taken) + 1) if number not in taken)
        with (
            limited(our_server, psutil.RLIMIT_NOFILE, free + more),
            pytest.raises(RpcError, match=r"is busy with another|no session can begin .* \(Too many open files\)"),
        ):
            open_device(ours, LIMITS)
    open_device(ours, LIMITS).close()


def test_no_room_in_the_temporary_folder(our_server: Background, ours: Place) -> None:
    device = open_device(ours, LIMITS)
    work = Path(device.ask("tvm.rpc.server.workpath", "x")).parents[1]
    device.close()
    taken = work.with_name("taken")
    (work / "uploads").rename(taken)
    (work / "uploads").write_text("in the way")
    with pytest.raises(RpcError, match=r"no session can begin on this device \(File exists\)"):
        open_device(ours, LIMITS)
    our_server.wait_for("turned away, no session can begin on this device")
    work.rename(taken / "work")  # as cleaners of temporary folders do
    open_device(ours, LIMITS).close()


def test_no_room_for_an_upload(our_server: Background, ours: Place) -> None:
    with limited(our_server, psutil.RLIMIT_FSIZE, 1 << 20):
        device = open_device(ours, LIMITS)
    with pytest.raises(RpcError, match="File too large"):
        device.call("tvm.rpc.server.upload", "model.so", bytes(1 << 21))
    device.call("tvm.rpc.server.upload", "model.so", b"small")
    assert device.call("tvm.rpc.server.download", "model.so") == b"small"
    device.close()


def test_a_unix_socket_with_a_key_in_a_file(start: Start, small_artifact: Artifact, run_program: RunProgram) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, key_file = Path(folder) / "board", Path(folder) / "key"
        key_file.touch(0o600)
        key_file.write_text("s3cret\n")
        server = start("tsm_edge.cli", "serve", "--unix", str(path), "--key-file", str(key_file))
        server.wait_for("tunnel first")
        frame = np.zeros(small_artifact.manifest.frame_shape, np.float32)
        with RemoteSession(small_artifact, Place(UnixEndpoint(str(path)), "s3cret"), limits=LIMITS) as session:
            found = session.step(frame)
        with OnlineSession(small_artifact) as here:
            np.testing.assert_array_equal(found, here.step(frame))
        verify = ("verify", str(small_artifact.path), "--frames", "2", "--rpc", f"unix:{path}")
        assert run_program(*verify, "--key-file", str(key_file)).returncode == 0
        assert "does not accept clients without its key; give the one" in run_program(*verify).stderr
        server.wait_for("refused, wrong key")
        assert f"process {os.getpid()} of {USER} connected" in server.output()
        assert server.interrupt() == 0
        assert f"serving on unix:{path} with a key: " in server.output()
        assert "s3cret" not in server.output()
        assert sorted(os.listdir(folder)) == ["key"]
        assert f"nothing listens on unix:{path}; start a server there with: tsm-edge serve --unix {path}" in (
            run_program(*verify).stderr
        )


def test_user_mistakes(run_program: RunProgram, ours: Place) -> None:
    port = str(ours.endpoint.port)
    taken = run_program("serve", "--port", port)
    assert taken.returncode == 2
    message = f"error: 127.0.0.1:{port} cannot be bound (Address already in use); try: --port {int(port) + 1}"
    assert taken.stderr == f"tsm-edge: {message}\n"
    foreign = run_program("serve", "--host", "192.0.2.1", "--port", "0")
    assert foreign.stderr.endswith("(Cannot assign requested address); try: --host 127.0.0.1\n")
    both = run_program("serve", "--unix", "board", "--port", "9090")
    assert "expected either --unix PATH or --host and --port" in both.stderr
    odd = run_program("serve", "--host", "a..b")
    assert (odd.returncode, odd.stderr.count("\n")) == (2, 1)
    assert "'a..b' is not the name or number of a machine" in odd.stderr
    with pytest.raises(RpcError, match=r"'a\.\.b' is not the name or number of a machine"):
        ServeRequest(Endpoint("127.0.0.1", 9090), "k", Endpoint("127.0.0.1", 9190), announced_host="a..b")
    with pytest.raises(RpcError, match="a tracker's clients cannot reach a Unix socket"):
        ServeRequest(UnixEndpoint("board"), "k", tracker=Endpoint("127.0.0.1", 9190))
    with pytest.raises(RpcError, match="a tracker knows devices by their key, and none was given"):
        ServeRequest(Endpoint("127.0.0.1", 9090), tracker=Endpoint("127.0.0.1", 9190))


def test_greetings() -> None:
    assert read_greeting(write_greeting("k", Greeting("aarch64", "b"))) == Greeting("aarch64", "b")
    assert read_greeting(write_greeting("", Greeting("aarch64", "b"))) == Greeting("aarch64", "b")
    assert read_greeting("server:k") == read_greeting("") == Greeting()


def test_the_build_spoken_is_the_one_installed() -> None:
    assert (version("apache-tvm"), version("apache-tvm-ffi")) == (TVM_VERSION, TVM_FFI_VERSION)
