"""Which files of an artifact go to a device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.folder import GOLDEN, HEADER_FILE, LABELS, LIBRARY, MANIFEST, RUNNER, Artifact, read_listed

# All that may be on a device. model.onnx stays here: it is the reference of `tsm-edge verify`, which runs here.
NAMES = (LIBRARY, RUNNER, GOLDEN, LABELS, HEADER_FILE, MANIFEST)


@dataclass(frozen=True)
class DeployFile:
    """A file to copy.

    Attributes
    ----------
    name : str
        Its name on the device.
    path : Path
        Here.
    size : int
        Bytes.
    sha256 : str
        Hexadecimal.
    """

    name: str
    path: Path
    size: int
    sha256: str

    @property
    def mode(self) -> int:
        """Its permissions on the device."""
        return 0o755 if self.name in (LIBRARY, RUNNER) else 0o644

    @property
    def part(self) -> str:
        """Its name on the device until all files are there; the same file has the same one, so that it is found."""
        return f".{self.name}.{self.sha256[:12]}.part"


def deployed_paths(artifact: Artifact) -> tuple[Path, ...]:
    """What goes to a device: the files that the manifest lists, and the manifest; the model only once.

    A static ``tsm-runner`` has it inside: ``model.so`` then stays here, for programs that are built with it.
    """
    manifest = artifact.manifest
    stay = (LIBRARY, HEADER_FILE) if artifact.runner is not None and manifest.target.static_runner else ()
    names = [name for name in NAMES if name == MANIFEST or name in manifest.files]
    return tuple(artifact.path / name for name in names if name not in stay)


def files_of(artifact: Artifact) -> tuple[DeployFile, ...]:
    """The files of an artifact that go to a device, as they are now.

    Raises
    ------
    ArtifactError
        They were replaced since the artifact was loaded.
    """
    return tuple(_deploy_file(artifact, path) for path in deployed_paths(artifact))


def _deploy_file(artifact: Artifact, path: Path) -> DeployFile:
    content = read_listed(artifact, path.name)
    return DeployFile(path.name, path, len(content), hashlib.sha256(content).hexdigest())
