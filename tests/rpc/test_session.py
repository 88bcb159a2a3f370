from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from background import Background, Start
from relay import Relay

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import architecture as machines
from tsm_edge.cards import load_target
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import ArtifactError, RpcError
from tsm_edge.files.atomic import file_sha256
from tsm_edge.machine.files import to_cpus
from tsm_edge.rpc.machine import RemoteSystem
from tsm_edge.rpc.place import Endpoint, Place, TimeLimits
from tsm_edge.rpc.serving import set_cores, set_threads
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.local import OnlineSession

Floats = npt.NDArray[np.float32]

LIMITS = TimeLimits(connect_s=10.0, device_s=10.0, answer_s=20.0)


def frames(artifact: Artifact, count: int) -> list[Floats]:
    random = np.random.default_rng(3)
    return [random.standard_normal(artifact.manifest.frame_shape, np.float32) for _ in range(count)]


def local_logits(artifact: Artifact, sequence: list[Floats]) -> list[Floats]:
    with OnlineSession(artifact) as session:
        return [session.step(frame) for frame in sequence]


def for_target(artifact: Artifact, name: str, **changes: str) -> Artifact:
    card = load_target(name)
    target = dataclasses.replace(card, cpu=dataclasses.replace(card.cpu, **changes))  # type: ignore[arg-type]
    return Artifact(artifact.path, dataclasses.replace(artifact.manifest, target=target))


