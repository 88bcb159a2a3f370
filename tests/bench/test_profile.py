"""Timing the kernels of a real artifact, and the arithmetic of a profile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tsm_edge.artifact import Artifact
from tsm_edge.bench.profile import KernelTime, Profile, profile_artifact
from tsm_edge.errors import ArtifactError
from tsm_edge.manifest import KernelInfo


def made_up(artifact: Artifact, peak: float | None = 100.0) -> Profile:
    """Three kernels: 10, 30 and 60 us."""
    kernels = (
        KernelTime(KernelInfo("k0", "pointwise", "a", 4, 500_000, 20_000, "7×16"), 10.0, 8.0),
        KernelTime(KernelInfo("k1", "depthwise", "b", 4, 300_000, 60_000), 30.0, 25.0),
        KernelTime(KernelInfo("k2", "pointwise", "c", 4, 0, 90_000), 60.0, 50.0),
    )
    return Profile(artifact.path, artifact.manifest, 1, 5, kernels, 0.2, 0.15, 0.25, peak)


def test_rates_follow_from_the_median_time(small_artifact: Artifact) -> None:
    first, second, third = made_up(small_artifact).kernels
    assert first.gflops == pytest.approx(50.0)
    assert first.gigabytes == pytest.approx(2.0)
    assert second.gflops == pytest.approx(10.0)
    assert third.gflops == 0.0


def test_shares_add_up_over_kernels_and_over_rules(small_artifact: Artifact) -> None:
    profile = made_up(small_artifact)
    assert profile.kernels_ms == pytest.approx(0.1)
    assert [profile.share(kernel) for kernel in profile.kernels] == pytest.approx([0.1, 0.3, 0.6])
    rules = profile.rules()
    assert [(item.rule, item.calls) for item in rules] == [("pointwise", 2), ("depthwise", 1)]
    assert sum(profile.share(item) for item in rules) == pytest.approx(1.0)
    assert profile.gflops == pytest.approx(4.0)  # 0.8 MFLOP in 0.2 ms


def test_the_share_of_the_peak_compares_fastest_runs_and_skips_kernels_without_arithmetic(
    small_artifact: Artifact,
) -> None:
    profile = made_up(small_artifact)
    assert profile.of_peak(profile.kernels[0]) == pytest.approx(500_000 / 8.0 / 1e3 / 100.0)
    assert profile.of_peak(profile.kernels[2]) is None
    assert made_up(small_artifact, peak=None).of_peak(profile.kernels[0]) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_of_the_manifest_is_timed(small_artifact: Artifact, threads: int) -> None:
    profile = profile_artifact(small_artifact, threads=threads, frames=12)
    assert [kernel.info for kernel in profile.kernels] == list(small_artifact.manifest.kernels)
    assert all(0 < kernel.fastest <= kernel.microseconds for kernel in profile.kernels)
    assert 0 < profile.fastest_ms <= profile.step_ms
    assert (profile.threads, profile.frames, profile.peak_gflops) == (threads, 12, None)


def test_the_kernels_are_what_a_step_is_made_of(small_artifact: Artifact) -> None:
    profile = profile_artifact(small_artifact, frames=20)
    fastest = sum(kernel.fastest for kernel in profile.kernels) / 1e3
    assert fastest / 2 < profile.fastest_ms < fastest * 20


def test_the_peak_is_measured_between_the_frames_when_asked_for(small_artifact: Artifact) -> None:
    profile = profile_artifact(small_artifact, frames=2, measure_peak=True)
    assert profile.peak_gflops is not None
    assert profile.peak_gflops > max(kernel.gflops for kernel in profile.kernels) / 4


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such directory"):
        profile_artifact(tmp_path / "none")


def test_a_profile_of_no_time_divides_by_nothing(small_artifact: Artifact) -> None:
    still = dataclasses.replace(made_up(small_artifact), kernels=(), step_ms=0.0)
    assert (still.kernels_ms, still.gflops, still.rules()) == (0, 0, ())
