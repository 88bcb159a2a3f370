"""A compiled artifact on disk: ``model.so``, ``manifest.json``, ``labels.txt`` and their like in one directory."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import mmap
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.manifest import Manifest, embedded_forms, parse_manifest
from tsm_edge.cards.architecture import misfit_here
from tsm_edge.errors import ArtifactError, shortened
from tsm_edge.files.atomic import file_sha256, scratch_folder
from tsm_edge.files.paths import native_path
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.runtime import abi_version

LIBRARY = "model.so"
MANIFEST = "manifest.json"
LABELS = "labels.txt"
MODEL_ONNX = "model.onnx"
RUNNER = "tsm-runner"
GOLDEN = "golden.bin"
EXACT_ONNX = "model.exact.onnx"
QUANTISATION = "quantisation.json"
HEADER_FILE = "tsm_edge.h"
OUTPUT_FOLDER = Path("out")
# What a manifest lists besides itself. The reference model is known by the hash of what was compiled.
_ALWAYS = (LIBRARY, HEADER_FILE)
_SOMETIMES = (LABELS, RUNNER, GOLDEN, EXACT_ONNX, QUANTISATION)
_LARGEST_MANIFEST = 16 << 20  # bytes
_MAKE = "make one with: tsm-edge compile -o DIR"
_AGAIN = "compile it again with: tsm-edge compile"


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

    @property
    def reference(self) -> Path:
        """The ONNX file that it is compared with: of the same integers, where it computes in integers."""
        return self.path / (EXACT_ONNX if self.manifest.exact else MODEL_ONNX)

    @property
    def runner(self) -> Path | None:
        """``tsm-runner``, where the manifest lists one: a program of that name that it does not list is not ours."""
        return self.path / RUNNER if RUNNER in self.manifest.files else None


@again_if_replaced
def load_artifact(path: str | Path) -> Artifact:
    """Read and check an artifact directory.

    The manifest is what ``model.so`` has inside, every file is there that has to be, and every file is the one listed.

    Raises
    ------
    ArtifactError
        A file is missing, damaged or does not belong to the manifest.
    """
    folder = Path(path)
    if folder.name == LIBRARY and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such directory, expected a compiled artifact", _MAKE)
    manifest_file = folder / MANIFEST
    text = _read_manifest(manifest_file)
    manifest = parse_manifest(text, manifest_file)
    _check_listing(manifest, manifest_file)
    for name, expected in manifest.files.items():
        try:
            found = file_sha256(folder / name)
        except OSError:
            raise ArtifactError(f"{folder}: {name} is missing or unreadable", _MAKE) from None
        if found != expected:
            raise ArtifactError(f"{folder / name}: does not match its manifest (changed or half-copied)", _MAKE)
    if not has_inside(folder / LIBRARY, embedded_forms(text, manifest_file)):
        raise ArtifactError(
            f"{manifest_file}: not the manifest that {LIBRARY} has inside (changed, or of another model)", _AGAIN
        )
    if manifest.labels and len(manifest.labels) != manifest.classes:
        raise ArtifactError(
            f"{manifest_file}: {len(manifest.labels)} labels, expected {manifest.classes} (one a class)", _MAKE
        )
    return Artifact(folder, manifest)


def read_listed(artifact: Artifact, name: str) -> bytes:
    """The content of one of an artifact's files, as its manifest lists it, or of the manifest.

    Raises
    ------
    ArtifactError
        It is not what it was when the artifact was loaded.
    """
    path = artifact.path / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", f"look with: ls -l {artifact.path}") from None
    if name == MANIFEST:
        same = parse_manifest(content.decode("utf-8", "replace"), path) == artifact.manifest
    else:
        same = hashlib.sha256(content).hexdigest() == artifact.manifest.files.get(name)
    if not same:
        raise ArtifactError(f"{path}: was replaced since the artifact was loaded", "run it again")
    return content


def files_of_artifact(path: Path) -> list[Path]:
    """All files in an artifact's directory, which may be named by its library; none where there is no directory."""
    folder = path.parent if path.name == LIBRARY else path
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _read_manifest(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ArtifactError(f"{path}: not a readable manifest (more than {_LARGEST_MANIFEST >> 20} MiB)", _AGAIN)
        return path.read_text("utf-8")
    except OSError:
        raise ArtifactError(f"{path.parent}: has no {path.name}, expected a compiled artifact", _MAKE) from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: not UTF-8 text", _MAKE) from None


def _check_listing(manifest: Manifest, where: Path) -> None:
    """All files that an artifact has are listed, and none else, wherever a name may point."""
    required = (*_ALWAYS, *((LABELS,) if manifest.labels else ()))
    missing = [name for name in required if name not in manifest.files]
    if missing:
        raise ArtifactError(f"{where}: does not list {', '.join(missing)}", _AGAIN)
    strange = [name for name in manifest.files if name not in (*_ALWAYS, *_SOMETIMES)]
    if strange:
        raise ArtifactError(
            f"{where}: lists {shortened(strange[0])!r}, expected only {', '.join((*_ALWAYS, *_SOMETIMES))}", _AGAIN
        )


def has_inside(library: Path, texts: Sequence[bytes]) -> bool:
    """Whether the file has one of the texts, as C has it: ended by a zero."""
    with library.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(text + b"\0") >= 0 for text in texts)


