"""Instructions a frame on 64-bit Arm, under QEMU: tsm-edge beside other engines' own aarch64 wheels, one thread.

python benchmarks/arm_instructions.py --target raspberry-pi-4 --json arm.json
python benchmarks/arm_instructions.py --target raspberry-pi-5 --precision int8

QEMU's times say nothing about a device, but the instructions it executes are those a device would. Each program is
run with a few frames and with more; the difference is what a frame takes. Needs Debian (apt-get fetches an Arm Python
into a folder of its own, nothing is installed), a qemu-user with plugins, and the engines' converters on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engines import MODULES, PRECISIONS, load_engine
from engines.base import OnlineModel, read_model
from peers import US, Contender, contenders_of, not_in, prepare_engines
from report import machine_info, table, write_json
from stages import StageError
from streams import reference_logits, relative_error, video
from worker import ERROR_LIMITS

from tsm_edge.artifact.folder import MODEL_ONNX, RUNNER, Artifact
from tsm_edge.cards import CpuSpec, load_model, load_target
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.package.zig import zig_command
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import TsmEdgeError
from tsm_edge.verify.emulated import emulator_command, verify_emulated

HERE = Path(__file__).resolve().parent
WARM_UP, MEASURED = 2, 4
"""Frames of the short run, and how many more the long one has."""
SECONDS = 1800
PEERS = ("onnxruntime", "ncnn", "litert", "mnn")
# The runtime of each engine as pip knows it. ExecuTorch's needs PyTorch, which is too much for an emulator.
WHEELS = {"onnxruntime": "onnxruntime", "ncnn": "ncnn", "litert": "ai-edge-litert", "mnn": "mnn"}
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g")
# "CPU part" of the CPUs that QEMU is told to be, from their technical reference manuals (MIDR_EL1).
PARTS = {
    "cortex-a35": 0xD04,
    "cortex-a53": 0xD03,
    "cortex-a55": 0xD05,
    "cortex-a57": 0xD07,
    "cortex-a72": 0xD08,
    "cortex-a76": 0xD0B,
}
# What Linux calls what a card's CPU can do beside Armv8.0.
FEATURES = {"dot-product": "asimddp", "fp16-arithmetic": "fphp asimdhp"}


@dataclass(frozen=True)
class Executed:
    """Instructions, and how many of them multiply vectors (see ``count_instructions.c``): what has to be executed."""

    instructions: int
    multiply_adds: int


@dataclass(frozen=True)
class Count:
    """What one step executes, and how far the logits are from ONNX Runtime's on this machine."""

    variant: str
    instructions: int
    multiply_adds: int
    error: float


