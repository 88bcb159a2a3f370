"""Libraries made for tuning, on a device: which of their programs is measured."""

from __future__ import annotations

import numpy as np
import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.trial_library import TrialBuilder
from tsm_edge.compile.trials import network_of
from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Place
from tsm_edge.rpc.session import RemoteSession


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_a_program_is_chosen_on_the_device(
    kind: str, small_artifact: Artifact, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = network_of(small_artifact)
    other = next(
        program
        for free in network.freedoms
        for program in (network.with_choices(Choices(choices)) for choices in free.others)
        if len(program.calls) != len(network.program.calls)
    )
    trials = TrialBuilder(network, tmp_path_factory.mktemp("trials")).build([other]).artifact
    frames = np.random.default_rng(0).standard_normal((2, *small_artifact.manifest.frame.shape[1:]), np.float32)
    place: Place = request.getfixturevalue(kind)
    with RemoteSession(trials, place, threads=None) as session:
        wanted = session.measure(frames, 0, 2, kernels=True)
        assert session.select(1) == len(other.calls)
        timings = session.measure(frames, 0, 2, kernels=True)
        assert timings.kernels_ns is not None
        assert timings.kernels_ns.shape == (2, len(other.calls))
        assert np.abs(timings.logits - wanted.logits).max() <= 1e-5 * np.abs(wanted.logits).max()
        with pytest.raises(RpcError, match="program is 2, the library has 2"):
            session.select(2)
