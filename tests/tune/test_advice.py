"""What tuning found of threads and cores, from the records to the artifact and all that runs it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsm_edge
from tsm_edge.artifact.folder import GOLDEN, LIBRARY, MANIFEST, MODEL_ONNX, RUNNER, Artifact, load_artifact
from tsm_edge.cards.precision import FP32
from tsm_edge.cards.threads import Threads
from tsm_edge.compile.record_keys import network_key
from tsm_edge.compile.records import RecordFile
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.compile.trials import network_of
from tsm_edge.errors import ArtifactError
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.candidates import candidates, program_of
from tsm_edge.tune.record_sets import write_records

LAST = max(os.sched_getaffinity(0))


COMPILE = """
import sys
from pathlib import Path
from tsm_edge.cards import load_target
from tsm_edge.compile.pipeline import CompileRequest, compile_model
onnx, records, output = map(Path, sys.argv[1:])
compile_model(CompileRequest(load_target("native"), output, onnx=onnx, records=(records,)))
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, small_artifact: Artifact) -> tuple[Artifact, Artifact]:
    """Compiled by two processes, in folders of their own, whose sets of texts have different orders.

    Their records are of some kernels, and of two threads on the last core.
    """
    folder = tmp_path_factory.mktemp("advice")
    network = network_of(small_artifact)
    accepted = {
        one.blank.key: dataclasses.replace(one.blank, accepted=True, ratio=(0.9, 0.89, 0.91), rounds=16)
        for one in candidates(network, network.freedoms, {})
        if program_of(network, one) is not None
    }
    key = network_key(network.graph, network.layers, network.manifest.target, FP32.name)
    threads = ThreadRecord(key, Threads(2, (LAST,)), (0.6, 0.58, 0.62), 812.0, {"model": "small"})
    write_records(folder / "records.jsonl", RecordFile(tuple(accepted.values()), (threads,), ()))
    environment = {**os.environ, "PYTHONPATH": str(Path(tsm_edge.__file__).resolve().parents[1])}
    made = []
    for seed in ("1", "2"):
        output = folder / seed / "model"
        command = [sys.executable, "-c", COMPILE, small_artifact.path / MODEL_ONNX, folder / "records.jsonl", output]
        subprocess.run(command, env={**environment, "PYTHONHASHSEED": seed}, check=True, timeout=240)
        made.append(load_artifact(output))
    return made[0], made[1]


@pytest.fixture
def advised(artifacts: tuple[Artifact, Artifact]) -> Artifact:
    return artifacts[0]


def affinity_of_threads() -> list[set[int]]:
    """Of all threads of this process, this one first."""
    return [os.sched_getaffinity(int(name)) for name in sorted(os.listdir("/proc/self/task"), key=int)]


def test_the_same_records_make_the_same_library_byte_for_byte(artifacts: tuple[Artifact, Artifact]) -> None:
    one, another = artifacts
    assert one.manifest.tuned > 1
    for name in (LIBRARY, RUNNER, GOLDEN):
        assert (one.path / name).read_bytes() == (another.path / name).read_bytes(), name
    manifests = [json.loads((artifact.path / MANIFEST).read_text()) for artifact in artifacts]
    for manifest in manifests:
        assert manifest.pop("created")
        assert manifest.pop("compile_seconds")
    assert manifests[0] == manifests[1]


def test_the_manifest_carries_the_advice(advised: Artifact, small_artifact: Artifact) -> None:
    assert load_artifact(advised.path).manifest.threads == Threads(2, (LAST,))
    assert small_artifact.manifest.threads is None
    assert "threads" not in json.loads((small_artifact.path / MANIFEST).read_text())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: a thread cannot be kept off another")
def test_a_session_follows_it_until_it_is_closed(advised: Artifact) -> None:
    frame = np.zeros(advised.manifest.frame_shape, np.float32)
    before, others = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
    with OnlineSession(advised) as session:
        assert session.threads == Threads(2, (LAST,))
        assert os.sched_getaffinity(0) == before, "this thread has not stepped yet"
        session.step(frame)
        assert os.sched_getaffinity(0) == {LAST}
        assert len(set(os.listdir("/proc/self/task")) - others) == 1
        assert affinity_of_threads().count({LAST}) == 2
    assert os.sched_getaffinity(0) == before


def test_a_number_of_threads_is_taken_as_it_is(advised: Artifact) -> None:
    before = os.sched_getaffinity(0)
    with OnlineSession(advised, threads=1) as session:
        session.step(np.zeros(advised.manifest.frame_shape, np.float32))
        assert session.threads == Threads(1)
        assert os.sched_getaffinity(0) == before


def test_advice_for_cores_that_are_not_here_is_half_followed(advised: Artifact, monkeypatch: Any) -> None:
    """The threads, no more than there are cores, and on any of them."""
    monkeypatch.setattr("tsm_edge.session.affinity.os.sched_getaffinity", lambda pid: {LAST + 1})
    with OnlineSession(advised) as session:
        assert session.threads == Threads(1)


def test_cores_that_are_asked_for_and_not_here_are_refused(small_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="1 thread on CPUs 1023: this process may not use all of these"):
        OnlineSession(small_artifact, Threads(1, (1023,)))


@pytest.mark.parametrize("threads", [{"count": 0, "cores": []}, {"count": 2, "cores": [4096]}, {"cores": []}, [2], 2])
def test_nonsense_in_a_manifest_is_refused(threads: object, advised: Artifact, tmp_path: Path) -> None:
    from tsm_edge.artifact.manifest import parse_manifest

    table = json.loads((advised.path / MANIFEST).read_text())
    with pytest.raises(ArtifactError, match="not a readable manifest"):
        parse_manifest(json.dumps({**table, "threads": threads}), tmp_path)


def test_the_runner_follows_it(advised: Artifact) -> None:
    runner = str(advised.path / RUNNER)
    there = min(2, len(os.sched_getaffinity(0)))

    def said(*arguments: str) -> Any:
        done = subprocess.run([runner, *arguments], capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    assert said("verify")["threads"] == there
    assert said("verify", "--threads", "1")["threads"] == 1
    (result,) = said("bench", "--frames", "20", "--warmup", "0")["results"]
    assert result["settings"]["threads"] == there
    assert result["environment_before"]["affinity"] == [LAST]
