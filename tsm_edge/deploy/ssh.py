"""A device reached with the user's own ``ssh``: keys, agent, known hosts and ``~/.ssh/config`` apply.

Files go through ``ssh HOST tar``: one connection for all of them, and the device needs no sftp and no scp.
"""

from __future__ import annotations

import shlex
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.deploy.files import DeployFile
from tsm_edge.deploy.transport import Finished, find_program, last_line, run_program
from tsm_edge.errors import DeployError

_CONNECT_S = 10
_SSH_FAILED = 255  # ssh's own exit code; a command's code otherwise


@dataclass(frozen=True)
class SshDestination:
    """Where a model goes.

    Attributes
    ----------
    host : str
        ``user@host``, ``host``, or a name from the ssh configuration.
    path : str
        A folder there; relative: below the home folder; empty: ``tsm-edge/NAME``.
    config : Path or None
        Another configuration file (``ssh -F``).
    """

    host: str
    path: str = ""
    config: Path | None = None


def parse_destination(text: str, config: Path | None = None) -> SshDestination:
    """Read ``[user@]host[:path]``; an IPv6 number in brackets.

    Raises
    ------
    DeployError
        It is not that.
    """
    host, path = text, ""
    user, _, rest = text.rpartition("@")
    if rest.startswith("["):
        number, bracket, path = rest[1:].partition("]")
        if not bracket or (path and not path.startswith(":")):
            number = ""
        host, path = (f"{user}@{number}" if user else number) if number else "", path[1:]
    elif ":" in text:
        host, _, path = text.partition(":")
    # A host that begins with a dash would be an option of ssh.
    bad = not host or host.startswith(("-", "@")) or host.endswith("@")
    if bad or any(character == "/" or character.isspace() for character in host) or not text.isprintable():
        raise DeployError(
            f"{text!r} is not a destination, expected [USER@]HOST[:PATH]", "for example: tsm-edge deploy pi@raspberrypi"
        )
    if path.startswith("~/"):
        path = path[2:]
    elif path.startswith("~"):
        raise DeployError(f"{path!r}: another user's home folder is not known here", "give the whole path")
    return SshDestination(host, path, config)


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
        """``user@host``."""
        return self._destination.host

    def folder(self, name: str) -> str:
        """The destination's path, or one below the home folder."""
        return self._destination.path or f"tsm-edge/{name}"

    def check(self) -> None:
        """Is ``ssh`` here?"""
        find_program("ssh", "install it, for example with: apt-get install openssh-client")

    def run(self, script: str, limit_s: float) -> Finished:
        """``ssh HOST "sh -c 'SCRIPT'"``."""
        return self._checked(run_program(self._command(script), limit_s, self.name))

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
        return ["ssh", *config, *flags, "-T", "--", self.name, f"sh -c {shlex.quote(script)}"]

    def _checked(self, finished: Finished) -> Finished:
        if finished.code == _SSH_FAILED:
            raise _failure(self.name, finished.errors)
        return finished


def _unpack(folder: str) -> str:
    # -o: the files are the user's who unpacks them, also for root.
    return f"cd -- {shlex.quote(folder)} && tar -xof -"


def _failure(host: str, errors: str) -> DeployError:
    """ssh's own words, and what to do about them."""
    say = last_line(errors).removeprefix("ssh: ")
    if "Could not resolve hostname" in errors:
        return DeployError(f"{host}: the host name is unknown", "check it, or use the number")
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in errors:
        return DeployError(
            f"{host}: its host key is not the one known here: another machine, or a new system on it",
            "if that is right, forget the old key with: ssh-keygen -R HOST",
        )
    if "Host key verification failed" in errors:
        return DeployError(f"{host}: its host key is not known here", f"look at it and accept it once with: ssh {host}")
    if "Permission denied" in errors or "Too many authentication failures" in errors:
        return DeployError(
            f"{host}: permission denied: no key of yours is accepted, and passwords are not asked for",
            f"put a key there with: ssh-copy-id {host}",
        )
    unreachable = ("Connection refused", "No route to host", "timed out", "Network is unreachable", "not responding")
    if any(words in errors for words in unreachable):
        return DeployError(f"{host} cannot be reached ({say})", "check that it is on, its address, and that sshd runs")
    return DeployError(f"{host}: ssh failed ({say})", f"try: ssh {host}")
