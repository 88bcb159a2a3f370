"""Run a compiled model's ``tsm-runner`` under QEMU and compare all it computes with ONNX Runtime.

Shows that the code for another machine is right and legal on its CPU; QEMU's times say nothing about the device's. A
model for a GPU runs on a stand-in for the GPU's driver, made from the PTX inside it, that checks every access of the
kernels (``tsm_edge.verify.standin``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import LIBRARY, RUNNER, Artifact, load_artifact, read_listed
from tsm_edge.artifact.golden import Golden, make_golden, network_input, steps_of, write_golden
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import RGB_CHANNELS, TargetCard
from tsm_edge.cards.architecture import architecture, check_threads, this_architecture
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.verify.compare import Gather, VerifyResult
from tsm_edge.verify.quality import Step, quality_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAMES = 4
# CPUs that QEMU can be told to be; it then refuses the instructions they lack.
_AARCH64_CPUS = ("cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76")
# Where Debian's packages put the C library of another machine, and their names.
SYSTEMS = {
    "x86_64": ("/usr/x86_64-linux-gnu", "libc6-amd64-cross"),
    "aarch64": ("/usr/aarch64-linux-gnu", "libc6-arm64-cross"),
    "arm": ("/usr/arm-linux-gnueabihf", "libc6-armhf-cross"),
}


def emulator_command(target: TargetCard) -> list[str]:
    """How to run a program of this target here: nothing where this machine can, else QEMU and its options.

    Raises
    ------
    ArtifactError
        QEMU, or the C library that the program needs, is not installed.
    """
    machine = architecture(target.cpu.triple)
    if machine == this_architecture():
        return []
    name = f"qemu-{machine}"
    program = shutil.which(name) or shutil.which(f"{name}-static")
    if program is None:
        raise ArtifactError(
            f"{name} is not installed, expected it to run code for {target.name}",
            "install it with: apt-get install qemu-user",
        )
    # A Cortex-A57 is plain Armv8.0.
    cpu = ["-cpu", target.cpu.cpu if target.cpu.cpu in _AARCH64_CPUS else "cortex-a57"] if machine == "aarch64" else []
    return [program, *cpu, *([] if target.static_runner else _c_library(target, machine))]


def _c_library(target: TargetCard, machine: str) -> list[str]:
    """Options that tell QEMU where the loader and the C library are."""
    folder, package = SYSTEMS[machine]
    if os.environ.get("QEMU_LD_PREFIX"):  # QEMU reads it itself
        return []
    if not Path(folder, "lib/libc.so.6").exists():
        raise ArtifactError(
            f"{folder} has no C library, expected it to run code for {target.name}",
            f"install it with: apt-get install {package}; or name a root file system with QEMU_LD_PREFIX",
        )
    return ["-L", folder]


@again_if_replaced
def verify_emulated(
    path: Path | Artifact, onnx: Path | None = None, frames: int | None = None, threads: int = 1, seed: int = 0
) -> VerifyResult:
    """Compare ``tsm-runner`` with ONNX Runtime: logits and every cache of every frame.

    Parameters
    ----------
    path : Path or Artifact
    onnx : Path, optional
        By default the artifact's own ``model.onnx``.
    frames : int, optional
        Steps; the caches are reset once, half way. By default 4 frames, or clips.
    threads : int
        Of the runner.
    seed : int
        Of the frames (noise, bytes).

    Raises
    ------
    ArtifactError
        The artifact, its runner, its ONNX file or QEMU is missing; or the runner stopped on the way.
    """
    check_threads(threads)
    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    manifest = artifact.manifest
    emulator = emulator_command(manifest.target)
    if manifest.frame_shape[1] != RGB_CHANNELS:
        raise ArtifactError(
            f"{artifact.path}: takes {manifest.frame_shape[1]} channels, which are no pictures: it has no {RUNNER}",
            f"verify its {LIBRARY}, here or with --rpc HOST:PORT: tsm-edge verify DIR",
        )
    frames = frames or max(2, steps_of(_FRAMES, manifest))
    golden = make_golden(Reference(onnx or artifact.reference, manifest), manifest, frames, seed)
    gather = Gather(manifest)
    for found, wanted in zip(emulated_outputs(artifact, golden, threads), golden.outputs, strict=True):
        gather.add(found, wanted)
    name = Path(emulator[0]).name if emulator else "this machine"
    ran = f"{RUNNER} on {name}{' and a stand-in for its GPU' if manifest.target.device == 'cuda' else ''}"
    quality = quality_of(artifact, _steps(golden, manifest))
    clips = manifest.whole_clips
    return VerifyResult(
        artifact.path, frames, threads, gather.checks(), manifest.tolerance, ran, quality_db=quality, clips=clips
    )


def _steps(golden: Golden, manifest: Manifest) -> Iterator[Step]:
    for index, (picture, wanted) in enumerate(zip(golden.frames, golden.outputs, strict=True)):
        yield network_input(picture, manifest.preprocess), wanted[0], index in (0, golden.reset)


def emulated_outputs(artifact: Artifact, golden: Golden, threads: int = 1) -> list[list[NDArray[np.float32]]]:
    """What ``tsm-runner`` makes of frames: for each the tensors of :func:`tsm_edge.verify.compare.output_names`.

    Raises
    ------
    ArtifactError
        The runner or QEMU is missing, or the runner stopped on the way: a kernel of a GPU did what it must not, too.
    """
    with scratch_folder() as folder, _gpu(artifact, folder) as variables:
        command = _command(artifact, variables)
        frames_file, outputs_file = folder / "frames.bin", folder / "outputs.bin"
        write_golden(frames_file, golden)
        arguments = ["--golden", str(frames_file), "--outputs", str(outputs_file), "--threads", str(threads)]
        _run([*command, "verify", *arguments], artifact)
        found = np.fromfile(outputs_file, "<f4")
    return [_tensors(values, artifact.manifest) for values in np.split(found, len(golden.frames))]


def _command(artifact: Artifact, environment: Mapping[str, str]) -> list[str]:
    """How the runner is run here, with variables of its own."""
    if artifact.runner is None:
        raise ArtifactError(f"{artifact.path}: has no {RUNNER}", "compile again without --no-runner")
    emulator = emulator_command(artifact.manifest.target)
    settings = [f"{name}={value}" for name, value in environment.items()]
    if emulator:  # the variables are the program's, not QEMU's
        emulator[1:1] = [option for setting in settings for option in ("-E", setting)]
    elif settings:
        emulator = ["env", *settings]
    return [*emulator, str(artifact.runner.resolve())]


@contextlib.contextmanager
def _gpu(artifact: Artifact, folder: Path) -> Iterator[dict[str, str]]:
    """A driver in ``folder`` for a GPU's model; yields the variables with which the program finds it."""
    target = artifact.manifest.target
    if target.gpu is None:
        yield {}
        return
    from tsm_edge.verify.standin.apart import gpu_apart
    from tsm_edge.verify.standin.build import StandIn, build_standin
    from tsm_edge.verify.standin.shipped import shipped_ptx
    from tsm_edge.verify.standin.translate import Image

    standin = StandIn(_digits(target.gpu.compute_capability), _digits(target.gpu.ptx_isa))
    images, machine = [Image(shipped_ptx(artifact.library))], architecture(target.cpu.triple)
    if machine == this_architecture():
        build_standin(folder, images, standin)
        yield {"LD_LIBRARY_PATH": str(folder)}
        return
    with gpu_apart(folder, images, standin, machine) as variables:
        yield variables


