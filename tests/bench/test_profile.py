"""Timing the kernels of a real artifact, and the arithmetic of a profile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.manifest import KernelInfo, StageInfo
from tsm_edge.bench import profile
from tsm_edge.bench.profile import KernelTime, Profile, profile_artifact
from tsm_edge.errors import ArtifactError


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
    found = made_up(small_artifact)
    assert found.kernels_ms == pytest.approx(0.1)
    assert [found.share(kernel) for kernel in found.kernels] == pytest.approx([0.1, 0.3, 0.6])
    rules = found.rules()
    assert [(item.rule, item.calls) for item in rules] == [("pointwise", 2), ("depthwise", 1)]
    assert sum(found.share(item) for item in rules) == pytest.approx(1.0)
    assert found.gflops == pytest.approx(4.0)  # 0.8 MFLOP in 0.2 ms


def test_each_frame_is_compared_with_the_peak_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "BLOCK", 1)
    infos = [KernelInfo("k0", "pointwise", "a", 4, 400_000, 1), KernelInfo("k1", "cache", "b", 4, 0, 1)]
    # The clock falls by half: the kernel takes twice as long, and so does the peak's loop.
    samples = [np.array([10_000, 5_000], np.uint64), np.array([20_000, 5_000], np.uint64)]
    busy, moving = profile._kernel_times(infos, samples, [100.0, 60.0, 40.0])
    assert busy.of_peak == pytest.approx((40 / 80 + 20 / 50) / 2)
    assert (busy.microseconds, busy.fastest) == (15.0, 10.0)
    assert moving.of_peak is None, "it does no arithmetic"
    assert profile._kernel_times(infos, samples, [])[0].of_peak is None, "the peak was not measured"


def test_the_clocks_between_stages_share_out_a_kernels_time() -> None:
    parts = (StageInfo("expand", 300_000), StageInfo("depthwise", 100_000))
    fused = KernelTime(KernelInfo("k1", "expand_depthwise", "b", 4, 400_000, 1, "", parts), 8.0, 7.0, of_peak=0.5)
    plain = KernelTime(KernelInfo("k0", "pointwise", "a", 4, 1, 1), 1.0, 1.0, of_peak=0.1)
    # With the clocks the kernel took 10 us: that their reading takes time does not count.
    found = profile._with_stages([plain, fused], [np.array([5_000, 5_000], np.uint64)] * 3)
    assert found[0] == plain
    expand, depthwise = found[1].stages
    assert (expand.name, expand.microseconds, depthwise.microseconds) == ("expand", 4.0, 4.0)
    assert expand.gflops == pytest.approx(75.0)
    assert (expand.of_peak, depthwise.of_peak) == pytest.approx((0.75, 0.25))
    assert found[1].gflops == pytest.approx((expand.gflops + depthwise.gflops) / 2), "in the same time each"


@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_of_the_manifest_is_timed(small_artifact: Artifact, threads: int) -> None:
    found = profile_artifact(small_artifact, threads=threads, frames=12)
    assert [kernel.info for kernel in found.kernels] == list(small_artifact.manifest.kernels)
    assert all(0 < kernel.fastest <= kernel.microseconds for kernel in found.kernels)
    for kernel in found.kernels:
        assert [stage.name for stage in kernel.stages] == [stage.name for stage in kernel.info.stages]
    assert 0 < found.fastest_ms <= found.step_ms
    assert (found.threads, found.frames, found.peak_gflops) == (threads, 12, None)


@pytest.mark.real_time
def test_the_kernels_are_what_a_step_is_made_of(small_artifact: Artifact) -> None:
    found = profile_artifact(small_artifact, frames=20)
    fastest = sum(kernel.fastest for kernel in found.kernels) / 1e3
    assert fastest / 2 < found.fastest_ms < fastest * 20


def test_the_peak_is_measured_between_the_frames_when_asked_for(small_artifact: Artifact) -> None:
    found = profile_artifact(small_artifact, frames=3, measure_peak=True)
    assert found.peak_gflops is not None
    assert found.peak_gflops > max(kernel.gflops for kernel in found.kernels) / 4
    assert all((kernel.of_peak is None) == (kernel.info.flops == 0) for kernel in found.kernels)


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such directory"):
        profile_artifact(tmp_path / "none")


def test_a_profile_of_no_time_divides_by_nothing(small_artifact: Artifact) -> None:
    still = dataclasses.replace(made_up(small_artifact), kernels=(), step_ms=0.0)
    assert (still.kernels_ms, still.gflops, still.rules()) == (0, 0, ())
