"""Libraries with several programs: real code, here and over RPC on loopback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.trials import Network, TrialBuilder, network_of
from tsm_edge.errors import ArtifactError, TuneError
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.race import Entrant, Pace, race


@pytest.fixture(scope="module")
def network(small_artifact: Artifact) -> Network:
    return network_of(small_artifact)


@pytest.fixture(scope="module")
def trials(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The rules' program, and one a kernel with the likeliest other choice."""
    programs = [network.with_choices(Choices(free.others[0])) for free in network.freedoms if free.others]
    return TrialBuilder(network, tmp_path_factory.mktemp("trials")).build(programs)


def test_every_program_computes_the_same(network: Network, trials: Artifact) -> None:
    frames = np.random.default_rng(0).standard_normal((3, *network.manifest.frame.shape[1:]), np.float32)
    with OnlineSession(trials) as session:
        wanted = session.measure(frames, 0, 3).logits
        count = sum(bool(free.others) for free in network.freedoms)
        for program in range(1, count + 1):
            calls = session.select(program)
            timings = session.measure(frames, 0, 3, kernels=True)
            assert timings.kernels_ns is not None
            assert timings.kernels_ns.shape == (3, calls)
            assert np.abs(timings.logits - wanted).max() <= 1e-5 * np.abs(wanted).max()
        with pytest.raises(ArtifactError, match=f"program is {count + 1}, the library has {count + 1}"):
            session.select(count + 1)
        session.select(0)
        assert np.array_equal(session.measure(frames, 0, 3).logits, wanted)


def test_a_race_of_a_program_with_itself_is_a_draw(network: Network, trials: Artifact) -> None:
    frames = np.random.default_rng(0).standard_normal((2, *network.manifest.frame.shape[1:]), np.float32)
    with OnlineSession(trials) as session:
        (finish,) = race(session, frames, [Entrant(0)], Pace(12), 1e-4)
    assert finish.error == 0.0
    assert finish.ratio is not None
    assert finish.ratio.low <= 1.05
    assert finish.ratio.high >= 0.95


def test_an_ordinary_library_has_one_program(small_artifact: Artifact) -> None:
    with OnlineSession(small_artifact) as session:
        assert session.select(0) == len(small_artifact.manifest.kernels)
        with pytest.raises(ArtifactError, match="program is 1, the library has 1"):
            session.select(1)
        session.reset()


def test_what_cannot_be_tuned_is_refused(tmp_path: Path, small_artifact: Artifact) -> None:
    import dataclasses

    manifest = dataclasses.replace(small_artifact.manifest, precision="int8")
    with pytest.raises(TuneError, match="compiled for precision int8; fp32 and fp16 on CPUs can be tuned"):
        network_of(Artifact(small_artifact.path, manifest))