def per_frame(variant: str, short: Executed, long: Executed, error: float) -> Count:
    """What a frame adds to a run."""
    instructions = (long.instructions - short.instructions) // MEASURED
    return Count(variant, instructions, (long.multiply_adds - short.multiply_adds) // MEASURED, error)


@dataclass(frozen=True)
class Emulator:
    """QEMU with the counting plugin."""

    qemu: tuple[str, ...]
    plugin: Path

    @property
    def cpu(self) -> str:
        """The CPU that QEMU is told to be."""
        return self.qemu[self.qemu.index("-cpu") + 1]

    @property
    def version(self) -> str:
        """What QEMU says it is."""
        done = subprocess.run([self.qemu[0], "--version"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0]

    def count(self, program: list[str], given: bytes = b"") -> Executed:
        """Run a program, with this on its standard input; return what it executed.

        Raises
        ------
        StageError
            It failed.
        """
        command = [*self.qemu, "-plugin", str(self.plugin), *program]
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise StageError(f"took more than {SECONDS} s") from None
        said = done.stderr.decode("utf-8", "replace")
        found = dict(re.findall(r"^(instructions|multiply-adds): (\d+)$", said, re.MULTILINE))
        if done.returncode != 0 or len(found) != 2:
            lines = [line.strip(" \0") for line in said.splitlines() if line.partition(":")[0] not in found]
            raise StageError("; ".join(lines[-2:])[:300] or f"exit code {done.returncode}")
        return Executed(int(found["instructions"]), int(found["multiply-adds"]))


def open_emulator(artifact: Artifact, folder: Path) -> Emulator:
    """Build the plugin for the installed QEMU (its interface has had several versions)."""
    qemu = tuple(emulator_command(artifact.manifest.target))
    if "-cpu" not in qemu:
        raise StageError(f"{artifact.manifest.target.name}: expected a 64-bit Arm target that this machine is not")
    for version in range(6, 0, -1):
        plugin = folder / f"count{version}.so"
        source = str(HERE / "count_instructions.c")
        build = [*zig_command(), "cc", "-O2", "-shared", "-fPIC", f"-DAPI={version}", source, "-o", str(plugin)]
        subprocess.run(build, check=True)
        emulator = Emulator(qemu, plugin)
        try:
            emulator.count([str(artifact.path / RUNNER), "info"])
        except StageError as error:
            problem = error
            continue
        return emulator
    raise StageError(f"{emulator.version} cannot load the counting plugin: {problem}")


def count_ours(emulator: Emulator, artifact: Artifact) -> Count:
    """Count the artifact's own runner.

    Raises
    ------
    StageError
        It computes something else than its reference: for int8, the same integers in ONNX Runtime.
    """
    result = verify_emulated(artifact)
    error = max(check.error for check in result.checks)
    if not result.passed:
        quality = "" if result.quality_db is None else f", {result.quality_db:.0f} dB to the float model"
        raise StageError(f"{US} differs from ONNX Runtime by {error:.1e}{quality}")

    # Not by its `bench`, whose number of steps the clock decides, too. Making floats of bytes is counted with the rest.
    picture = bytes(math.prod(artifact.manifest.frame_shape))

    def stream(frames: int) -> Executed:
        return emulator.count([str(artifact.path / RUNNER), "stream"], picture * frames)

    return per_frame(RUNNER, stream(WARM_UP), stream(WARM_UP + MEASURED), error)


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

    def describe_cpu(self, name: str, cpu: CpuSpec) -> None:
        """Write what Linux says of the CPU there, where QEMU finds it before this machine's own.

        QEMU of Debian 12 shows this machine's, and the library that ONNX Runtime and LiteRT look for the CPU with
        crashes when it is not Arm's. ncnn takes its tiles from the cache sizes.
        """
        more = (f" {flags}" for ability, flags in FEATURES.items() if ability in cpu.abilities)
        fields = f"Features\t: fp asimd{''.join(more)}\n"
        fields += f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {PARTS[name]:#05x}\n"
        cores = range(cpu.cores)
        folder = "sys/devices/system/cpu"
        files = {"proc/cpuinfo": "\n".join(f"processor\t: {core}\n{fields}" for core in cores)}
        files |= {f"{folder}/{name}": f"0-{cores[-1]}\n" for name in ("possible", "present", "online")}
        caches = (("Data", 1, cpu.l1d_kib), ("Instruction", 1, cpu.l1d_kib), ("Unified", 2, cpu.l2_kib))
        for core in cores:
            for index, (kind, level, size) in enumerate(caches):
                values = {"type": kind, "level": level, "size": f"{size}K"}
                files |= {f"{folder}/cpu{core}/cache/index{index}/{key}": f"{values[key]}\n" for key in values}
        for path, text in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)

    def fetch_wheels(self, engine: str, qemu: tuple[str, ...]) -> Path:
        """Install the aarch64 wheel of an engine, in the version that is installed here."""
        name = WHEELS[engine]
        wheel = f"{name}=={importlib.metadata.version(name)}"
        site = self.folder / wheel
        if site.exists():
            return site
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        command = [*qemu, *self.command([]), "-c", program]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)] + ["manylinux2014_aarch64"]
        part = self.folder / f"{wheel}.part"
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-warn-conflicts", "--target", str(part)]
        pip += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
        pip += [word for platform in platforms for word in ("--platform", platform)]
        subprocess.run([*pip, wheel, "numpy"], check=True)
        part.rename(site)
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
    emulator: Emulator,
    python: ArmPython,
    contender: Contender,
    work: Path,
    reference: np.ndarray,
    absent: dict[str, str],
) -> Count | None:
    """Count every variant of an engine; return the best that computes the same, and add the others to ``absent``."""
    engine, limit = contender.engine, ERROR_LIMITS[contender.precision]
    model = read_model(contender.model)
    site = python.fetch_wheels(engine, emulator.qemu)
    found = []
    for variant in load_engine(engine, contender.precision).variants:
        executed = []
        try:
            for frames in (WARM_UP, WARM_UP + MEASURED):
                job = work / f"{engine}-{variant}-{frames}.json"
                job.write_text(json.dumps(_job(model, contender, variant, work, frames)))
                worker = [*python.command([HERE, site]), str(HERE / "arm_worker.py"), str(job)]
                executed.append(emulator.count(worker))
        except StageError as error:
            absent[f"{engine} ({variant})"] = str(error)
            continue
        difference = relative_error(np.load(work / "logits.npy"), reference)
        if difference > limit:
            absent[f"{engine} ({variant})"] = f"differs from ONNX Runtime by {difference:.1e}"
        else:
            found.append(per_frame(variant, executed[0], executed[1], difference))
    return min(found, key=lambda count: count.instructions, default=None)


