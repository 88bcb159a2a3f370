"""Puts a unit where systemd looks, and takes it away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tsm_edge.errors import ServiceError
from tsm_edge.files.atomic import NewFile
from tsm_edge.service.unit import MARK, Unit

FOLDER = Path("/etc/systemd/system")
_RUN_S = 60.0

Systemctl = Callable[[Sequence[str]], None]


def systemctl(arguments: Sequence[str]) -> None:
    """Run systemctl.

    Raises
    ------
    ServiceError
        It is not there, fails, or has not ended after a minute.
    """
    program = shutil.which("systemctl")
    if program is None:
        raise ServiceError("there is no systemctl here", "see the unit, for another service manager: --dry-run")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_RUN_S, check=False)
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"systemctl {' '.join(arguments)}: has not ended after {_RUN_S:.0f} s", "see: journalctl -b -n 50"
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServiceError(f"systemctl {' '.join(arguments)}: {reason}", "is systemd running this system?")


def install(unit: Unit, folder: Path = FOLDER, control: Systemctl = systemctl) -> Path:
    """Write a unit, and start it now and at each start of the system.

    Raises
    ------
    ServiceError
        This user may not, another unit has the name, or systemd refuses. A unit that is new is then taken back.
    """
    path = folder / unit.file_name
    _check_ours(path)
    is_new = not path.exists()
    try:
        with NewFile(path) as file:
            file.temporary.chmod(0o600)  # a camera's address may have a password in it
            file.temporary.write_bytes(unit.text().encode())
    except OSError as error:
        raise _not_allowed(path, error) from None
    try:
        control(["daemon-reload"])
        control(["enable", unit.file_name])
    except ServiceError:
        if is_new:
            path.unlink()
        raise
    try:
        control(["restart", unit.file_name])
    except ServiceError as error:
        raise ServiceError(
            f"{path} is written, but the run has not started: {error.problem}",
            f"it is tried again every few seconds; see why: journalctl -u {unit.file_name} -n 20",
        ) from None
    return path


def remove(name: str, folder: Path = FOLDER, control: Systemctl = systemctl) -> Path:
    """Stop a service and remove its unit; what it has written stays.

    Raises
    ------
    ServiceError
        There is none, it is not tsm-edge's, or this user may not.
    """
    path = folder / Unit(name, ()).file_name
    if not path.exists():
        known = sorted(found.stem.removeprefix("tsm-edge-") for found in folder.glob("tsm-edge-*.service"))
        raise ServiceError(
            f"service {name}: there is no {path}", f"known are: {', '.join(known)}" if known else "none is installed"
        )
    _check_ours(path)
    if not os.access(folder, os.W_OK):
        raise _not_allowed(path, PermissionError(13, "Permission denied"))
    control(["disable", "--now", path.name])
    path.unlink()
    control(["daemon-reload"])
    return path


def _check_ours(path: Path) -> None:
    try:
        ours = path.read_text("utf-8", errors="replace").startswith(MARK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_allowed(path, error) from None
    if not ours:
        raise ServiceError(f"{path} was not written by tsm-edge", "choose another name with: --service-name NAME")


def _not_allowed(path: Path, error: OSError) -> ServiceError:
    return ServiceError(f"{path}: cannot be written ({error.strerror})", "be root: sudo tsm-edge service …")