def latest_artifact(folder: Path = OUTPUT_FOLDER) -> Path:
    """The artifact written last directly below ``folder``.

    Raises
    ------
    ArtifactError
        There is none.
    """
    written = {}
    for path in folder.glob(f"*/{MANIFEST}"):
        if not path.parent.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                written[path.parent] = path.stat().st_mtime
    if not written:
        raise ArtifactError(f"no compiled artifact below ./{folder}", "make one with: tsm-edge compile")
    return max(written, key=lambda path: written[path])


def open_library(artifact: Artifact) -> ctypes.CDLL:
    """Load ``model.so`` into this process.

    Raises
    ------
    ArtifactError
        It was compiled for another architecture, needs CPU features this machine lacks, or has another ABI.
    """
    hint = "compile for this machine with: tsm-edge compile --target native"
    # Whether the C library is of the right kind the loader knows best: musl takes some libraries for glibc.
    if why := misfit_here(artifact.manifest.target):
        emulate = f", or check it here under QEMU: tsm-edge verify {shlex.quote(str(artifact.path))} --emulate"
        raise ArtifactError(f"{artifact.path}: {why}", hint + (emulate if artifact.runner else ""))
    try:
        library = _load(artifact)
        library.tsm_abi_version.restype = ctypes.c_int32
        version = library.tsm_abi_version()
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{artifact.library}: cannot be loaded ({error})", hint) from None
    if version != abi_version():
        raise ArtifactError(f"{artifact.library}: ABI version {version}, expected {abi_version()}", hint)
    if not _is_described(library, artifact):
        raise ArtifactError(f"{artifact.library}: has another manifest inside than {MANIFEST} beside it", _AGAIN)
    return library


def _load(artifact: Artifact) -> ctypes.CDLL:
    path = artifact.library.resolve()
    library = ctypes.CDLL(native_path(path))
    if _is_described(library, artifact):
        return library
    # The system's loader knows libraries by path: one loaded from here before it was compiled again hides the new one.
    with scratch_folder() as folder:
        link = folder / LIBRARY
        link.symlink_to(path)
        return ctypes.CDLL(str(link))


def _is_described(library: ctypes.CDLL, artifact: Artifact) -> bool:
    """Whether a loaded library is the one that the artifact's manifest describes, by what it says itself."""
    library.tsm_manifest.restype = ctypes.c_char_p
    try:
        inside = parse_manifest((library.tsm_manifest() or b"").decode("utf-8"), artifact.library)
    except (ArtifactError, UnicodeDecodeError):
        return False
    return inside in (artifact.manifest.embedded(), dataclasses.replace(artifact.manifest, files={}))
