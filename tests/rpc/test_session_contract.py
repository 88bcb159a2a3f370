"""What :class:`tsm_edge.session.base.Session` promises, held by a session here and by one on another machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from background import Background, served_at

from tsm_edge.artifact.folder import Artifact
from tsm_edge.errors import ArtifactError
from tsm_edge.rpc.place import Place, TimeLimits
from tsm_edge.session.base import Session
from tsm_edge.session.open import open_session

Floats = npt.NDArray[np.float32]

LIMITS = TimeLimits(connect_s=10.0, device_s=10.0, answer_s=20.0)


@pytest.fixture(params=["here", "there"])
def session(request: pytest.FixtureRequest, small_artifact: Artifact) -> Iterator[Session]:
    place = None
    if request.param == "there":
        server: Background = request.getfixturevalue("our_server")
        place = Place(served_at(server), "board")
    with open_session(small_artifact, place, threads=2, limits=LIMITS) as opened:
        yield opened


@pytest.fixture
def frames(small_artifact: Artifact) -> list[Floats]:
    random = np.random.default_rng(11)
    return [random.standard_normal(small_artifact.manifest.frame_shape, np.float32) for _ in range(3)]


def zeros(session: Session) -> list[Floats]:
    return [np.zeros(info.shape, np.float32) for info in session.manifest.caches]


def copied(arrays: list[Floats]) -> list[Floats]:
    return [np.array(array) for array in arrays]


def test_shapes_and_dtypes(session: Session, frames: list[Floats], small_artifact: Artifact) -> None:
    manifest = session.manifest
    assert manifest == small_artifact.manifest
    explicit, caches = session.step_explicit(frames[0], zeros(session))
    for logits in (session.step(frames[0]), explicit):
        assert (logits.shape, logits.dtype) == (manifest.logits.shape, np.float32)
    assert [cache.shape for cache in caches] == [info.shape for info in manifest.caches]
    assert {cache.dtype for cache in caches} == {np.dtype(np.float32)}
    assert session.reconnections == 0


def test_what_is_returned_is_the_callers_own(session: Session, frames: list[Floats]) -> None:
    first, second = (session.step_explicit(frame, zeros(session)) for frame in frames[:2])
    returned = [session.step(frames[0]), first[0], *first[1], session.step(frames[1]), second[0], *second[1]]
    for index, array in enumerate(returned):
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in returned[:index])
    kept = copied(returned)
    third = session.step(frames[2])
    session.step_explicit(frames[2], second[1])
    for array, before in zip(returned, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    for array in returned:
        array.fill(np.nan)  # the caller's to write into: the stream is none the worse
    session.reset()
    again = [session.step(frame) for frame in frames]
    np.testing.assert_array_equal(again[2], third)


def test_what_is_given_is_only_read(session: Session, frames: list[Floats]) -> None:
    _, caches = session.step_explicit(frames[0], zeros(session))
    given, before = [frames[0], *caches], copied([frames[0], *caches])
    session.step(frames[0])
    session.step_explicit(frames[0], caches)
    for array, wanted in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, wanted)
    expected = session.step(frames[1])
    session.reset()
    session.step(frames[0])
    given[0].fill(np.nan)  # after the call it may become anything
    np.testing.assert_array_equal(session.step(frames[1]), expected)


def test_reset_and_explicit_caches(session: Session, frames: list[Floats]) -> None:
    """After an odd and an even number of frames; explicit caches leave the session's own alone."""
    expected = [session.step(frame) for frame in frames]
    assert np.abs(session.step(frames[0]) - expected[0]).max() > 1e-4, "the past does not matter"
    for count in (1, 2, 3):
        session.reset()
        caches = zeros(session)
        for frame, wanted in zip(frames[:count], expected, strict=False):
            logits, caches = session.step_explicit(frame, caches)
            np.testing.assert_array_equal(session.step(frame), wanted)
            np.testing.assert_array_equal(logits, wanted)


def test_wrong_arrays_are_refused_and_the_stream_goes_on(session: Session, frames: list[Floats]) -> None:
    expected = [session.step(frame) for frame in frames[:2]]
    session.reset()
    session.step(frames[0])
    wrong: list[Callable[[], object]] = [
        lambda: session.step(frames[0][0]),
        lambda: session.step(frames[0].astype(np.float64)),  # type: ignore[arg-type]
        lambda: session.step_explicit(frames[0], zeros(session)[1:]),
        lambda: session.step_explicit(frames[0], zeros(session)[::-1]),
    ]
    for call in wrong:
        with pytest.raises(ArtifactError, match="expected"):
            call()
    np.testing.assert_array_equal(session.step(np.asfortranarray(frames[1])), expected[1])


def test_one_thread_at_a_time(session: Session, frames: list[Floats]) -> None:
    """Threads that all step with caches of their own do not get each other's answers."""
    expected = [session.step_explicit(frame, zeros(session))[0] for frame in frames]
    wrong: list[str] = []

    def work(frame: Floats, wanted: Floats) -> None:
        for _ in range(20):
            if not np.array_equal(session.step_explicit(frame, zeros(session))[0], wanted):
                wrong.append("another thread's answer")

    workers = [threading.Thread(target=work, args=pair) for pair in zip(frames, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive(), "hangs"
    assert wrong == []


def test_closed(session: Session, frames: list[Floats]) -> None:
    session.step(frames[0])
    session.close()
    session.close()
    calls: list[Callable[[], object]] = [
        session.reset,
        lambda: session.step(frames[0]),
        lambda: session.step_explicit(frames[0], zeros(session)),
    ]
    for call in calls:
        with pytest.raises(ArtifactError) as caught:
            call()
        assert str(caught.value) == "the session is closed; open another with: open_session(DIR)"
    assert session.manifest.classes > 0


def test_left_by_an_error(small_artifact: Artifact, frames: list[Floats]) -> None:
    with pytest.raises(KeyError), open_session(small_artifact) as opened:
        raise KeyError("the caller's")
    with pytest.raises(ArtifactError, match="the session is closed"):
        opened.step(frames[0])


def test_a_session_here_imports_nothing_of_rpc(small_artifact: Artifact) -> None:
    script = (
        "import sys; from tsm_edge.session.open import open_session; open_session(sys.argv[1]).close();"
        "print(*(name for name in sys.modules if name.startswith(('tsm_edge.rpc', 'tvm', 'torch'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(small_artifact.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