def _digits(version: str) -> int:
    """53 of ``5.3``."""
    return int(version.replace(".", ""))


def _run(command: list[str], artifact: Artifact) -> None:
    finished = subprocess.run(command, capture_output=True, text=True)
    code = finished.returncode
    if code in (0, 1):  # 1: it found a difference itself; the caller finds it again and says where
        read_listed(artifact, RUNNER)  # was it this artifact's that ran?
        return
    lines = finished.stderr.strip().splitlines()
    found = [line for line in lines if line.startswith("standin: ")]
    if found:
        raise ArtifactError(
            f"{artifact.path}: a kernel fails: {found[0].removeprefix('standin: ')}",
            "see the kernel with: tsm-edge compile --keep-intermediates, and report it",
        )
    reason = f"stopped by {signal.Signals(-code).name}" if code < 0 else lines[-1] if lines else f"exit code {code}"
    raise ArtifactError(f"{artifact.path / RUNNER}: {reason}", "compile again with: tsm-edge compile")


def _tensors(values: NDArray[np.float32], manifest: Manifest) -> list[NDArray[np.float32]]:
    """One frame's outputs, in the order of ``output_names``."""
    shapes = [manifest.logits.shape, manifest.logits.shape, *(tensor.shape for tensor in manifest.further)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
