"""Instructions a frame on 64-bit Arm, under QEMU: tsm-edge beside other engines' own aarch64 wheels, one thread.

python benchmarks/arm_instructions.py --target raspberry-pi-4 --json arm.json

QEMU's times say nothing about a device, but the instructions it executes are those a device would. Each program is
run with a few frames and with more; the difference is what a frame takes. Needs Debian or Ubuntu (apt-get fetches an
Arm Python into a folder of its own, nothing is installed), qemu-user, and the engines' converters on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engines import MODULES, load_engine
from engines.base import OnlineModel, read_model
from interleave import reference_logits, relative_error, video
from peers import US, prepare_engines
from report import describe, machine_info, table, write_json
from stages import StageError
from worker import ERROR_LIMIT

from tsm_edge.artifact import MODEL_ONNX, RUNNER, Artifact
from tsm_edge.cards import load_model, load_target
from tsm_edge.compile.link import zig_command
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.emulate import emulator_command
from tsm_edge.errors import TsmEdgeError

HERE = Path(__file__).resolve().parent
WARM_UP, MEASURED = 1, 1
"""Frames of the short run, and how many more the long one has."""
SECONDS = 1800
PEERS = ("onnxruntime", "ncnn", "litert", "mnn")
# The runtime of each engine as pip knows it, in the version that is installed here or another that Debian 12's QEMU
# does not crash in. ExecuTorch's needs PyTorch, which is too much for an emulator.
WHEELS = {"onnxruntime": "onnxruntime==1.22.1", "ncnn": "ncnn", "litert": "ai-edge-litert", "mnn": "mnn"}
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g")


@dataclass(frozen=True)
class Count:
    """Instructions of one step, and how far the logits are from ONNX Runtime's on this machine."""

    variant: str
    instructions: int
    error: float


@dataclass(frozen=True)
class Emulator:
    """QEMU with the counting plugin."""

    command: tuple[str, ...]

    def count(self, program: list[str]) -> int:
        """Run a program; return the instructions it executed.

        Raises
        ------
        StageError
            It failed.
        """
        done = subprocess.run([*self.command, *program], capture_output=True, text=True, timeout=SECONDS, check=False)
        found = re.search(r"^instructions: (\d+)$", done.stderr, re.MULTILINE)
        if done.returncode != 0 or found is None:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("instructions")]
            raise StageError(f"{Path(program[0]).name}: {lines[-1][:300] if lines else done.returncode}")
        return int(found[1])


def open_emulator(artifact: Artifact, folder: Path) -> Emulator:
    """Build the plugin for the installed QEMU (its interface has had several versions)."""
    qemu = emulator_command(artifact.manifest.target)
    for version in range(1, 7):
        plugin = folder / f"count{version}.so"
        source = str(HERE / "count_instructions.c")
        build = [*zig_command(), "cc", "-O2", "-shared", "-fPIC", f"-DAPI={version}", source, "-o", str(plugin)]
        subprocess.run(build, check=True)
        emulator = Emulator((*qemu, "-plugin", str(plugin)))
        try:
            emulator.count([str(artifact.path / RUNNER), "info"])
        except StageError as error:
            problem = error
            continue
        return emulator
    raise StageError(f"QEMU cannot load the counting plugin: {problem}")


def count_ours(emulator: Emulator, artifact: Artifact) -> Count:
    """Count the artifact's own runner."""

    def bench(frames: int) -> int:
        program = str(artifact.path / RUNNER)
        return emulator.count([program, "bench", "--warmup", "0", "--frames", str(frames)])

    return Count(RUNNER, (bench(WARM_UP + MEASURED) - bench(WARM_UP)) // MEASURED, 0.0)


@dataclass(frozen=True)
class ArmPython:
    """An Arm Python below ``folder``, with wheels in a folder of their own for each engine."""

    folder: Path

    @property
    def root(self) -> Path:
        """What stands for ``/``."""
        return self.folder / "root"

    def fetch(self) -> None:
        """Download it, once, into ``folder``: apt runs on lists and a status file of its own."""
        if (self.root / "complete").exists():
            return
        for name in ("state/lists/partial", "cache/archives/partial", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        status = self.folder / "state/status"
        status.touch()
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "Dir::State": self.folder / "state",
            "Dir::State::status": status,
            "Dir::Cache": self.folder / "cache",
            "Debug::NoLocking": 1,
        }
        apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
        subprocess.run([*apt, "update"], check=True)
        install = [*apt, "install", "-y", "--download-only", "--no-install-recommends", *DEBIAN]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        for package in (self.folder / "cache/archives").glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, self.root], check=True)
        (self.root / "complete").touch()

    def fetch_wheels(self, engine: str, qemu: list[str]) -> Path:
        """Install the aarch64 wheel of an engine."""
        site = self.folder / engine
        if site.exists():
            return site
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        command = [*qemu, *self.command([]), "-c", program]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)] + ["manylinux2014_aarch64"]
        wheel = WHEELS[engine]
        wheel = wheel if "==" in wheel else f"{wheel}=={importlib.metadata.version(wheel)}"
        pip = [sys.executable, "-m", "pip", "--quiet", "install", "--target", str(site), "--only-binary=:all:"]
        pip += ["--python-version", version, "--implementation", "cp"]
        subprocess.run(
            [*pip, *(word for name in platforms for word in ("--platform", name)), wheel, "numpy"], check=True
        )
        return site

    def command(self, path: list[Path]) -> list[str]:
        """Options of QEMU and the program that make this Python, with these folders to import from."""
        variables = {
            "PYTHONHOME": self.root / "usr",
            "PYTHONPATH": ":".join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": 1,
            "OMP_NUM_THREADS": 1,
            "TF_CPP_MIN_LOG_LEVEL": 2,
        }
        options = [word for key, value in variables.items() for word in ("-E", f"{key}={value}")]
        return ["-L", str(self.root), *options, str(self.root / "usr/bin/python3")]


