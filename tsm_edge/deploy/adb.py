"""An Android device reached with ``adb``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsm_edge.deploy.files import DeployFile
from tsm_edge.deploy.transport import MOST_OUTPUT, Finished, find_program, last_line, run_program
from tsm_edge.errors import DeployError

# The one place where the shell user may both write and execute.
_FOLDER = "/data/local/tmp/tsm-edge"
_CHECK_S = 20.0
_INSTALL = "install Android's platform tools, for example with: apt-get install adb"
_SERIAL = "ANDROID_SERIAL"
# With these adb asks a server elsewhere which devices there are.
_SERVER = ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_PORT")
_UDEV = (
    "let your user in with udev rules, then plug it in again: "
    "apt-get install android-sdk-platform-tools-common && adb kill-server"
)


@dataclass(frozen=True)
class AdbDestination:
    """An Android device.

    Attributes
    ----------
    serial : str
        As ``adb -s`` takes it; empty: the only one there is.
    named_by : str
        What named it, for messages.
    """

    serial: str = ""
    named_by: str = "--adb"


def adb_destination(serial: str, environment: Mapping[str, str] = os.environ) -> AdbDestination:
    """The device with this serial; without one that of ``ANDROID_SERIAL``, as adb itself decides."""
    if serial or not environment.get(_SERIAL):
        return AdbDestination(serial)
    return AdbDestination(environment[_SERIAL], _SERIAL)


class AdbTransport:
    """See :class:`tsm_edge.deploy.transport.Transport`.

    Parameters
    ----------
    destination : AdbDestination
    """

    def __init__(self, destination: AdbDestination) -> None:
        self._serial = destination.serial
        self._named_by = destination.named_by

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
            raise DeployError(f"adb devices failed ({last_line(listed.errors)})", _server_hint(os.environ))
        devices = _devices(listed.output)
        self._serial = self._found(devices) if self._serial else _only(devices)
        state = devices[self._serial]
        if state != "device":
            raise _not_ready(self.name, state)

    def run(self, script: str, limit_s: float, most_output: int = MOST_OUTPUT) -> Finished:
        """``adb shell SCRIPT``."""
        finished = run_program(self._shell(script), limit_s, self.name, most_output=most_output)
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

    def _found(self, devices: Mapping[str, str]) -> str:
        """The serial of the device asked for: adb also knows devices by address, model or port."""
        if self._serial in devices:
            return self._serial
        asked = run_program([*self._adb(), "get-serialno"], _CHECK_S, "adb")
        if asked.code == 0 and asked.output.strip() in devices:
            return asked.output.strip()
        raise DeployError(
            f"no Android device {self._serial!r} ({self._named_by}), adb has: {_known(devices)}",
            "look with: adb devices -l, then choose one with: --adb SERIAL",
        )

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


def _known(devices: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({state})" for name, state in devices.items()) or "none"


def _only(devices: Mapping[str, str]) -> str:
    if not devices:
        raise DeployError(
            "adb has no Android device", "plug one in, and turn on USB debugging in its developer options"
        )
    if len(devices) > 1:
        raise DeployError(f"adb has {len(devices)} devices: {_known(devices)}", "choose one with: --adb SERIAL")
    return next(iter(devices))


def _not_ready(name: str, state: str) -> DeployError:
    if state == "unauthorized":
        return DeployError(
            f"{name} does not trust this machine", "unlock it and accept its question, then deploy again"
        )
    if state.startswith("no permissions"):
        return DeployError(f"{name}: your user may not open its USB device (adb: no permissions)", _UDEV)
    if state in ("recovery", "rescue", "sideload", "bootloader"):
        return DeployError(f"{name} is in {state} mode, expected Android to run", "start it with: adb reboot")
    return DeployError(f"{name} is not ready ({state})", "plug it in again, or try: adb reconnect")


def _server_hint(environment: Mapping[str, str]) -> str:
    given = [f"{name}={environment[name]}" for name in _SERVER if environment.get(name)]
    return f"check that the server is there: {', '.join(given)}" if given else "try: adb kill-server"