def _job(model: OnlineModel, contender: Contender, variant: str, work: Path, frames: int) -> dict[str, Any]:
    plain = dataclasses.asdict(model) | {"path": str(model.path)}
    files = {"frames_file": str(work / "frames.npy"), "logits_file": str(work / "logits.npy")}
    return {
        "model": plain,
        "engine": contender.engine,
        "precision": contender.precision,
        "variant": variant,
        "folder": str(work / contender.engine),
        "frames": frames,
    } | files


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="mobilenetv2-jester", help="model card, with random weights (%(default)s)")
    add("--target", default="raspberry-pi-4", help="a 64-bit Arm target; QEMU is told to be its CPU (%(default)s)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of every engine that has it (%(default)s)")
    add("--engines", nargs="*", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsm-edge" / "arm-python"
    add("--work", type=Path, default=cache, help="keep the Arm Python and converted models here (%(default)s)")
    add("--json", type=Path, help="write the counts here")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    work = options.work.resolve() / f"{options.model}-{options.target}-{options.precision}"
    work.mkdir(parents=True, exist_ok=True)
    target = load_target(options.target)
    precision = precision_named(options.precision)
    artifact = compile_model(CompileRequest(target, work / US, load_model(options.model), precision=precision))
    emulator = open_emulator(artifact, work)
    model = read_model(artifact.path / MODEL_ONNX)
    frames = video(model.frame_shape, WARM_UP + MEASURED)
    np.save(work / "frames.npy", np.stack(frames))
    reference = reference_logits(model, frames)
    absent = not_in(precision.name, options.engines)
    contenders = contenders_of(options.engines, model, precision.name, work)
    ready = prepare_engines(contenders, work, None, absent)
    counts = {US: count_ours(emulator, artifact)}
    python = ArmPython(options.work.resolve())
    if ready:
        python.fetch()
        python.describe_cpu(emulator.cpu, target.cpu)
    for contender in ready:
        engine = contender.engine
        print(f"{engine}: counting", file=sys.stderr, flush=True)
        try:
            best = count_peer(emulator, python, contender, work, reference, absent)
        except subprocess.CalledProcessError as error:
            absent[engine] = str(error)
            continue
        if best is not None:
            counts[engine] = best
    machine = machine_info(name for engine in MODULES for name in load_engine(engine).distributions)
    machine["versions"]["qemu"] = emulator.version
    _print(options, counts, absent, machine)
    if options.json:
        entries = {name: dataclasses.asdict(count) for name, count in counts.items()}
        data = {"benchmark": "arm_instructions", "model": options.model, "target": options.target}
        data |= {"precision": options.precision, "machine": machine}
        write_json(options.json, data | {"instructions_per_frame": entries, "not_measured": absent})


def _print(
    options: argparse.Namespace, counts: dict[str, Count], absent: dict[str, str], machine: dict[str, Any]
) -> None:
    ours = counts[US].instructions
    rows = [
        (
            f"{name} ({count.variant})",
            f"{count.instructions / 1e6:.1f}",
            f"{count.multiply_adds / 1e6:.1f}",
            f"{count.instructions / ours:.2f}",
            f"{count.error:.0e}",
        )
        for name, count in sorted(counts.items(), key=lambda item: item[1].instructions)
    ]
    what = f"{options.model} on {options.target}, {options.precision}, one thread"
    print(f"{what}, one online step with cache feedback, under QEMU")
    print(table(("engine", "million instructions", "multiply-adds", f"x {US}", "error"), rows))
    for name, reason in absent.items():
        print(f"not measured: {name}: {reason}")
    versions = {US: machine["versions"][US], "qemu": machine["versions"]["qemu"]}
    versions |= {name: importlib.metadata.version(wheel) for name, wheel in WHEELS.items() if name in counts}
    print(f"{machine['date'][:10]}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))


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
