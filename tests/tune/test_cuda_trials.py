"""A library for a GPU with many programs: on the stand-in driver every candidate computes what ONNX Runtime does."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from cuda_steps import addresses_can_be_fixed
from onnx_graphs import GraphBuilder

import tsm_edge
from tsm_edge.artifact.folder import LIBRARY, Artifact
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import GpuSpec, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.cli.tune import command
from tsm_edge.compile.backends.cuda.choose.fusion import ExpandDepthwiseSettings
from tsm_edge.compile.backends.cuda.choose.winograd import WinogradSettings
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmTile
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.device_code import KernelResources
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.recorded import recorded_for
from tsm_edge.compile.trial_library import TrialBuilder, TrialLibrary, _GpuKernels
from tsm_edge.compile.trials import Network, differing_calls, network_of
from tsm_edge.tune.candidates import candidates
from tsm_edge.verify.standin.build import StandIn, build_standin
from tsm_edge.verify.standin.shipped import shipped_ptx
from tsm_edge.verify.standin.translate import Image

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]
# A GPU whose model chooses to fuse, on this machine.
GPU = GpuSpec("5.3", 1, 921, 17.0, "6.4")
# A kind of candidate each: algorithms, the fused kernel in parts, its tile, rows a step, the split of the reduction.
CHOICES = (
    (Choice("winograd", ("conv_2",), WinogradSettings(2, GemmTile(16, 16, 8, 4, 2, depth=4))),),
    (Choice("winograd", ("conv_2",), WinogradSettings(4, GemmTile(16, 8, 8, 4))),),
    (Choice("convolution", ("conv_2",), GemmTile(16, 16, 8, 4, 2, depth=16)),),
    (Choice("expand_depthwise", ("conv_7", "conv_9"), ExpandDepthwiseSettings(DepthwiseTile(2, 2, 8, 6))),),
    (
        Choice("pointwise", ("conv_7",), GemmTile(24, 32, 8, 4)),
        Choice("depthwise", ("conv_9",), DepthwiseTile(1, 4, 4, 8)),
    ),
    (Choice("pointwise", ("conv_11",), GemmTile(16, 16, 4, 8, 3, depth=4, last_apart=False)),),
)
_MEASURES = """
import json, sys
from pathlib import Path
import numpy as np
from tsm_edge.artifact.folder import MANIFEST, Artifact
from tsm_edge.artifact.manifest import parse_manifest
from tsm_edge.session.local import OnlineSession
from tsm_edge.tune.race import Entrant, Pace, race

