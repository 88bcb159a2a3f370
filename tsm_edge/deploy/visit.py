"""A model on a device for as long as something is done with it, and gone afterwards.

Where the same model is deployed already it is used as it lies there, and stays. Otherwise it goes to a folder of its
own beside, so that nothing of the user's is touched and two visitors do not meet.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.deploy.adb import AdbDestination
from tsm_edge.deploy.contents import RECORD, look_script, read_contents
from tsm_edge.deploy.deploy import DeployRequest, Progress, argument, deploy, folder_of, open_transport
from tsm_edge.deploy.destination import SshDestination
from tsm_edge.deploy.files import NAMES, files_of
from tsm_edge.deploy.transport import Transport
from tsm_edge.errors import DeployError

_COMMAND_S = 60.0


@dataclass(frozen=True)
class Visit:
    """A model that is on a device for now.

    Attributes
    ----------
    transport : Transport
    folder : str
        Where its files are there.
    copy_s : float or None
        How long copying took; None: it was there.
    """

    transport: Transport
    folder: str
    copy_s: float | None


@contextlib.contextmanager
def visiting(
    artifact: Path,
    destination: SshDestination | AdbDestination,
    progress: Progress = lambda text: None,
    notify: Callable[[str], None] = lambda text: None,
) -> Iterator[Visit]:
    """Have a model on a device; what was copied for it is removed again.

    Parameters
    ----------
    artifact : Path
    destination : SshDestination or AdbDestination
    progress : callable
        Is told what is being done.
    notify : callable
        Is told what could not be removed, and where it is.

    Raises
    ------
    ArtifactError
        The artifact is missing or damaged.
    DeployError
        See :func:`tsm_edge.deploy.deploy.deploy`.
    """
    loaded = load_artifact(artifact)
    transport = open_transport(destination)
    transport.check()
    progress(f"asking {transport.name} whether it has the model")
    folder = folder_of(transport, loaded)
    files = files_of(loaded)
    looked = transport.run(f"cd -- {argument(folder)} 2>/dev/null || exit 0; {look_script(files)}", _COMMAND_S)
    there = read_contents(looked.output, {}).hashes
    if all(there.get(file.name) == file.sha256 for file in files):
        yield Visit(transport, folder, None)
        return
    own = f"{folder}-{secrets.token_hex(4)}"
    try:
        done = deploy(DeployRequest(artifact, destination, verify=False, folder=own), progress)
        yield Visit(transport, own, done.seconds)
    finally:
        _remove(transport, own, notify)


def _remove(transport: Transport, folder: str, notify: Callable[[str], None]) -> None:
    """Remove what tsm-edge puts into a folder, and the folder; its parent, too, where that is ours and empty."""
    names = " ".join([*NAMES, RECORD, *(f".{name}.*.part" for name in NAMES)])
    script = f"cd -- {argument(folder)} 2>/dev/null || exit 0; rm -f {names}; cd ..; rmdir -- {argument(_name(folder))}"
    try:
        finished = transport.run(f"{script} && {{ rmdir ../tsm-edge 2>/dev/null; true; }}", _COMMAND_S)
    except DeployError as error:
        notify(f"{transport.name}: {folder} is left there ({error.problem})")
        return
    if finished.code:
        notify(f"{transport.name}: {folder} is left there ({finished.errors.strip()[-100:]})")


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]
