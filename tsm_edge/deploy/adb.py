"""An Android device reached with ``adb``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.deploy.files import DeployFile
from tsm_edge.deploy.transport import Finished, find_program, last_line, run_program
from tsm_edge.errors import DeployError

# The one place where the shell user may both write and execute.
_FOLDER = "/data/local/tmp/tsm-edge"
_CHECK_S = 20.0
_INSTALL = "install Android's platform tools, for example with: apt-get install adb"


@dataclass(frozen=True)
class AdbDestination:
    """An Android device.

    Attributes
    ----------
    serial : str
        As ``adb devices`` prints it; empty: the only one there is.
    """

    serial: str = ""


class AdbTransport:
    """See :class:`tsm_edge.deploy.transport.Transport`.

    Parameters
    ----------
    destination : AdbDestination
    """

    def __init__(self, destination: AdbDestination) -> None:
        self._serial = destination.serial

    @property
    def name(self) -> str:
        """The serial, once it is known."""
        return f"Android device {self._serial}".rstrip()

    def folder(self, name: str) -> str:
        """Below ``/data/local/tmp``."""
        return f"{_FOLDER}/{name}"

    def check(self) -> None:
        """Is ``adb`` here, and one device, and does it let us in?"""
        find_program("adb", _INSTALL)
        listed = run_program(["adb", "devices"], _CHECK_S, "adb")
        if listed.code:
            raise DeployError(f"adb devices failed ({last_line(listed.errors)})", "try: adb kill-server")
        devices = _devices(listed.output)
        self._serial = _choose(devices, self._serial)
        state = devices[self._serial]
        if state == "unauthorized":
            raise DeployError(
                f"{self.name} does not trust this machine", "unlock it and accept its question, then deploy again"
            )
        if state != "device":
            raise DeployError(f"{self.name} is not ready ({state})", "plug it in again, or try: adb reconnect")

    def run(self, script: str, limit_s: float) -> Finished:
        """``adb shell SCRIPT``."""
        finished = run_program(self._shell(script), limit_s, self.name)
        # Up to Android 6 adb does not hand on the exit code, so the script prints it.
        body, mark, code = finished.output.replace("\r\n", "\n").rpartition("tsm-exit=")
        if not mark or not code.strip().isdigit():
            raise DeployError(f"{self.name}: adb shell failed ({last_line(finished.errors)})", "try: adb devices")
        return Finished(int(code), body, finished.errors)

    def put(self, files: Sequence[DeployFile], folder: str, limit_s: float) -> Finished:
        """``adb push`` of one file after the other, up to the first that fails."""
        finished = Finished(0, "", "")
        for file in files:
            finished = run_program(self._push(file, folder), limit_s, self.name)
            if re.search(r"device .*not found|device offline|no devices", finished.errors):
                raise DeployError(
                    f"{self.name} is gone ({last_line(finished.errors)})", "plug it in, then deploy again"
                )
            if finished.code:
                break
        return finished

    def shown_run(self, script: str) -> str:
        """As typed."""
        return shlex.join(self._shell(script))

    def shown_put(self, files: Sequence[DeployFile], folder: str) -> list[str]:
        """As typed."""
        return [shlex.join(self._push(file, folder)) for file in files]

    def _shell(self, script: str) -> list[str]:
        return [*self._adb(), "shell", f"( {script} ); echo tsm-exit=$?"]

    def _push(self, file: DeployFile, folder: str) -> list[str]:
        return [*self._adb(), "push", str(file.path.resolve()), f"{folder}/{file.part}"]

    def _adb(self) -> list[str]:
        return ["adb", *(["-s", self._serial] if self._serial else [])]


def _devices(text: str) -> dict[str, str]:
    """Serial → state, of ``adb devices``."""
    pairs = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
    return {serial.strip(): state.strip() for serial, state in pairs}


def _choose(devices: dict[str, str], serial: str) -> str:
    known = ", ".join(f"{name} ({state})" for name, state in devices.items())
    if serial:
        if serial not in devices:
            raise DeployError(f"no Android device {serial!r}, adb has: {known or 'none'}", "look with: adb devices")
        return serial
    if not devices:
        raise DeployError(
            "adb has no Android device", "plug one in, and turn on USB debugging in its developer options"
        )
    if len(devices) > 1:
        raise DeployError(f"adb has {len(devices)} devices: {known}", "choose one with: --adb SERIAL")
    return next(iter(devices))
