"""3×3 convolutions by Winograd's algorithm: what they compute, and where the card's numbers choose it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import compile_onnx, sse_target
from onnx_graphs import GraphBuilder, Reference, assert_close, assert_nan_goes_through

from tsm_edge.cards import CpuSpec, TargetCard, load_target
from tsm_edge.compile.backends.common.winograd import TRANSFORMS
from tsm_edge.compile.backends.cpu.choose import winograd as algorithms
from tsm_edge.compile.backends.cpu.choose.winograd import winograd_layers
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.session.local import OnlineSession

# F(4×4) multiplies by up to 8 on the way: ten times the rounding of the direct sum.
TOLERANCE = {2: 1e-5, 4: 1e-4}


def network(height: int, width: int) -> onnx.ModelProto:
    """Every way a 3×3 convolution at stride 1 appears, each read through a next cache."""
    graph = GraphBuilder(height, width)
    x = graph.next_cache(graph.conv(graph.frame, 40))
    graph.next_cache(graph.conv(x, 17, 3))  # odd channels, a bias, no clamp
    graph.next_cache(graph.clip(graph.conv(x, 130, 3, bias=False), -0.5, 0.75))
    graph.next_cache(graph.conv(x, 9, 3, 1, (2, 0, 0, 2)))
    graph.next_cache(graph.conv(x, 9, 3, 1, (0, 1, 3, 2)))
    if min(height, width) > 2:
        graph.next_cache(graph.conv(x, 9, 3, 1, (0, 0, 0, 0)))
    graph.next_cache(graph.relu(graph.add(graph.conv(x, 40, 3), x)))  # a residual, as in ResNet-18
    graph.next_cache(graph.conv(graph.relu(graph.conv(x, 24, 3)), 33, 5))  # read with a border
    graph.next_cache(graph.conv(graph.relu(graph.conv(x, 24, 3)), 33, 3))
    return graph.model(graph.head(x, 3))


@pytest.mark.parametrize("outputs", sorted(TRANSFORMS))
@pytest.mark.parametrize(
    ("cpu", "size"),
    [
        ("native", (12, 8)),
        ("native", (1, 6)),
        ("native", (3, 1)),
        ("native", (3, 3)),
        ("small cache", (13, 9)),
        ("sse", (5, 7)),
    ],
    ids=str,
)
def test_equals_onnx_runtime(
    outputs: int,
    size: tuple[int, int],
    cpu: str,
    native: TargetCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(algorithms, "OUTPUTS", {"float32": (outputs,)})
    monkeypatch.setattr(algorithms, "WORTH", 1e9)
    target = sse_target() if cpu == "sse" else native
    if cpu == "small cache":  # several blocks of tiles, the last of them moved back
        target = dataclasses.replace(native, cpu=dataclasses.replace(native.cpu, l2_kib=64))
    model = network(*size)
    artifact = compile_onnx(model, tmp_path / "out", target)
    rules = [kernel.rule for kernel in artifact.manifest.kernels]
    kernels = [attribute.ints for node in model.graph.node for attribute in node.attribute if node.op_type == "Conv"]
    assert rules.count("winograd") == kernels.count([3, 3]) > 0
    reference = Reference(model)
    frame = reference.frames(1)[0]
    caches = [np.zeros(shape, np.float32) for shape in reference.cache_shapes]
    logits, following = reference.step(frame, caches)
    poisoned = frame.copy()
    poisoned[0, 1, size[0] // 2, size[1] // 2] = np.nan
    for threads in (1, 3):
        with OnlineSession(artifact, threads) as session:
            found_logits, found = session.step_explicit(frame, caches)
            of_nan = session.step_explicit(poisoned, caches)[1]
            again = session.step_explicit(frame, caches)[1]
        assert_close(found_logits, logits, TOLERANCE[outputs])
        for one, other in zip(found, following, strict=True):
            assert_close(one, other, TOLERANCE[outputs])
        for one, other in zip(of_nan, reference.step(poisoned, caches)[1], strict=True):
            assert_nan_goes_through(one, other, TOLERANCE[outputs])
        np.testing.assert_array_equal(np.concatenate(again, axis=None), np.concatenate(found, axis=None))


def chosen(
    cpu: CpuSpec, folder: Path, channels: int, size: int, stride: int = 1, groups: int = 1, beside: int = 0
) -> list[int]:
    """Outputs a side of a tile of each Winograd layer of a network with one 3×3 layer behind the stem.

    With layers of ``beside`` channels behind it, its weights come from where all these lie.
    """
    graph = GraphBuilder(size, size)
    x = graph.relu(graph.conv(graph.conv(graph.frame, channels), channels, 3, stride, groups=groups))
    if beside:
        x = graph.conv(graph.conv(x, beside), beside)
    onnx.save(graph.model(graph.head(x, 5)), str(folder / "model.onnx"))
    loaded = load_onnx(folder / "model.onnx")
    return [tile.outputs for tile in winograd_layers(loaded, fuse(loaded), Core(cpu, "float32")).values()]


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "raspberry-pi-4", "raspberry-pi-5", "jetson-nano-cpu"])
def test_large_images_with_few_channels_are_worth_it(target: str, tmp_path: Path) -> None:
    assert chosen(load_target(target).cpu, tmp_path, channels=64, size=56)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(("channels", "size", "outputs"), [(128, 28, 4), (256, 14, 2)])
def test_a_core_of_a_server_is_fed_weights_enough(
    target: str, channels: int, size: int, outputs: int, tmp_path: Path
) -> None:
    """ResNet-50's layers, among all its weights: with these sizes of tile they were faster on a Xeon and an EPYC."""
    assert chosen(load_target(target).cpu, tmp_path, channels, size, beside=2100) == [outputs]


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param({"channels": 64, "size": 56, "stride": 2}, id="stride 2"),
        pytest.param({"channels": 64, "size": 56, "groups": 2}, id="groups"),
        pytest.param({"channels": 512, "size": 7}, id="more weights than work"),
    ],
)
def test_others_are_not(layer: dict[str, int], tmp_path: Path) -> None:
    assert not chosen(load_target("raspberry-pi-4").cpu, tmp_path, **layer)


@pytest.mark.parametrize("outputs", sorted(TRANSFORMS))
def test_transforms_compute_a_convolution_exactly(outputs: int) -> None:
    generator = np.random.default_rng(0)
    pixels, weights = generator.normal(size=(outputs + 2,) * 2), generator.normal(size=(3, 3))
    b, g, a = (np.array(m) for m in dataclasses.astuple(TRANSFORMS[outputs]))
    found = a @ ((g @ weights @ g.T) * (b @ pixels @ b.T)) @ a.T
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3))
    np.testing.assert_allclose(found, np.einsum("ijkl,kl->ij", windows, weights), rtol=1e-12)
