"""The folders that a compilation writes: what in them is its own, and the check of an artifact before it counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, MANIFEST, MODEL_ONNX, has_inside, load_artifact, open_library
from tsm_edge.artifact.manifest import embedded_forms
from tsm_edge.cards.architecture import runs_here
from tsm_edge.errors import ArtifactError, CompileError
from tsm_edge.files.atomic import file_sha256
from tsm_edge.files.folders import FolderKind, check_folder, writing_folder

SUMS = "SHA256SUMS"
_ELSEWHERE = "choose another folder with: -o DIR"


def artifact_listing(folder: Path) -> Mapping[str, str]:
    """Names and SHA-256 of what tsm-edge wrote into an artifact of any version, by its manifest.

    Files that nobody writes by hand may have any content: if it is another, they are damaged, and compiling again is
    what mends them. A manifest that is not the one inside a whole library was edited.

    Raises
    ------
    OSError, ValueError
        There is no manifest, or it is not tsm-edge's.
    """
    text = (folder / MANIFEST).read_text("utf-8")
    table = json.loads(text)
    try:
        ours = isinstance(table["format"], int) and isinstance(table["versions"]["tsm_edge"], str)
        files, onnx = table["files"], table["hashes"]["onnx"]
    except (KeyError, TypeError):
        ours, files, onnx = False, {}, ""
    if not ours or not isinstance(files, dict):
        raise ValueError(f"{folder / MANIFEST} is not tsm-edge's")
    listed = {name: str(digest) for name, digest in files.items() if re.fullmatch("[0-9a-f]{64}", str(digest))}
    hashes = {MODEL_ONNX: str(onnx), **listed}
    whole = (folder / LIBRARY).is_file() and listed.get(LIBRARY) == file_sha256(folder / LIBRARY)
    edited = whole and not has_inside(folder / LIBRARY, embedded_forms(text, folder / MANIFEST))
    return {**hashes, **dict.fromkeys((LIBRARY, GOLDEN), ""), MANIFEST: "edited" if edited else ""}


def _sums_listing(folder: Path) -> Mapping[str, str]:
    lines = (folder / SUMS).read_text("utf-8").splitlines()
    matches = [re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line) for line in lines]
    if not all(matches):
        raise ValueError(f"{folder / SUMS} is not tsm-edge's")
    return {**{match[2]: match[1] for match in matches if match}, SUMS: ""}


_ARTIFACT = FolderKind("a compiled artifact", artifact_listing, _ELSEWHERE)
_INTERMEDIATES = FolderKind("the intermediates of a compilation", _sums_listing, _ELSEWHERE)


def check_artifact_place(path: Path) -> None:
    """Refuse early what :func:`writing_artifact` would refuse.

    Raises
    ------
    ArtifactError
        ``path`` is not an artifact with nothing else in it.
    """
    check_folder(path, _ARTIFACT)


@contextmanager
def writing_artifact(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that replaces ``path`` when the block ends without an error.

    Raises
    ------
    ArtifactError
        ``path`` is not an artifact with nothing else in it, is being written, or cannot be written.
    """
    with writing_folder(path, _ARTIFACT) as folder:
        yield folder


@contextmanager
def writing_intermediates(path: Path) -> Iterator[Path]:
    """As :func:`writing_artifact`, for the results of the stages; ``SHA256SUMS`` lists them.

    Raises
    ------
    ArtifactError
        As there.
    """
    with writing_folder(path, _INTERMEDIATES) as folder:
        yield folder
        sums = "".join(f"{file_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir()))
        (folder / SUMS).write_text(sums, "utf-8")


def check_loads(folder: Path, output: Path) -> None:
    """Load a new artifact before it takes the place of another; its library too, where it is for this machine.

    Parameters
    ----------
    folder : Path
        Where it is.
    output : Path
        Where it is to go: named in messages.

    Raises
    ------
    CompileError
        It cannot be loaded.
    """
    try:
        artifact = load_artifact(folder)
        if runs_here(artifact.manifest.target):
            open_library(artifact)
    except ArtifactError as error:
        problem = error.problem.replace(str(folder), str(output))
        raise CompileError(
            f"the new artifact cannot be loaded, and what was there before stays: {problem}",
            "check for room on the disk with: df; then compile again",
        ) from None
