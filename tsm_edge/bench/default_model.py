"""What is measured where no artifact is named: the default model, compiled for the machine and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import tsm_edge
from tsm_edge import __version__
from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.bench.detected import detected_target
from tsm_edge.cards import DEFAULT_MODEL, ModelCard, TargetCard, load_model, load_target
from tsm_edge.cards.precision import FP32, Precision
from tsm_edge.errors import BenchError, TsmEdgeError
from tsm_edge.files.atomic import file_sha256
from tsm_edge.progress import Progress
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.machine import RemoteSystem
from tsm_edge.rpc.place import Place, TimeLimits

_MAKERS = ("compile", "runtime", "export", "networks", "artifact")  # rooms: what they do is in an artifact


def target_for(place: Place | None, named: str | None) -> TargetCard:
    """The target to compile for: the one named, else what the machine is.

    Parameters
    ----------
    place : Place or None
        The device; None: this machine.
    named : str or None
        ``--target``.

    Raises
    ------
    CardError
        There is no such target, or the machine is none that can be detected.
    RpcError
        The device cannot be reached, or tells nothing.
    """
    if named is not None or place is None:
        return load_target(named or "native")
    device = open_device(place, TimeLimits())
    try:
        if device.info.tsm_edge is not None:
            return detected_target(RemoteSystem(device), device.info.machine)
        if device.info.machine == "x86_64":
            return load_target("x86-64")
        raise BenchError(
            f"{device.name}: TVM's own server does not tell which CPU it has ({device.info.machine or 'unknown'})",
            "name the target: --target T (the targets: tsm-edge targets)",
        )
    finally:
        device.close()


def default_artifact(target: TargetCard, progress: Progress) -> Artifact:
    """The default model for a target: compiled now, or earlier.

    Raises
    ------
    TsmEdgeError
        It cannot be compiled.
    """
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    card = load_model(DEFAULT_MODEL)
    folder = cache_folder() / f"{card.name}-{target.name}-{fingerprint(card, target, FP32)}"
    try:
        return load_artifact(folder)
    except TsmEdgeError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return compile_model(CompileRequest(target=target, output=folder, card=card, precision=FP32), progress)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where compiled artifacts are kept (XDG Base Directory Specification).

    Raises
    ------
    BenchError
        The user has no home folder.
    """
    base = Path(environment.get("XDG_CACHE_HOME") or "")
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "tsm-edge" / "bench"
    except RuntimeError:
        raise BenchError("there is no home folder (HOME) to keep a compiled model in", "name one: DIR") from None


def fingerprint(card: ModelCard, target: TargetCard, precision: Precision) -> str:
    """Of all that decides what is compiled.

    That is the model card with its weights, the target card, the precision, and the program: its version, and the
    sources of the compiler and the runtime, which change between two versions, too.

    Raises
    ------
    BenchError
        The card's weights cannot be read.
    """
    try:
        weights = file_sha256(Path(card.weights_file)) if card.weights_file else ""
    except OSError as error:
        raise BenchError(
            f"the weights of {card.name} cannot be read: {card.weights_file} ({error.strerror})",
            "name a compiled model: DIR",
        ) from None
    parts = [__version__, _sources(), weights, *(dataclasses.asdict(part) for part in (card, target, precision))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _sources() -> str:
    """Of what makes an artifact."""
    package = Path(tsm_edge.__file__).parent
    digest = hashlib.sha256()
    for room in _MAKERS:
        for path in sorted((package / room).rglob("*.[pch]*")):
            if path.suffix in (".py", ".c", ".h"):
                digest.update(f"{path.relative_to(package)}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()
