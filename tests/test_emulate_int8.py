"""Models in 8-bit integers at full size, here and under QEMU as Arm boards: equal to ONNX Runtime on those integers.

``pytest -m slow tests/test_emulate_int8.py``, minutes a board: QEMU calls a function for every product of an Armv8.0.
A network is exported and calibrated once for all boards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tsm_edge.artifact.folder import QUANTISATION, Artifact
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import TargetCard, load_model, load_target
from tsm_edge.cards.architecture import runs_here
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantised import noise
from tsm_edge.export.onnx import ExportRequest, export_onnx
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import VerifyResult, verify_artifact
from tsm_edge.verify.emulated import emulator_command, verify_emulated
from tsm_edge.verify.quality import LEAST_DB

# Of which QEMU is the CPU named here: it refuses instructions that the CPU lacks.
BOARDS = {
    "raspberry-pi-3": "cortex-a53",
    "jetson-nano-cpu": "cortex-a57",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
}
# Of the runner: on two cores QEMU takes half the time.
THREADS = 2


@dataclass(frozen=True)
class Compiled:
    """Artifacts, each made once; the scales of a network in integers are those that its first target was given."""

    folder: Path
    artifacts: dict[tuple[Path, str, str], Artifact] = field(default_factory=dict)
    scales: dict[Path, Path] = field(default_factory=dict)

    def artifact(self, network: Path, target: TargetCard, precision: str = "int8") -> Artifact:
        """Of an ONNX file, calibrated with noise, as random weights are."""
        key = (network, target.name, precision)
        if key not in self.artifacts:
            self.artifacts[key] = made = compile_model(self._request(network, target, precision))
            if precision == "int8":
                self.scales.setdefault(network, made.path / QUANTISATION)
        return self.artifacts[key]

    def _request(self, network: Path, target: TargetCard, precision: str) -> CompileRequest:
        output = self.folder / f"{network.stem}-{target.name}-{precision}"
        request = CompileRequest(target, output, onnx=network, precision=precision_named(precision))
        if precision != "int8":
            return request
        if network in self.scales:
            return replace(request, quantisation=self.scales[network])
        return replace(request, calibration=lambda preprocess: noise((224, 224), preprocess))


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_mobilenetv2_is_exact(board: str, exported: Callable[[str], Path], compiled: Compiled) -> None:
    """Logits and every cache of 16 frames with feedback, and a reset half way."""
    check_emulated(compiled, exported("mobilenetv2-jester"), board)


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_resnet50_is_exact(board: str, exported: Callable[[str], Path], compiled: Compiled) -> None:
    """The same of the larger network."""
    check_emulated(compiled, exported("resnet50-kinetics"), board)


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_spread_channels_are_exact_and_near(board: str, spread: Path, compiled: Compiled) -> None:
    """MobileNet-V2 whose expanded channels differ by up to five octaves: a scale for each channel of weights holds."""
    check_emulated(compiled, spread, board, least_db=24.0)


@pytest.mark.slow
def test_spread_channels_are_exact_and_near_here(spread: Path, compiled: Compiled) -> None:
    card = card_of_this_cpu()
    check_result(verify_artifact(compiled.artifact(spread, card), frames=16), 24.0)


@pytest.mark.slow
def test_two_precisions_and_four_streams_of_the_whole_network(spread: Path, compiled: Compiled) -> None:
    """Interleaved in one process, each with feedback and a reset half way: what each one's reference says."""
    card = card_of_this_cpu()
    streams = []
    for name in ("int8", "fp32"):
        artifact = compiled.artifact(spread, card, name)
        library = Library(artifact)
        for seed, threads in ((1, 1), (2, 2)):
            frames = np.random.default_rng(seed).standard_normal((16, *artifact.manifest.frame.shape), np.float32)
            reference = Reference(artifact.reference, artifact.manifest)
            streams.append((OnlineSession(library, threads), reference, frames, artifact.manifest.tolerance))
    for step in range(16):
        for session, reference, frames, tolerance in streams:
            if step == 8:
                session.reset()
                reference.reset()
            wanted = reference.step(frames[step])[0].reshape(-1)
            found = session.step(frames[step]).reshape(-1)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert {tolerance == 0 for *_, tolerance in streams} == {True, False}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model card → its network with seeded weights."""
    folder = tmp_path_factory.mktemp("exported")

    def export(model: str) -> Path:
        path = folder / f"{model}.onnx"
        if not path.exists():
            export_onnx(ExportRequest(load_model(model), path, seed=0))
        return path

    return export


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights; every channel between an expansion and a depthwise convolution is made smaller, and larger again.

    By a factor of 1 to 32, at random: with one scale for all channels most of them have few levels.
    """
    path = tmp_path_factory.mktemp("spread") / "spread.onnx"
    export_onnx(ExportRequest(load_model("mobilenetv2-jester"), path, seed=0))
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    random, changed = np.random.default_rng(1), 0
    for node in convolutions:
        reader = next((other for other in convolutions if other.input[0] == activated(model, node.output[0])), None)
        outputs = weights[node.input[1]].dims[0]
        if reader is None or group_of(reader) != outputs or group_of(node) != 1 or len(node.input) < 3:
            continue
        factors = 2.0 ** -random.uniform(0, 5, outputs)
        for tensor, by in ((node.input[1], factors), (node.input[2], factors), (reader.input[1], 1 / factors)):
            values = numpy_helper.to_array(weights[tensor])
            scaled = (values * by.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
            weights[tensor].CopyFrom(numpy_helper.from_array(scaled, tensor))
        changed += 1
    assert changed >= 16, "of 17 depthwise convolutions"
    onnx.save(model, path)
    return path


def activated(model: onnx.ModelProto, tensor: str) -> str:
    """The tensor after the activation that alone reads this one, or this one."""
    readers = [node for node in model.graph.node if tensor in node.input]
    return readers[0].output[0] if len(readers) == 1 and readers[0].op_type in ("Clip", "Relu") else tensor


def group_of(node: onnx.NodeProto) -> int:
    """Of a convolution."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def card_of_this_cpu() -> TargetCard:
    """The card of x86-64 CPUs with dot products, where this is one."""
    card = load_target("x86-64-v4-vnni")
    if not runs_here(card):
        pytest.skip(f"this CPU has no {', '.join(card.cpu.features)}")
    return card


def check_emulated(compiled: Compiled, network: Path, board: str, least_db: float = LEAST_DB) -> None:
    """Compile, run 16 frames as the board's CPU, compare."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    card = load_target(board)
    assert BOARDS[board] in emulator_command(card)
    check_result(verify_emulated(compiled.artifact(network, card), frames=16, threads=THREADS), least_db)


def check_result(result: VerifyResult, least_db: float) -> None:
    """Equal in every bit, and so near to the float model."""
    assert result.tolerance == 0
    assert result.passed, result.checks
    assert all(check.error == 0 and check.magnitude > 0 for check in result.checks)
    assert result.quality_db is not None
    assert result.quality_db >= least_db