def session_process(server: Background) -> psutil.Process:
    """The process of the session under way: the one without children of its own."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return max((child for child in children if not child.children()), key=lambda child: child.create_time())


@pytest.fixture(params=["ours", "stock"])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


def test_clips(place: Place, clip_artifact: Artifact) -> None:
    clips = frames(clip_artifact, 2)
    with OnlineSession(clip_artifact) as here, RemoteSession(clip_artifact, place, limits=LIMITS) as there:
        for clip in clips:
            np.testing.assert_array_equal(there.step(clip), here.step(clip))
            np.testing.assert_array_equal(there.frame_logits(), here.frame_logits())
        timings = there.measure(np.concatenate(clips), 0, 3)
        np.testing.assert_array_equal(timings.logits, here.step(clips[0]))


def test_several_clips_a_step(place: Place, clips_artifact: Artifact) -> None:
    first, second = frames(clips_artifact, 2)
    with OnlineSession(clips_artifact) as here, RemoteSession(clips_artifact, place, limits=LIMITS) as there:
        np.testing.assert_array_equal(there.step(first), here.step(first))
        np.testing.assert_array_equal(there.frame_logits(), here.frame_logits())
        timings = there.measure(np.concatenate([first, second]), 0, 2)
        np.testing.assert_array_equal(timings.logits, here.step(second))


def test_the_same_logits_as_here(place: Place, small_artifact: Artifact) -> None:
    sequence = frames(small_artifact, 8)
    expected = local_logits(small_artifact, sequence)
    with RemoteSession(small_artifact, place, limits=LIMITS) as session:
        found = [session.step(frame) for frame in sequence]
        session.reset()
        again = [session.step(frame) for frame in sequence]
        assert session.device.machine == "x86_64"
        assert session.manifest == small_artifact.manifest
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, expected)


def test_explicit_caches(place: Place, small_artifact: Artifact) -> None:
    sequence = frames(small_artifact, 3)
    mine = theirs = [np.zeros(info.shape, np.float32) for info in small_artifact.manifest.caches]
    with RemoteSession(small_artifact, place, limits=LIMITS) as session, OnlineSession(small_artifact) as local:
        inside = [session.step(frame) for frame in sequence[:2]]
        for frame in sequence:
            logits, mine = session.step_explicit(frame, mine)
            expected, theirs = local.step_explicit(frame, theirs)
            np.testing.assert_array_equal(logits, expected)
            for cache, wanted in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(cache, wanted)
        # The session's own caches were left alone.
        inside.append(session.step(sequence[2]))
        with pytest.raises(ArtifactError, match="got 0 caches, expected 3"):
            session.step_explicit(sequence[0], [])
    np.testing.assert_array_equal(inside, local_logits(small_artifact, sequence))


def test_only_the_frame_goes_out_and_only_the_logits_come_back(ours: Place, small_artifact: Artifact) -> None:
    manifest = small_artifact.manifest
    caches = sum(int(np.prod(info.shape)) * 4 for info in manifest.caches)
    frame, *others = frames(small_artifact, 4)
    with (
        Relay(ours.endpoint) as relay,
        RemoteSession(small_artifact, Place(relay.endpoint, ours.key), limits=LIMITS) as session,
    ):
        session.step(frame)
        sent, received = relay.sent, relay.received
        for other in others:
            session.step(other)
            session.reset()
        overhead_out = (relay.sent - sent) / len(others) - frame.nbytes
        overhead_back = (relay.received - received) / len(others) - manifest.classes * 4
    assert overhead_out < min(1000, caches)
    assert overhead_back < 100


def test_the_model_is_not_sent_twice(ours: Place, other_artifact: Artifact) -> None:
    size = other_artifact.library.stat().st_size
    expected = local_logits(other_artifact, frames(other_artifact, 2))
    sent = []
    for _ in range(2):
        with (
            Relay(ours.endpoint) as relay,
            RemoteSession(other_artifact, Place(relay.endpoint, ours.key), limits=LIMITS) as session,
        ):
            found = [session.step(frame) for frame in frames(other_artifact, 2)]
        np.testing.assert_array_equal(found, expected)
        sent.append(relay.sent)
    assert sent[0] > size
    assert sent[1] < size / 4


def test_a_model_for_another_architecture_is_refused_before_anything_is_sent(
    place: Place, small_artifact: Artifact
) -> None:
    foreign = for_target(small_artifact, "raspberry-pi-4")
    message = r"is x86_64, the model is compiled for raspberry-pi-4 \(aarch64\); compile for it with: tsm-edge compile"
    with Relay(place.endpoint) as relay:
        with pytest.raises(RpcError, match=message):
            RemoteSession(foreign, Place(relay.endpoint, place.key), limits=LIMITS)
        assert relay.sent < 1000


def test_a_cpu_that_lacks_something_is_refused(
    ours: Place, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        machines, "missing_features", lambda target, flags, machine: [target.cpu.cpu] if "sse2" in flags else []
    )
    with pytest.raises(
        RpcError, match=r"'s CPU lacks x86-64-v9, the model is compiled for native \(x86-64-v9\); compile for it"
    ):
        RemoteSession(for_target(small_artifact, "native", cpu="x86-64-v9"), ours, limits=LIMITS)


def test_threads(ours: Place, stock: Place, small_artifact: Artifact) -> None:
    told: list[str] = []
    with RemoteSession(small_artifact, ours, threads=2, limits=LIMITS, notify=told.append) as session:
        session.step(frames(small_artifact, 1)[0])
    assert told == []
    RemoteSession(small_artifact, stock, threads=2, limits=LIMITS, notify=told.append).close()
    assert len(told) == 1
    assert "does not take the number of threads" in told[0]
    for count in (0, -1, 65, (1 << 32) + 1):
        with pytest.raises(ArtifactError, match=f"threads is {count}, expected 1 to 64"):
            RemoteSession(small_artifact, ours, threads=count)
        with pytest.raises(ArtifactError, match="expected 1 to 64"):
            set_threads(count)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: a thread cannot be kept off another")
def test_cores(ours: Place, small_artifact: Artifact) -> None:
    """Those of the session's process; cores that the device has not are not kept to."""
    every = sorted(os.sched_getaffinity(0))
    for cores, kept in (((every[-1],), [every[-1]]), ((1023,), every), ((), every)):
        with RemoteSession(small_artifact, ours, threads=Threads(2, cores), limits=LIMITS) as session:
            session.step(frames(small_artifact, 1)[0])
            (status,) = RemoteSystem(session.connection).read(["/proc/self/status"])
        (listed,) = [line for line in status.splitlines() if line.startswith("Cpus_allowed_list:")]
        assert list(to_cpus(listed.partition(":")[2])) == kept


