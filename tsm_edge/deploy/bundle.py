"""A compiled model as one file to carry to a device by hand: the same bytes for the same model."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.folder import (
    HEADER_FILE,
    LIBRARY,
    RUNNER,
    Artifact,
    files_of_artifact,
    load_artifact,
    read_listed,
)
from tsm_edge.deploy.files import DeployFile, files_of
from tsm_edge.errors import DeployError
from tsm_edge.files.atomic import check_writable, write_atomic
from tsm_edge.files.paths import native_path, refuse_replacing
from tsm_edge.files.replacement import again_if_replaced

README, SUMS = "README.txt", "SHA256SUMS"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written.

    Attributes
    ----------
    path : Path
    size : int or None
        Bytes; None: it was not written.
    files : tuple of DeployFile
        In it, beside a README and the hashes.
    """

    path: Path
    size: int | None
    files: tuple[DeployFile, ...]


@again_if_replaced
def write_bundle(artifact_path: Path, output: Path) -> Bundle:
    """Write a ``.tar.gz`` with one folder: the artifact's files, ``README.txt`` and ``SHA256SUMS``.

    Raises
    ------
    ArtifactError
        The artifact is missing or damaged.
    DeployError
        ``output`` is not named ``.tar.gz``, or cannot be written.
    """
    artifact, planned = _plan(artifact_path, output)
    folder = Path(native_path(artifact.path.resolve())).name
    data = _compressed(folder, artifact, planned.files)
    try:
        write_atomic(output, data)
    except OSError as error:
        raise _not_writable(output, error) from None
    return Bundle(output, len(data), planned.files)


def plan_bundle(artifact_path: Path, output: Path) -> Bundle:
    """Say what :func:`write_bundle` would write.

    Raises
    ------
    ArtifactError, DeployError
        As there.
    """
    return _plan(artifact_path, output)[1]


def _plan(artifact_path: Path, output: Path) -> tuple[Artifact, Bundle]:
    if not output.name.endswith((".tar.gz", ".tgz")):
        raise DeployError(f"{output}: expected a name that ends in .tar.gz", "for example: --bundle model.tar.gz")
    artifact = load_artifact(artifact_path)
    refuse_replacing(output, files_of_artifact(artifact.path), "--bundle FILE.tar.gz")
    try:
        check_writable(output)
    except OSError as error:
        raise _not_writable(output, error) from None
    return artifact, Bundle(output, None, files_of(artifact))


def _not_writable(output: Path, error: OSError) -> DeployError:
    return DeployError(f"{output}: cannot be written ({error.strerror})", "name another: --bundle FILE")


def _compressed(folder: str, artifact: Artifact, files: tuple[DeployFile, ...]) -> bytes:
    sums = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    packed = io.BytesIO()
    # No times, owners or names of this machine: the same model gives the same bytes.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, text in ((README, _readme(artifact, folder, files)), (SUMS, sums)):
            _add(archive, f"{folder}/{name}", text.encode(), 0o644)
        for file in files:
            _add(archive, f"{folder}/{file.name}", read_listed(artifact, file.name), file.mode)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _readme(artifact: Artifact, folder: str, files: tuple[DeployFile, ...]) -> str:
    manifest = artifact.manifest
    lines = [
        f"{manifest.model}: {manifest.description}",
        f"Compiled for {manifest.target.name}: {manifest.target.description}",
        f"Weights: {manifest.weights}",
        "",
        "On the device:",
        "",
        f"  tar xzf {folder}.tar.gz     (or whatever this file is called there)",
        f"  cd {folder}",
        f"  sha256sum -c {SUMS}",
    ]
    if any(file.name == RUNNER for file in files):
        lines += [
            f"  ./{RUNNER} verify      compares with the outputs expected of golden.bin",
            f"  ./{RUNNER} bench       times every frame",
        ]
    if any(file.name == LIBRARY for file in files):
        used = f"{LIBRARY} is used from C with {HEADER_FILE}, and from Python with tsm_edge.session.OnlineSession."
    else:
        used = f"{RUNNER} has the model inside, and needs nothing else of the device."
    return "\n".join([*lines, "", used, ""])
