"""The process that local candidates run in: what crashes or hangs there costs the tuner that candidate alone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from mjpeg_server import wait_until

from tsm_edge.artifact.folder import LIBRARY, Artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.compile import trial_library
from tsm_edge.compile.records import read_records
from tsm_edge.compile.trial_library import TrialBuilder
from tsm_edge.compile.trials import network_of
from tsm_edge.errors import ArtifactError, TuneError
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.apart import Apart
from tsm_edge.tune.boards import Board
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.state import Budget, Tuned
from tsm_edge.tune.tuner import Tuner

ONE = Threads(1)
TRAP = {"x86_64": b"\x0f\x0b", "aarch64": b"\0\0\0\0"}  # ud2, udf


@pytest.fixture
def apart() -> Iterator[Apart]:
    with closing(Apart()) as made:
        yield made


def frames_of(artifact: Artifact) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *artifact.manifest.frame_shape[1:]), np.float32)


def test_it_measures_what_a_session_here_does(apart: Apart, small_artifact: Artifact) -> None:
    frames = frames_of(small_artifact)
    with OnlineSession(small_artifact, ONE) as session, closing(apart.open(small_artifact, ONE)) as runner:
        assert runner.select(0) == session.select(0)
        there, here = (one.measure(frames, 0, 3, kernels=True) for one in (runner, session))
    np.testing.assert_array_equal(there.logits, here.logits)
    assert there.kernels_ns is not None
    assert here.kernels_ns is not None
    assert there.kernels_ns.shape == here.kernels_ns.shape
    with (
        closing(apart.open(small_artifact, ONE)) as runner,
        pytest.raises(ArtifactError, match="program is 1"),
    ):
        runner.select(1)


def test_a_crash_is_told_and_the_next_session_has_a_new_process(apart: Apart, small_artifact: Artifact) -> None:
    frames = frames_of(small_artifact)
    with closing(apart.open(small_artifact, ONE)) as runner:
        first = apart.process
        assert first is not None
        os.kill(first, signal.SIGSEGV)
        with pytest.raises(ArtifactError, match="its process died of SIGSEGV"):
            runner.measure(frames, 0, 3)
    with closing(apart.open(small_artifact, ONE)) as runner:
        assert apart.process not in (None, first)
        assert len(runner.measure(frames, 0, 3).duration_ns) == 3


def test_one_that_hangs_is_ended(apart: Apart, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(apart.open(small_artifact, ONE)) as runner:
        first = apart.process
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(apart, "_limit_s", 0.05)
        with pytest.raises(ArtifactError, match=r"no answer for 0\.05 s"):
            runner.select(0)
    assert not psutil.pid_exists(first)


KILLED = """
import os, pickle, signal, sys
from tsm_edge.artifact.folder import load_artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.tune.apart import Apart
apart = Apart()
apart.open(load_artifact(sys.argv[1]), Threads(1))
print(apart.process, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


HANGING = """
import dataclasses, os, signal, sys
from pathlib import Path
from tsm_edge.artifact.folder import load_artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.tune.apart import Apart
apart = Apart(0.5)
apart._begin()
nobody_writes = dataclasses.replace(load_artifact(sys.argv[1]), path=Path(sys.argv[2]))
apart._link.send(("open", (nobody_writes, Threads(1))))
print(apart.process, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def has_ended(process: int) -> bool:
    """Also where whoever inherits it does not look after it."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("program", [KILLED, HANGING], ids=["waiting", "in a call that never ends"])
def test_it_does_not_outlive_a_tuner_that_is_killed(
    program: str, small_artifact: Artifact, tmp_path: Path, program_environment: dict[str, str]
) -> None:
    os.mkfifo(tmp_path / LIBRARY)
    command = [sys.executable, "-c", program, str(small_artifact.path), str(tmp_path)]
    done = subprocess.run(command, env=program_environment, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: has_ended(int(done.stdout)))


@pytest.mark.parametrize(("module", "function"), [(socket, "socketpair"), (subprocess, "Popen")])
def test_that_no_process_can_begin_is_said(
    module: ModuleType, function: str, apart: Apart, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*arguments: object, **named: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(module, function, none_left)
        with pytest.raises(TuneError, match=r"no process can begin to measure in \(Too many open files\)"):
            apart.open(small_artifact, ONE)
    with closing(apart.open(small_artifact, ONE)) as runner:
        assert runner.select(0)


def break_first_kernel(objects: Path) -> None:
    """Its code begins with an instruction that no CPU has."""
    data = bytearray(objects.read_bytes())
    at, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + number * size) for number in range(count)]
    (symbols,) = (section for section in sections if section[1] == 2)
    strings = sections[symbols[6]]
    for place in range(symbols[4], symbols[4] + symbols[5], 24):
        name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, place)
        start = strings[4] + name
        is_kernel = data[start : data.index(0, start)].startswith(b"tsm_t")
        if info & 15 == 2 and is_kernel:  # a function
            code = TRAP[os.uname().machine]
            data[sections[section][4] + value : sections[section][4] + value + len(code)] = code
            objects.write_bytes(data)
            return
    raise AssertionError("no kernel")


def test_a_candidate_that_crashes_costs_itself_and_is_never_met_again(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, apart, said = network_of(small_artifact), Apart(), list[str]()
    board = Board("here", "this one", lambda artifact, threads: apart.open(artifact, threads or ONE), local=True)
    compiled = trial_library._CpuKernels.and_others

    def with_a_broken_one(self: object, others: dict[object, str], folder: Path) -> object:
        made = compiled(self, others, folder)  # type: ignore[arg-type]
        if folder.name == "trials-1" and others and go_on is False:
            break_first_kernel(folder / "kernels.o")
        return made

    monkeypatch.setattr(trial_library._CpuKernels, "and_others", with_a_broken_one)

    def tune(folder: Path) -> Tuned:
        folder.mkdir()
        with Ledger(tmp_path / "r.jsonl", go_on) as ledger:
            builder = TrialBuilder(network, folder)
            return Tuner(network, Fleet([board], said.append), ledger, builder, Budget(1e6), {}).run("conv_0")

    with closing(apart):
        go_on = False
        first = tune(tmp_path / "first")
        assert first.failed == 1
        assert said == ["here: its process died of SIGILL; once more"]
        assert sum(record.failed for record in read_records(tmp_path / "r.jsonl").records) == 1
        go_on = True
        again = tune(tmp_path / "again")
        assert (again.tried, again.failed) == (0, 0)
        assert len(said) == 1
