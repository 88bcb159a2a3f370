"""The timed loop of model.so: by its C interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import Reference

from tsm_edge.artifact.folder import MODEL_ONNX, Artifact
from tsm_edge.errors import ArtifactError
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession

FRAMES = 7


@pytest.fixture(scope="module")
def frames(small_artifact: Artifact) -> Any:
    return np.concatenate(Reference(small_artifact.path / MODEL_ONNX).frames(3))


@pytest.mark.parametrize("threads", [1, 2])
def test_it_runs_the_frames_in_turn_with_the_caches_fed_back(
    small_artifact: Artifact, frames: Any, threads: int
) -> None:
    with OnlineSession(small_artifact) as plain:
        expected = [plain.step(frames[index % 3 : index % 3 + 1]) for index in range(FRAMES)]
    with OnlineSession(small_artifact, threads) as session:
        first = session.measure(frames, 0, 4)
        rest = session.measure(frames, 4, FRAMES - 4)
    np.testing.assert_array_equal(first.logits, expected[3])
    np.testing.assert_array_equal(rest.logits, expected[-1])


def test_samples_follow_each_other(small_artifact: Artifact, frames: Any) -> None:
    with OnlineSession(small_artifact) as session:
        measured = session.measure(frames, 0, 50)
    start, duration = measured.start_ns.astype(np.int64), measured.duration_ns.astype(np.int64)
    assert (duration > 0).all()
    assert (start[1:] >= start[:-1] + duration[:-1]).all()
    np.testing.assert_array_equal(measured.due_ns, measured.start_ns)


def test_a_camera_loses_frames_that_come_while_a_step_runs(small_artifact: Artifact, frames: Any) -> None:
    with OnlineSession(small_artifact) as session:
        median = np.median(session.measure(frames, 0, 20).duration_ns)
        period = int(median * 0.4)
        due = session.measure(frames, 0, 10, period_ns=period).due_ns.astype(np.int64)
    assert (np.diff(due) % period == 0).all()
    assert (np.diff(due) >= 2 * period).mean() > 0.5


def test_paced_frames_begin_when_they_are_due(small_artifact: Artifact, frames: Any) -> None:
    period = 4_000_000
    with OnlineSession(small_artifact) as session:
        measured = session.measure(frames, 0, 8, period_ns=period)
    assert (measured.start_ns >= measured.due_ns).all()
    assert int(measured.due_ns[-1] - measured.due_ns[0]) >= 7 * period


def test_kernels_are_timed_within_their_step(small_artifact: Artifact, frames: Any) -> None:
    with OnlineSession(small_artifact) as session:
        measured = session.measure(frames, 0, 5, kernels=True)
    assert measured.kernels_ns is not None
    assert measured.kernels_ns.shape == (5, len(small_artifact.manifest.kernels))
    assert (measured.kernels_ns.sum(axis=1) <= measured.duration_ns).all()


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1)])
def test_impossible_numbers_are_refused(small_artifact: Artifact, frames: Any, first: int, count: int) -> None:
    with OnlineSession(small_artifact) as session, pytest.raises(ArtifactError, match="tsm_measure: 3 frames from"):
        session.measure(frames, first, count)


def test_frames_of_another_shape_are_refused(small_artifact: Artifact, frames: Any) -> None:
    with OnlineSession(small_artifact) as session, pytest.raises(ArtifactError, match=r"frames are float32 \[3, 3, "):
        session.measure(frames[:, :, :-1], 0, 1)


def test_a_library_of_an_earlier_version_says_so(small_artifact: Artifact, frames: Any) -> None:
    class Earlier(Library):
        def __getattr__(self, name: str) -> Any:
            if name == "tsm_measure":
                raise AttributeError(name)
            return super().__getattr__(name)

    with (
        OnlineSession(Earlier(small_artifact)) as session,
        pytest.raises(ArtifactError, match="by an earlier tsm-edge"),
    ):
        session.measure(frames, 0, 1)


def test_the_yardstick_is_fixed_work(small_artifact: Artifact, frames: Any) -> None:
    """Some 16 million floats from cache and one million from memory: no machine is a hundred times off."""
    with OnlineSession(small_artifact) as session:
        before = session.measure(frames, 0, 3).logits
        speeds = [session.machine_speed() for _ in range(5)]
        again = session.measure(frames, 3, 3).logits
        session.reset()
        np.testing.assert_array_equal(session.measure(frames, 0, 3).logits, before)
        np.testing.assert_array_equal(session.measure(frames, 3, 3).logits, again)
    arithmetic = min(speed.arithmetic_ns for speed in speeds if speed is not None)
    memory = min(speed.memory_ns for speed in speeds if speed is not None)
    assert 20_000 < arithmetic < 20_000_000
    assert 10_000 < memory < 100_000_000