def count_peer(
    emulator: Emulator, python: ArmPython, model: OnlineModel, engine: str, work: Path, reference: np.ndarray
) -> Count:
    """Count every variant of an engine; return the best that computes the same.

    Raises
    ------
    StageError
        None could be counted.
    """
    qemu = list(emulator.command[: emulator.command.index("-plugin")])
    site = python.fetch_wheels(engine, qemu)
    found, problems = [], []
    for variant in load_engine(engine).variants:
        counts = []
        try:
            for frames in (WARM_UP, WARM_UP + MEASURED):
                job = work / f"{engine}-{variant}-{frames}.json"
                job.write_text(json.dumps(_job(model, engine, variant, work, frames)))
                worker = [*python.command([HERE, site]), str(HERE / "arm_worker.py"), str(job)]
                counts.append(emulator.count(worker))
        except (StageError, subprocess.TimeoutExpired) as error:
            problems.append(f"{variant}: {error}")
            continue
        error = relative_error(np.load(work / "logits.npy"), reference)
        if error > ERROR_LIMIT:
            problems.append(f"{variant}: differs from ONNX Runtime by {error:.1e}")
            continue
        found.append(Count(variant, (counts[1] - counts[0]) // MEASURED, error))
    if not found:
        raise StageError("; ".join(problems))
    return min(found, key=lambda count: count.instructions)


def _job(model: OnlineModel, engine: str, variant: str, work: Path, frames: int) -> dict[str, Any]:
    plain = dataclasses.asdict(model) | {"path": str(model.path)}
    files = {"frames_file": str(work / "frames.npy"), "logits_file": str(work / "logits.npy")}
    return {
        "model": plain,
        "engine": engine,
        "variant": variant,
        "folder": str(work / engine),
        "frames": frames,
    } | files


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="mobilenetv2-jester", help="model card, with random weights (%(default)s)")
    add("--target", default="raspberry-pi-4", help="a 64-bit Arm target; QEMU is told to be its CPU (%(default)s)")
    add("--engines", nargs="*", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsm-edge" / "arm-python"
    add("--work", type=Path, default=cache, help="keep the Arm Python and converted models here (%(default)s)")
    add("--json", type=Path, help="write the counts here")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    work = options.work.resolve() / f"{options.model}-{options.target}"
    work.mkdir(parents=True, exist_ok=True)
    artifact = compile_model(CompileRequest(load_target(options.target), work / US, load_model(options.model)))
    model = read_model(artifact.path / MODEL_ONNX)
    frames = video(model.frame_shape, WARM_UP + MEASURED)
    np.save(work / "frames.npy", np.stack(frames))
    reference = reference_logits(model, frames)
    absent: dict[str, str] = {}
    ready = prepare_engines(model, list(options.engines), work, None, absent)
    emulator = open_emulator(artifact, work)
    counts = {US: count_ours(emulator, artifact)}
    python = ArmPython(options.work.resolve())
    if ready:
        python.fetch()
    for engine in ready:
        print(f"{engine}: counting", file=sys.stderr, flush=True)
        try:
            counts[engine] = count_peer(emulator, python, model, engine, work, reference)
        except (StageError, subprocess.CalledProcessError) as error:
            absent[engine] = str(error)
    _print(options, counts, absent)
    if options.json:
        machine = machine_info(name for engine in MODULES for name in load_engine(engine).distributions)
        entries = {name: dataclasses.asdict(count) for name, count in counts.items()}
        data = {"benchmark": "arm_instructions", "model": options.model, "target": options.target, "machine": machine}
        write_json(options.json, data | {"instructions_per_frame": entries, "not_measured": absent})


def _print(options: argparse.Namespace, counts: dict[str, Count], absent: dict[str, str]) -> None:
    ours = counts[US].instructions
    rows = [
        (f"{name} ({count.variant})", f"{count.instructions / 1e6:.1f}", f"{count.instructions / ours:.2f}")
        for name, count in sorted(counts.items(), key=lambda item: item[1].instructions)
    ]
    print(f"{options.model} on {options.target}, float32, one thread, one online step with cache feedback, under QEMU")
    print(table(("engine", "million instructions", f"x {US}"), rows))
    for name, reason in absent.items():
        print(f"not measured: {name}: {reason}")
    print(describe(machine_info(())))


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    try:
        _run(_options(arguments))
    except (StageError, TsmEdgeError, subprocess.CalledProcessError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
