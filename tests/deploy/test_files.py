"""What goes to a device: the model once."""

from __future__ import annotations

import dataclasses

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import load_target
from tsm_edge.deploy.files import deployed_paths

EVERYTHING = ["model.so", "tsm-runner", "golden.bin", "tsm_edge.h", "manifest.json"]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("raspberry-pi-4", EVERYTHING),
        ("jetson-nano-cpu", EVERYTHING),
        ("android-arm64", ["tsm-runner", "golden.bin", "manifest.json"]),
    ],
)
def test_a_static_runner_goes_without_the_library(
    target: str, names: list[str], artifact_with_runner: Artifact
) -> None:
    manifest = dataclasses.replace(artifact_with_runner.manifest, target=load_target(target))
    assert [path.name for path in deployed_paths(Artifact(artifact_with_runner.path, manifest))] == names


def test_without_a_runner_the_library_goes(small_artifact: Artifact) -> None:
    manifest = dataclasses.replace(small_artifact.manifest, target=load_target("android-arm64"))
    names = [path.name for path in deployed_paths(Artifact(small_artifact.path, manifest))]
    assert names == ["model.so", "tsm_edge.h", "manifest.json"]
