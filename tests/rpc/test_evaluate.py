"""Accuracy of a model that runs on another machine."""

from __future__ import annotations

from tsm_edge.artifact.folder import Artifact
from tsm_edge.rpc.place import Place
from tsm_edge.training.evaluate import EvaluateRequest, evaluate


def test_a_device_is_as_right_as_this_machine(motion_artifact: Artifact, ours: Place) -> None:
    """``tsm-edge serve`` runs the same file: the same labels, clip by clip."""
    there, here = (evaluate(EvaluateRequest(motion_artifact.path, clips=24, place=place)) for place in (ours, None))
    assert there.measures == here.measures
    assert sum(map(sum, there.measures.confusion)) == 24