folder = Path(sys.argv[1])
frames = np.load(sys.argv[2])
entrants = [Entrant(*entrant) for entrant in json.loads(sys.argv[3])]
with OnlineSession(Artifact(folder, parse_manifest((folder / MANIFEST).read_text(), folder))) as session:
    steps = []
    for program in range(len(entrants) + 1):
        calls = session.select(program)
        logits = []
        for frame in frames:
            logits.append(session.step(frame).tolist())
        timings = session.measure(frames[:, 0], 0, 2, kernels=True)
        steps.append([calls, list(timings.kernels_ns.shape), int(timings.kernels_ns.min()), logits])
    finishes = race(session, frames[:, 0], entrants, Pace(3, block=1, warm=1), 1e-4)
    races = [[finish.error, finish.ratio.value, finish.base_us] for finish in finishes]
    print(json.dumps([steps, races]))
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A 3×3 convolution, an inverted residual and a head, as the rules have them."""
    folder = tmp_path_factory.mktemp("gpu")
    builder = GraphBuilder(12, 12)
    x = builder.relu(builder.conv(builder.frame, 16, 3, 2))
    x = builder.relu(builder.conv(x, 16, 3))
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 2), 24), 0, 6)), 0, 6)
    onnx.save(builder.model(builder.head(builder.add(builder.conv(y, 16), x), 5)), str(folder / "model.onnx"))
    own = dataclasses.replace(load_target("native"), detect=False)
    card = dataclasses.replace(own, name="tiny-gpu", device="cuda", gpu=GPU, libc="glibc-2.27")
    return compile_model(CompileRequest(card, folder / "model", onnx=folder / "model.onnx", runner=False))


@pytest.fixture(scope="module")
def network(artifact: Artifact) -> Network:
    return network_of(artifact)


@pytest.fixture(scope="module")
def trials(network: Network, tmp_path_factory: pytest.TempPathFactory) -> TrialLibrary:
    programs = [network.with_choices(Choices(choices)) for choices in CHOICES]
    return TrialBuilder(network, tmp_path_factory.mktemp("trials")).build(programs)


def test_every_program_computes_what_onnx_runtime_does_and_is_timed_in_the_step(
    artifact: Artifact, network: Network, trials: TrialLibrary, tmp_path: Path
) -> None:
    assert trials.numbers == tuple(range(1, len(CHOICES) + 1))
    library = trials.artifact.path / LIBRARY
    other = (trials.artifact.path / "other-kernels.ptx").read_bytes()
    assert other in library.read_bytes()
    images = [Image(shipped_ptx(library)), Image(other.rstrip(b"\0").decode("ascii"))]
    driver = build_standin(tmp_path, images, StandIn(), optimise="-Og")
    frames = np.random.default_rng(0).standard_normal((3, *network.manifest.frame.shape), np.float32)
    np.save(tmp_path / "frames.npy", frames)
    programs = [network.with_choices(Choices(choices)) for choices in CHOICES]
    entrants = [(number, *differing_calls(program, network.program)) for number, program in enumerate(programs, 1)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(tsm_edge.__file__).parents[1]),
        "LD_LIBRARY_PATH": str(driver.parent),
    }
    arguments = [str(trials.artifact.path), str(tmp_path / "frames.npy"), json.dumps(entrants)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURES, *arguments], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    steps, races = json.loads(done.stdout)
    reference = Reference(artifact.reference, artifact.manifest)
    wanted = [reference.step(frame)[0] for frame in frames]
    for (calls, shape, least_ns, logits), program in zip(steps, [network.program, *programs], strict=True):
        assert calls == len(program.calls)
        assert shape == [2, calls]
        assert least_ns > 0
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    for error, ratio, base_us in races:
        assert error <= 1e-4
        assert ratio > 0.0
        assert base_us > 0.0


def test_what_they_share_is_there_once(network: Network, trials: TrialLibrary) -> None:
    """Kernels, in a text that is the same in every library; and weights, but for those that are packed otherwise."""
    ptx, other = ((trials.artifact.path / name).read_text() for name in ("kernels.ptx", "other-kernels.ptx"))
    for call in network.program.calls:
        assert ptx.count(f".entry {call.kernel}(") == 1
    assert ptx.count(".entry") == len({call.kernel for call in network.program.calls})
    assert other.count(".entry") >= len(CHOICES)
    programs = [network.program, *(network.with_choices(Choices(choices)) for choices in CHOICES)]
    every = sum(weights.nbytes for program in programs for weights in program.weights)
    assert (trials.artifact.path / "weights.bin").stat().st_size < every


@pytest.mark.parametrize("used", [KernelResources(40, 8, 0), KernelResources(512, 0, 0)])
def test_a_program_that_ptxas_says_cannot_run_is_not_in_the_library(used: KernelResources, network: Network) -> None:
    resources = {call.kernel: KernelResources(32, 0, 0) for call in network.program.calls}
    assert _GpuKernels(GPU, (), resources).can_run(network.program)
    large = max(network.program.calls, key=lambda call: call.grid.threads[0])
    assert not _GpuKernels(GPU, (), {**resources, large.kernel: used}).can_run(network.program)


def test_the_same_records_make_the_same_library(artifact: Artifact, network: Network, tmp_path: Path) -> None:
    """And its program is the one that was measured; records of another GPU are named."""
    found = candidates(network, network.freedoms, {})
    record = next(one for one in found if one.choices[0].layers == ("conv_11",) and one.choices[0].settings.depth == 4)
    accepted = dataclasses.replace(record.blank, accepted=True, ratio=(0.9, 0.88, 0.92))
    path, said = tmp_path / "r.jsonl", list[str]()
    path.write_text(f"{accepted.line()}\n")
    request = CompileRequest(
        artifact.manifest.target, tmp_path / "0", onnx=artifact.path / "model.onnx", runner=False, records=(path,)
    )
    made = []
    for number in range(2):
        one = compile_model(dataclasses.replace(request, output=tmp_path / f"{number}"), warn=said.append)
        made.append((one.path / LIBRARY).read_bytes())
        assert one.manifest.tuned == 1
        assert [kernel.tile for kernel in one.manifest.kernels if kernel.layer == "conv_11"] == [
            str(record.choices[0].settings)
        ]
    assert not [text for text in said if "record" in text]
    said.clear()
    assert made[0] != (artifact.path / LIBRARY).read_bytes()
    if addresses_can_be_fixed():
        assert made[0] == made[1]
    slower = dataclasses.replace(artifact.manifest.target, gpu=dataclasses.replace(GPU, clock_mhz=640))
    recorded_for(slower, FP32, [path], network.graph, network.layers, said.append)
    assert said == [f"{path}: no record is for this network on tiny-gpu in fp32"]


def test_a_dry_run_lists_kernels_and_candidates(artifact: Artifact, network: Network) -> None:
    done = CliRunner().invoke(command, [str(artifact.path), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    listed = {kernel["kernel"]: int(kernel["candidates"]) for kernel in json.loads(done.stdout)["kernels"]}
    assert listed == {free.label: len(free.others) for free in network.freedoms}
    assert listed["conv_11"] > 10


def test_without_a_gpu_it_ends_in_a_line(
    run_program: RunProgram, program_environment: dict[str, str], artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    environment = {**program_environment, "LD_LIBRARY_PATH": str(tmp_path)}
    done = run_program("tune", str(artifact.path), "--budget", "30s", timeout=240, env=environment)
    assert done.returncode == 2
    assert "tiny-gpu is tuned on a GPU: no NVIDIA GPU is usable here: " in done.stderr
    assert "libcuda.so.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("**/*.jsonl"))


def test_precision_and_target_of_the_library_are_the_models(trials: TrialLibrary, artifact: Artifact) -> None:
    assert trials.artifact.manifest.precision == FP32.name
    assert trials.artifact.manifest.target == artifact.manifest.target
