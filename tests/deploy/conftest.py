"""A real sshd on loopback, a stand-in for adb, and a model to deploy."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from artifacts import compile_onnx
from background import Background
from onnx_graphs import small_network

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import load_target

RUNNER_PASSES = '#!/bin/sh\n[ "$1" = verify ] && [ -f golden.bin ] && echo \'{"passed": true}\'\n'


@dataclass(frozen=True)
class Board:
    """A machine behind sshd: this one, with another home folder and programs of the tests' own before all others.

    Attributes
    ----------
    home : Path
        Where sessions begin.
    programs : Path
        First in ``PATH`` of sessions: what stands in for the device's programs.
    config : Path
        For ``ssh -F``; ``board`` is the board, over one connection for all tests, ``board-anew`` without that,
        ``board-by-number`` without the port.
    """

    home: Path
    programs: Path
    config: Path

    def add_program(self, name: str, script: str) -> None:
        """Put an executable sh script before the real program."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@dataclass(frozen=True)
class _Sshd:
    folder: Path
    config: Path


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Sshd]:
    """The server, with keys of its own; the test is skipped, with a warning, where sshd is not installed."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        message = "sshd is not installed: deploying over ssh is NOT tested (apt-get install openssh-server)"
        warnings.warn(message, stacklevel=1)
        pytest.skip("sshd is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "other-host", "user", "other-user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=30)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    # Sessions run in "home" with "programs" first in PATH; the tests put them there.
    entry = f'cd {folder}/home && PATH="{folder}/programs:$PATH" && export PATH && exec sh -c "$SSH_ORIGINAL_COMMAND"'
    (folder / "entry").write_text(f"#!/bin/sh\n{entry}\n")
    (folder / "entry").chmod(0o755)
    (folder / "sshd_config").write_text(
        textwrap.dedent(f"""\
            ListenAddress 127.0.0.1:{port}
            HostKey {folder}/host
            AuthorizedKeysFile {folder}/authorized
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            PermitRootLogin yes
            PidFile none
            ForceCommand {folder}/entry
            """)
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # an sshd of root insists on it
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "known-other").write_text(f"[127.0.0.1]:{port} {(folder / 'other-host.pub').read_text()}")
    (folder / "known-none").touch()
    hosts = {
        "board": ("user", "known"),
        "board-anew": ("user", "known"),
        "stranger": ("user", "known-none"),
        "changed": ("user", "known-other"),
        "locked": ("other-user", "known"),
    }
    common = f"HostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\nStrictHostKeyChecking yes\n"
    common += "IdentitiesOnly yes\nIdentityAgent none\nGlobalKnownHostsFile /dev/null\n"
    blocks = [
        f"Host {name}\nIdentityFile {folder / key}\nUserKnownHostsFile {folder / known}\n{common}"
        for name, (key, known) in hosts.items()
    ]
    # Its port is for the tests to give.
    by_number = common.replace(f"Port {port}\n", "")
    blocks.append(f"Host board-by-number\nIdentityFile {folder}/user\nUserKnownHostsFile {folder}/known\n{by_number}")
    blocks.append("Host off\nHostName 127.0.0.1\nPort 1\n")
    # A connection takes most of a second on a busy machine; the path of its socket must be short.
    sockets = tempfile.mkdtemp(prefix="tsm-")
    blocks.append(f"Host board\nControlMaster auto\nControlPath {sockets}/%C\nControlPersist 60\n")
    (folder / "config").write_text("\n".join(blocks))
    server = Background([program, "-D", "-e", "-f", str(folder / "sshd_config")], folder / "log", os.environ)
    server.wait_for("Server listening on")
    yield _Sshd(folder, folder / "config")
    subprocess.run(["ssh", "-F", str(folder / "config"), "-O", "exit", "board"], capture_output=True, timeout=30)
    server.kill()
    shutil.rmtree(sockets)


@pytest.fixture
def board(sshd: _Sshd, tmp_path: Path) -> Board:
    """A board with an empty home folder."""
    home, programs = tmp_path / "board-home", tmp_path / "board-programs"
    for path, link in ((home, sshd.folder / "home"), (programs, sshd.folder / "programs")):
        path.mkdir()
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return Board(home, programs, sshd.config)


@pytest.fixture
def model(artifact_with_runner: Artifact, tmp_path: Path) -> Path:
    """A compiled model with its runner, for this machine: a copy, to be changed."""
    return Path(shutil.copytree(artifact_with_runner.path, tmp_path / "gestures"))


@pytest.fixture(scope="session")
def for_32_bit_arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled model for a Raspberry Pi 3 with a 32-bit system; no runner."""
    folder = tmp_path_factory.mktemp("deploy-arm")
    return compile_onnx(small_network(), folder / "gestures", load_target("raspberry-pi-3-32bit")).path


@dataclass(frozen=True)
class Adb:
    """The stand-in: runs what adb would run on a device here, below ``root``.

    Attributes
    ----------
    root : Path
        Stands for ``/`` of the device.
    environment : dict
        In which ``adb`` is the stand-in.
    """

    root: Path
    environment: dict[str, str]

    @property
    def calls(self) -> list[str]:
        """The arguments of every call."""
        return (self.root / "calls").read_text().splitlines()

    def set_devices(self, *lines: str) -> None:
        """What ``adb devices`` lists: ``SERIAL<TAB>STATE``."""
        (self.root / "devices").write_text("".join(f"{line}\n" for line in lines))

    def add_program(self, name: str, script: str) -> None:
        """Put an executable sh script before the device's program."""
        path = self.root / "programs" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


_ADB = r"""#!/bin/sh
root=ROOT
echo "$*" | head -n 1 | cut -c 1-120 >> $root/calls
[ "$1" = -s ] && { serial=$2; shift 2; }
case "$1" in
devices)
  [ -f $root/refuses ] && { echo "error: cannot connect to daemon at $ADB_SERVER_SOCKET" >&2; exit 1; }
  echo "List of devices attached"
  cat $root/devices
  echo
  ;;
get-serialno)
  [ "$serial" = model:Pixel_8 ] || { echo "error: device '$serial' not found" >&2; exit 1; }
  echo emulator-5554
  ;;
shell)
  # The shell of a device, which reports exit codes as that of Android 6 and older does: not at all.
  script=$(printf '%s' "$2" | sed "s,/data/local/tmp,$root/data/local/tmp,g")
  (cd $root && PATH=$root/programs:$PATH sh -c "$script" | sed 's/$/\r/')
  exit 0
  ;;
push)
  cp "$2" "$root$3" && echo "$2: 1 file pushed"
  ;;
esac
"""


@pytest.fixture
def adb(tmp_path: Path, program_environment: dict[str, str]) -> Adb:
    """With one device, ``emulator-5554``."""
    root, bin_folder = tmp_path / "phone", tmp_path / "bin"
    for folder in (root / "data/local/tmp", root / "programs", bin_folder):
        folder.mkdir(parents=True)
    (bin_folder / "adb").write_text(_ADB.replace("ROOT", shlex.quote(str(root))))
    (bin_folder / "adb").chmod(0o755)
    known = {
        name: value
        for name, value in program_environment.items()
        if name not in ("ANDROID_SERIAL", "ADB_SERVER_SOCKET")
    }
    stand_in = Adb(root, {**known, "PATH": f"{bin_folder}:{os.environ['PATH']}"})
    stand_in.set_devices("emulator-5554\tdevice")
    return stand_in
