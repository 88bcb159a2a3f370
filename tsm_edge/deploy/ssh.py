"""A device reached with the user's own ``ssh``: keys, agent, known hosts and ``~/.ssh/config`` apply.

Files go through ``ssh HOST tar``: one connection for all of them, and the device needs no sftp and no scp.
"""

from __future__ import annotations

import shlex
import tarfile
import tempfile
from collections.abc import Sequence

from tsm_edge.deploy.destination import SshDestination
from tsm_edge.deploy.files import DeployFile
from tsm_edge.deploy.transport import MOST_OUTPUT, Finished, find_program, last_line, run_program
from tsm_edge.errors import DeployError

_CONNECT_S = 10
_SSH_FAILED = 255  # ssh's own exit code; a command's code otherwise


class SshTransport:
    """See :class:`tsm_edge.deploy.transport.Transport`.

    Parameters
    ----------
    destination : SshDestination
    """

    def __init__(self, destination: SshDestination) -> None:
        self._destination = destination

    @property
    def name(self) -> str:
        """``user@host``, and the port where one was given."""
        port = self._destination.port
        return self._destination.host if port is None else f"{self._destination.host}, port {port}"

    def folder(self, name: str) -> str:
        """The destination's path, or one below the home folder."""
        return self._destination.path or f"tsm-edge/{name}"

    def check(self) -> None:
        """Is ``ssh`` here?"""
        find_program("ssh", "install it, for example with: apt-get install openssh-client")

    def run(self, script: str, limit_s: float, most_output: int = MOST_OUTPUT) -> Finished:
        """``ssh HOST "sh -c 'SCRIPT'"``."""
        return self._checked(run_program(self._command(script), limit_s, self.name, most_output=most_output))

    def put(self, files: Sequence[DeployFile], folder: str, limit_s: float) -> Finished:
        """``ssh HOST 'cd FOLDER && tar -xof -' < ARCHIVE``."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT, dereference=True) as writer:
                for file in files:
                    writer.add(file.path, file.part)
            archive.seek(0)
            return self._checked(run_program(self._command(_unpack(folder)), limit_s, self.name, stdin=archive))

    def shown_run(self, script: str) -> str:
        """As typed."""
        return shlex.join(self._command(script))

    def shown_put(self, files: Sequence[DeployFile], folder: str) -> list[str]:
        """As typed (with GNU tar)."""
        local = shlex.quote(str(files[0].path.parent)) if files else "."
        renames = " ".join(shlex.quote(f"--transform=s,^{file.name}$,{file.part},") for file in files)
        names = " ".join(shlex.quote(file.name) for file in files)
        return [f"tar -C {local} -cf - {renames} {names} | {shlex.join(self._command(_unpack(folder)))}"]

    def _command(self, script: str) -> list[str]:
        config = ["-F", str(self._destination.config)] if self._destination.config is not None else []
        options = {
            "BatchMode": "yes",  # never ask for a password: fail instead
            "ConnectTimeout": str(_CONNECT_S),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "LogLevel": "ERROR",
            "RemoteCommand": "none",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        # The login shell may be any (fish, csh): it only has to start sh.
        host = self._destination.host
        return ["ssh", *config, *self._port(), *flags, "-T", "--", host, f"sh -c {shlex.quote(script)}"]

    def _port(self) -> list[str]:
        return [] if self._destination.port is None else ["-p", str(self._destination.port)]

    def _checked(self, finished: Finished) -> Finished:
        if finished.code == _SSH_FAILED:
            raise _failure(self._destination, self.name, finished.errors)
        return finished


def _unpack(folder: str) -> str:
    # -o: the files are the user's who unpacks them, also for root.
    return f"cd -- {shlex.quote(folder)} && tar -xof -"


def _failure(destination: SshDestination, host: str, errors: str) -> DeployError:
    """ssh's own words, and what to do about them; ``host``: its name for messages."""
    words, known = destination.host, destination.host.rpartition("@")[2]
    if destination.port is not None:
        words, known = f"-p {destination.port} {words}", shlex.quote(f"[{known}]:{destination.port}")
    say = last_line(errors).removeprefix("ssh: ")
    if "Could not resolve hostname" in errors:
        return DeployError(f"{host}: the host name is unknown", "check it, or use the number")
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in errors:
        return DeployError(
            f"{host}: its host key is not the one known here: another machine, or a new system on it",
            f"if that is right, forget the old key with: ssh-keygen -R {known}",
        )
    if "Host key verification failed" in errors:
        return DeployError(
            f"{host}: its host key is not known here", f"look at it and accept it once with: ssh {words}"
        )
    if "Permission denied" in errors or "Too many authentication failures" in errors:
        return DeployError(
            f"{host}: permission denied: no key of yours is accepted, and passwords are not asked for",
            f"put a key there with: ssh-copy-id {words}",
        )
    unreachable = ("Connection refused", "No route to host", "timed out", "Network is unreachable", "not responding")
    if any(reason in errors for reason in unreachable):
        return DeployError(f"{host} cannot be reached ({say})", "check that it is on, its address, and that sshd runs")
    return DeployError(f"{host}: ssh failed ({say})", f"try: ssh {words}")