@pytest.mark.parametrize("text", ["", "[]", "4", '["4"]', "[-1]", "[1e9]"])
def test_cores_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cores are|Expecting value"):
        set_cores(text)


def test_wrong_key(place: Place, small_artifact: Artifact) -> None:
    with pytest.raises(RpcError, match="does not accept this key"):
        RemoteSession(small_artifact, Place(place.endpoint, "wrong"), limits=LIMITS)


def test_wrong_frames_and_a_closed_session(ours: Place, small_artifact: Artifact) -> None:
    session = RemoteSession(small_artifact, ours, limits=LIMITS)
    with pytest.raises(ArtifactError, match=r"frame is float64 \[1\], expected float32 \[1, 3, 24, 20\]"):
        session.step(np.zeros(1))  # type: ignore[arg-type]
    session.close()
    session.close()
    with pytest.raises(ArtifactError, match="the session is closed"):
        session.step(frames(small_artifact, 1)[0])


def test_an_error_raised_there_is_told_and_the_session_goes_on(ours: Place, small_artifact: Artifact) -> None:
    frame = frames(small_artifact, 1)[0]
    wide = dataclasses.replace(small_artifact.manifest.frame, shape=(1, 3, 24, 21))
    wrong = Artifact(small_artifact.path, dataclasses.replace(small_artifact.manifest, frame=wide))
    with RemoteSession(wrong, ours, limits=LIMITS) as session:
        for _ in range(2):
            with pytest.raises(RpcError, match=r"step: argument 0 \(frame\) is float32 \[1, 3, 24, 21\]"):
                session.step(np.zeros((1, 3, 24, 21), np.float32))
    with RemoteSession(small_artifact, ours, limits=LIMITS) as session:
        session.step(frame)


def test_a_lost_connection_is_made_again_once_with_zero_caches(ours: Place, small_artifact: Artifact) -> None:
    sequence = frames(small_artifact, 5)
    told: list[str] = []
    with (
        Relay(ours.endpoint) as relay,
        RemoteSession(small_artifact, Place(relay.endpoint, ours.key), limits=LIMITS, notify=told.append) as session,
    ):
        before = [session.step(frame) for frame in sequence[:2]]
        relay.cut()
        after = [session.step(frame) for frame in sequence[2:]]
        assert (session.reconnections, relay.connections) == (1, 2)
    np.testing.assert_array_equal(before, local_logits(small_artifact, sequence[:2]))
    np.testing.assert_array_equal(after, local_logits(small_artifact, sequence[2:]))
    assert len(told) == 1
    assert told[0].endswith("connected again, shift caches reset")


def kill_in_step(server: Background, session: RemoteSession, frame: Floats) -> None:
    """Freeze the session's process, begin a step, and kill the process while the step waits for it."""
    process = session_process(server)
    process.send_signal(signal.SIGSTOP)

    def kill() -> None:
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)

    threading.Thread(target=kill).start()
    session.step(frame)


def test_a_server_killed_in_a_step(our_server: Background, ours: Place, small_artifact: Artifact) -> None:
    frame, other = frames(small_artifact, 2)
    told: list[str] = []
    with RemoteSession(small_artifact, ours, limits=LIMITS, notify=told.append) as session:
        session.step(other)
        kill_in_step(our_server, session, frame)
        np.testing.assert_array_equal([session.step(other)], local_logits(small_artifact, [frame, other])[1:])
    assert len(told) == 1
    our_server.wait_for("died of SIGKILL; serving goes on")


