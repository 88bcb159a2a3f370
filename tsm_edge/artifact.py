"""A compiled artifact on disk: ``model.so``, ``manifest.json``, ``labels.txt`` and their like in one directory."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import ArtifactError
from tsm_edge.files import scratch_folder
from tsm_edge.machine import architecture, cpu_flags, missing_features, this_architecture
from tsm_edge.manifest import Manifest, parse_manifest
from tsm_edge.paths import native_path
from tsm_edge.runtime import abi_version

LIBRARY = "model.so"
MANIFEST = "manifest.json"
LABELS = "labels.txt"
MODEL_ONNX = "model.onnx"
RUNNER = "tsm-runner"
GOLDEN = "golden.bin"
HEADER_FILE = "tsm_edge.h"
OUTPUT_FOLDER = Path("out")


@dataclass(frozen=True)
class Artifact:
    """A checked artifact directory.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    """

    path: Path
    manifest: Manifest

    @property
    def library(self) -> Path:
        """The shared library."""
        return self.path / LIBRARY


def load_artifact(path: str | Path) -> Artifact:
    """Read and check an artifact directory: manifest, file hashes, label count.

    Raises
    ------
    ArtifactError
        A file is missing, damaged or does not belong to the manifest.
    """
    folder = Path(path)
    make = "make one with: tsm-edge compile -o DIR"
    if folder.name == LIBRARY and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such directory, expected a compiled artifact", make)
    manifest_file = folder / MANIFEST
    try:
        manifest = parse_manifest(manifest_file.read_text("utf-8"), manifest_file)
    except OSError:
        raise ArtifactError(f"{folder}: has no {MANIFEST}, expected a compiled artifact", make) from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{manifest_file}: not UTF-8 text", make) from None
    for name, expected in manifest.files.items():
        try:
            found = file_sha256(folder / name)
        except OSError:
            raise ArtifactError(f"{folder}: {name} is missing or unreadable", make) from None
        if found != expected:
            raise ArtifactError(f"{folder / name}: does not match its manifest (changed or half-copied)", make)
    if manifest.labels and len(manifest.labels) != manifest.classes:
        raise ArtifactError(
            f"{manifest_file}: {len(manifest.labels)} labels, expected {manifest.classes} (one a class)", make
        )
    return Artifact(folder, manifest)


def files_of_artifact(path: Path) -> list[Path]:
    """All files in an artifact's directory, which may be named by its library; none where there is no directory."""
    folder = path.parent if path.name == LIBRARY else path
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def latest_artifact(folder: Path = OUTPUT_FOLDER) -> Path:
    """The artifact written last directly below ``folder``.

    Raises
    ------
    ArtifactError
        There is none.
    """
    manifests = [path for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")]
    if not manifests:
        raise ArtifactError(f"no compiled artifact below ./{folder}", "make one with: tsm-edge compile")
    return max(manifests, key=lambda path: path.stat().st_mtime).parent


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_library(artifact: Artifact) -> ctypes.CDLL:
    """Load ``model.so`` into this process.

    Raises
    ------
    ArtifactError
        It was compiled for another architecture, needs CPU features this machine lacks, or has another ABI.
    """
    target = artifact.manifest.target
    here, wanted = this_architecture(), architecture(target.triple)
    hint = "compile for this machine with: tsm-edge compile --target native"
    if here != wanted:
        raise ArtifactError(f"{artifact.path}: compiled for {target.name} ({wanted}), this machine is {here}", hint)
    missing = missing_features(target, cpu_flags())
    if missing:
        raise ArtifactError(
            f"{artifact.path}: compiled for {target.name} ({target.cpu}), this CPU lacks {', '.join(missing)}", hint
        )
    try:
        library = _load(artifact)
        library.tsm_abi_version.restype = ctypes.c_int32
        version = library.tsm_abi_version()
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{artifact.library}: cannot be loaded ({error})", hint) from None
    if version != abi_version():
        raise ArtifactError(f"{artifact.library}: ABI version {version}, expected {abi_version()}", hint)
    return library


def _load(artifact: Artifact) -> ctypes.CDLL:
    path = artifact.library.resolve()
    library = ctypes.CDLL(native_path(path))
    library.tsm_manifest.restype = ctypes.c_char_p
    if library.tsm_manifest() == dataclasses.replace(artifact.manifest, files={}).to_json().encode("utf-8"):
        return library
    # The system's loader knows libraries by path: one loaded from here before it was compiled again hides the new one.
    with scratch_folder() as folder:
        link = folder / LIBRARY
        link.symlink_to(path)
        return ctypes.CDLL(str(link))
