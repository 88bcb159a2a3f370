"""Copying a compiled model to a device: only what is not there yet, checked by hash, visible all at once; verified.

Every file goes to a temporary name beside its place. When all are there with the right hash, and on the disk, they are
renamed, so that a program on the device never sees half a file; one that runs keeps the file it has open. The renames
are one script, which goes on when the connection is lost; should the device lose power in it, the next deployment goes
on from there. Only files that tsm-edge put there are replaced.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.folder import MANIFEST, RUNNER, Artifact, load_artifact
from tsm_edge.cards import TargetCard
from tsm_edge.cards.architecture import architecture, misfit
from tsm_edge.cards.cpuinfo import CPUINFO
from tsm_edge.deploy.adb import AdbDestination, AdbTransport
from tsm_edge.deploy.contents import RECORD, look_script, read_contents
from tsm_edge.deploy.destination import SshDestination
from tsm_edge.deploy.files import NAMES, DeployFile, files_of
from tsm_edge.deploy.gpu import ASK_GPU, check_gpu
from tsm_edge.deploy.ssh import SshTransport
from tsm_edge.deploy.transport import Finished, Transport, last_line
from tsm_edge.errors import DeployError
from tsm_edge.files.replacement import again_if_replaced

Progress = Callable[[str], None]

_COMMAND_S = 60.0
_VERIFY_S = 600.0
_SLOWEST_BYTES_PER_S = 20_000.0  # a copy slower than this has stalled
_SYNC = "{ sync -f . || sync; } 2>/dev/null"  # busybox and toybox have no sync of one disk
_DAMAGED = 22  # exit code of the script that looks at the copies


@dataclass(frozen=True)
class DeployRequest:
    """What goes where.

    Attributes
    ----------
    artifact : Path
        A compiled artifact's directory.
    destination : SshDestination or AdbDestination
    verify : bool
        Run ``tsm-runner verify`` there, if the artifact has a runner.
    folder : str
        Another folder there than the destination's; empty: that one.
    """

    artifact: Path
    destination: SshDestination | AdbDestination
    verify: bool = True
    folder: str = ""


@dataclass(frozen=True)
class Plan:
    """What a deployment would do; nothing was contacted.

    Attributes
    ----------
    device, folder : str
    files : tuple of DeployFile
        Copied, unless they are there already.
    commands : tuple of str
        As typed in a shell here.
    """

    device: str
    folder: str
    files: tuple[DeployFile, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class DeployResult:
    """What a deployment did.

    Attributes
    ----------
    device, folder, machine : str
        Name, place of the files there, architecture.
    files : tuple of DeployFile
        All that are there now.
    copied : tuple of str
        Names of those that had to be copied.
    seconds : float
    verified : bool or None
        What ``tsm-runner verify`` found; None: it was not run.
    report : str
        What it printed.
    """

    device: str
    folder: str
    machine: str
    files: tuple[DeployFile, ...]
    copied: tuple[str, ...]
    seconds: float
    verified: bool | None
    report: str


def plan(request: DeployRequest) -> Plan:
    """Say what :func:`deploy` would do, without contacting the device.

    Raises
    ------
    ArtifactError
        The artifact is missing or damaged.
    """
    job = _prepare(request.artifact, request)
    transport, folder, files = job.transport, job.folder, job.files
    ends = [_finish(folder, files), *([_verify(folder)] if job.verify else [])]
    commands = [
        transport.shown_run(_ask(folder, files, job.target)),
        transport.shown_run(_make(folder)),
        *transport.shown_put(files, folder),
        *map(transport.shown_run, ends),
    ]
    return Plan(transport.name, folder, files, tuple(commands))


def deploy(request: DeployRequest, progress: Progress = lambda text: None) -> DeployResult:
    """Copy a model to a device and verify it there.

    Parameters
    ----------
    request : DeployRequest
    progress : callable, optional
        Called with what is being done.

    Raises
    ------
    ArtifactError
        The artifact is missing or damaged.
    DeployError
        The device cannot be reached, does not fit the model, has no room, or a copy failed. What was copied stays,
        under temporary names, and is not copied again the next time.
    """
    return _deploy(request.artifact, request, progress)


@again_if_replaced
def _deploy(artifact: Path, request: DeployRequest, progress: Progress) -> DeployResult:
    began_s = time.monotonic()
    job = _prepare(artifact, request)
    transport, folder, files = job.transport, job.folder, job.files
    transport.check()
    progress(f"asking {transport.name} what it is and what it has")
    finished = transport.run(_ask(folder, files, job.target), _COMMAND_S)
    answers = _marked(finished.output)
    machine = _check_machine(transport.name, answers, job.target)
    check_gpu(transport.name, answers, job.target)
    contents = read_contents(finished.output, answers)
    if problem := contents.not_ours(files):
        raise DeployError(f"{transport.name}: {folder} {problem}", "name another folder: USER@HOST:PATH")
    there = contents.hashes
    missing = [file for file in files if there.get(file.name) != file.sha256]
    to_copy = [file for file in missing if there.get(file.part) != file.sha256]
    if to_copy:
        size = sum(file.size for file in to_copy)
        _check_room(transport.name, folder, size, answers.get("free", ""))
        progress(f"copying {len(to_copy)} files, {size / 1e6:.1f} MB, to {transport.name}")
        _expect_ok(transport.run(_make(folder), _COMMAND_S), transport, folder)
        _copy(transport, folder, to_copy, size)
    _expect_ok(transport.run(_finish(folder, files), _COMMAND_S), transport, folder)
    progress(f"verifying on {transport.name}")
    verified, report = _run_verify(transport, folder) if job.verify else (None, "")
    seconds = time.monotonic() - began_s
    copied = tuple(file.name for file in to_copy)
    return DeployResult(transport.name, folder, machine, files, copied, seconds, verified, report)


@dataclass(frozen=True)
class _Job:
    transport: Transport
    folder: str
    files: tuple[DeployFile, ...]
    target: TargetCard
    verify: bool


@again_if_replaced
def _prepare(path: Path, request: DeployRequest) -> _Job:
    artifact = load_artifact(path)
    transport = open_transport(request.destination)
    folder = request.folder or folder_of(transport, artifact)
    files = files_of(artifact)
    verify = request.verify and any(file.name == RUNNER for file in files)
    return _Job(transport, folder, files, artifact.manifest.target, verify)


def open_transport(destination: SshDestination | AdbDestination) -> Transport:
    """The way to a destination; nothing is contacted."""
    return SshTransport(destination) if isinstance(destination, SshDestination) else AdbTransport(destination)


def folder_of(transport: Transport, artifact: Artifact) -> str:
    """Where an artifact goes on a device."""
    return transport.folder(artifact.path.resolve().name).rstrip("/") or "/"


def _ask(folder: str, files: Sequence[DeployFile], target: TargetCard) -> str:
    """Tell what machine it is, and what is in the folder and how much room; changes nothing there.

    What is printed is marked, so that a login shell may print what it likes.
    """
    return (
        "echo tsm-machine=$(uname -m); echo tsm-bits=$(getconf LONG_BIT 2>/dev/null); "
        "[ -x /system/bin/sh ] && echo tsm-android=yes; "
        f'echo "tsm-flags=$(grep -m 1 -E "^(flags|Features)" {CPUINFO} 2>/dev/null)"; '
        f"{ASK_GPU if target.gpu is not None else ''}"
        "for p in sha256sum tar; do command -v $p >/dev/null 2>&1 && echo tsm-$p=yes; done; "
        # The room is that of the nearest folder that is there already.
        f'd={argument(folder)}; while [ ! -d "$d" ] && [ "$d" != "${{d%/*}}" ]; do d=${{d%/*}}; done; '
        'echo "tsm-free=$(df -Pk "${d:-/}" 2>/dev/null | tail -n 1)"; '
        f"cd -- {argument(folder)} 2>/dev/null || exit 0; " + look_script(files)
    )


def _check_machine(name: str, answers: dict[str, str], target: TargetCard) -> str:
    """Refuse a device the model was not compiled for; return its architecture."""
    if not answers.get("machine"):
        raise DeployError(f"{name} does not say what machine it is (uname -m)", "expected Linux or Android")
    machine = architecture(answers["machine"])
    if machine == "aarch64" and answers.get("bits") == "32":
        machine = "arm"  # a 64-bit kernel under a 32-bit system: Raspberry Pi OS
    hint = "see the targets with: tsm-edge targets, then: tsm-edge compile --target T"
    flags = answers.get("flags", "").partition(":")[2].split()
    if why := misfit(name, target, machine, flags, answers["machine"]):
        raise DeployError(why, hint)
    android = answers.get("android") == "yes"
    if android != target.android:
        system = "Android" if android else "not Android"
        raise DeployError(f"{name} is {system}, the model is compiled for {target.name}", hint)
    for program in ("sha256sum", "tar"):
        if answers.get(program) != "yes":
            raise DeployError(f"{name} has no {program}", "install coreutils and tar there, or busybox")
    return machine


def _check_room(name: str, folder: str, needed: int, free_line: str) -> None:
    """``free_line`` is the last of ``df -Pk``: the free KiB are its fourth column."""
    columns = free_line.split()
    if len(columns) < 4 or not columns[3].isdigit():
        return  # not known
    free = int(columns[3]) * 1024
    if needed > free:
        raise DeployError(
            f"{name}: {free / 1e6:.1f} MB are free in {folder}, the model needs {needed / 1e6:.1f} MB",
            "make room there, or name a folder on another disk: USER@HOST:PATH",
        )


def _make(folder: str) -> str:
    return (
        f"mkdir -p -- {argument(folder)} && cd -- {argument(folder)} || exit; "
        "[ -w . ] || { echo no permission to write >&2; exit 1; }"
    )


def _copy(transport: Transport, folder: str, files: Sequence[DeployFile], size: int) -> None:
    finished = transport.put(files, folder, _COMMAND_S + size / _SLOWEST_BYTES_PER_S)
    if finished.code == 0:
        return
    if "No space left" in finished.errors + finished.output:
        parts = " ".join(argument(f"{folder}/{file.part}") for file in files)
        transport.run(f"rm -f -- {parts}", _COMMAND_S)
        raise DeployError(f"{transport.name}: the disk of {folder} is full", "make room there, or name another folder")
    raise DeployError(
        f"{transport.name}: copying to {folder} failed ({last_line(finished.errors or finished.output)})",
        "check the connection, then deploy again: it goes on",
    )


def _finish(folder: str, files: Sequence[DeployFile]) -> str:
    """Check all hashes, then rename; a file that was there already has no part.

    What is renamed is on the disk first: boards lose power. A lost connection does not stop the renames.
    """
    steps = [f"cd -- {argument(folder)} || exit"]
    for file in files:
        name, part = shlex.quote(file.name), shlex.quote(file.part)
        steps.append(
            f"f={part}; [ -f $f ] || f={name}; set -- $(sha256sum $f); "
            f'[ "$1" = {file.sha256} ] || {{ rm -f {part}; echo tsm-damaged={name}; exit {_DAMAGED}; }}'
        )
    sums = " ".join(file.sha256 for file in files)
    steps += ["trap '' HUP INT TERM PIPE", f"echo {sums} > {RECORD} || exit", _SYNC]
    steps += [
        f"[ -f {shlex.quote(file.part)} ] && {{ chmod {file.mode:o} {shlex.quote(file.part)} && "
        f"mv -f {shlex.quote(file.part)} {shlex.quote(file.name)} || exit; }}"
        # The manifest last: until it is there, what is in the folder is known by the record.
        for file in sorted(files, key=lambda file: file.name == MANIFEST)
    ]
    present = {file.name for file in files}
    gone = [shlex.quote(name) for name in NAMES if name not in present]
    leftovers = [f".{name}.*.part" for name in NAMES]
    return "; ".join([*steps, f"rm -f {' '.join([*gone, *leftovers])}", _SYNC, f"rm -f {RECORD}"])


def _verify(folder: str) -> str:
    return f"cd -- {argument(folder)} && ./{RUNNER} verify"


def _run_verify(transport: Transport, folder: str) -> tuple[bool, str]:
    """Whether the runner there gets the expected outputs, and what it printed."""
    finished = transport.run(_verify(folder), _VERIFY_S)
    if finished.code not in (0, 1):
        raise DeployError(
            f"{transport.name}: everything is in {folder}, but {RUNNER} verify does not run there "
            f"(exit code {finished.code}: {last_line(finished.errors or finished.output)})",
            f"run it there by hand: cd {folder} && ./{RUNNER} verify",
        )
    return finished.code == 0, finished.output.strip()


def _expect_ok(finished: Finished, transport: Transport, folder: str) -> None:
    if finished.code == 0:
        return
    where = f"{transport.name}: {folder}"
    damaged = _marked(finished.output).get("damaged")
    if finished.code == _DAMAGED and damaged:
        raise DeployError(f"{where}/{damaged} does not have the hash of the file here", "deploy again")
    raise DeployError(
        f"{where} cannot be written ({last_line(finished.errors or finished.output)})",
        "name another folder: USER@HOST:PATH",
    )


def argument(path: str) -> str:
    """A path for a script; never an option."""
    return shlex.quote(path if path.startswith("/") else f"./{path}")


def _marked(output: str) -> dict[str, str]:
    """The ``tsm-NAME=VALUE`` lines of a script's output."""
    lines = [line.strip().removeprefix("tsm-") for line in output.splitlines() if line.startswith("tsm-")]
    return {name: value.strip() for name, _, value in (line.partition("=") for line in lines)}