def test_a_server_that_stops_answering_in_a_step(our_server: Background, ours: Place, small_artifact: Artifact) -> None:
    frame = frames(small_artifact, 1)[0]
    limits = dataclasses.replace(LIMITS, answer_s=2.0)
    with RemoteSession(small_artifact, ours, limits=limits) as session:
        process = session_process(our_server)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(RpcError, match="gives no answer within 2 s"):
                session.step(frame)
        finally:
            os.kill(process.pid, signal.SIGKILL)


def test_another_machines_library_fails_with_the_loaders_words(ours: Place, small_artifact: Artifact) -> None:
    broken = small_artifact.path / "broken"
    broken.mkdir()
    (broken / "model.so").write_bytes(b"\x7fELF" + bytes(100))
    manifest = dataclasses.replace(small_artifact.manifest, files={"model.so": file_sha256(broken / "model.so")})
    try:
        with pytest.raises(RpcError, match=r"broken|invalid ELF|file too short|loading the model compiled for"):
            RemoteSession(Artifact(broken, manifest), ours, limits=LIMITS)
    finally:
        (broken / "model.so").unlink()
        broken.rmdir()


def test_by_tracker(our_tracked_server: Background, tracked: Endpoint, small_artifact: Artifact) -> None:
    our_tracked_server.wait_for(f"tracker {tracked}: announced")
    place = Place(tracked, "gadget", by_tracker=True)
    sequence = frames(small_artifact, 2)
    for _ in range(2):
        with RemoteSession(small_artifact, place, limits=LIMITS) as session:
            np.testing.assert_array_equal(
                [session.step(frame) for frame in sequence], local_logits(small_artifact, sequence)
            )
    with pytest.raises(RpcError, match=r"has no device with key 'gizmo': its keys are gadget; announce one with"):
        RemoteSession(small_artifact, Place(tracked, "gizmo", by_tracker=True), limits=LIMITS)
    with RemoteSession(small_artifact, place, limits=LIMITS):
        short = dataclasses.replace(LIMITS, device_s=0.3)
        with pytest.raises(RpcError, match=r"no device with key 'gadget' became free within 0\.3 s"):
            RemoteSession(small_artifact, place, limits=short)


def test_a_tracker_and_a_device_mistaken_for_each_other(
    ours: Place, tracked: Endpoint, small_artifact: Artifact
) -> None:
    short = dataclasses.replace(LIMITS, connect_s=1.0)
    with pytest.raises(RpcError, match="does not answer as a TVM RPC tracker does; a device's own server is reached"):
        RemoteSession(small_artifact, Place(ours.endpoint, "board", by_tracker=True), limits=short)
    with pytest.raises(RpcError, match=r"expected a TVM RPC server|does not answer within|not as a TVM RPC server"):
        RemoteSession(small_artifact, Place(tracked, "board"), limits=short)


def test_a_stock_server_killed_in_a_step(start: Start, small_artifact: Artifact) -> None:
    # Its own, because it serves nobody afterwards; without the compiler, so that it is known by its program file.
    arguments = ("--host", "127.0.0.1", "--port", "9500", "--port-end", "9599")
    server = start("tvm.exec.rpc_server", *arguments, TVM_USE_RUNTIME_LIB="1")
    place = Place(Endpoint("127.0.0.1", int(server.wait_for(r"bind to 127\.0\.0\.1:(\d+)")[1])))
    frame = frames(small_artifact, 1)[0]
    limits = dataclasses.replace(LIMITS, connect_s=2.0)
    with RemoteSession(small_artifact, place, limits=limits) as session:
        assert session.device.machine == "x86_64"
        session.step(frame)
        with pytest.raises(RpcError, match=r"the connection was lost .* during a step, and connecting again failed: "):
            kill_in_step(server, session, frame)
        with pytest.raises(ArtifactError, match="the session is closed"):
            session.step(frame)
