"""Files of weights: ``torch.save`` old and new, and safetensors, read without running any code in them.

What lies around and beside the tensors in the files of training programs is known here: dictionaries that hold a state
dict under a name, an averaged copy (EMA), values of NumPy, options. So is what people have instead of a checkpoint: a
web page, a Git LFS pointer, an archive.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import re
import shlex
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from tsm_edge.errors import CheckpointError
from tsm_edge.files.impostors import impostor
from tsm_edge.files.paths import native_path

# Under which name programs keep the weights they train, best known first, and their running average.
_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "averaged_model")
# What training programs put beside the weights; none of it is needed, so that none of it is made.
_STOOD_IN_FOR = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "datetime.datetime"),
    *(f"pathlib{local}.{kind}Path" for local in ("", "._local") for kind in ("Posix", "Windows")),
)
# How compressed files begin, the program that undoes it, and, where Python can, what opens them.
_COMPRESSED: Mapping[bytes, tuple[str, Callable[[Path], Any] | None]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
}
_TAR_MAGIC_AT = 257
_HEAD = 512
_SAVE = "torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        Under their own names.
    declared_mode : object
        What it says of the temporal mode it was trained in; None if nothing.
    part : str
        Name of the state dict among its contents; empty where it is nothing else.
    beside : tuple of str
        Names of the other state dicts in it, which are not used.
    """

    tensors: Mapping[str, Tensor]
    declared_mode: object = None
    part: str = ""
    beside: tuple[str, ...] = ()


def read_weight_file(path: Path) -> WeightFile:
    """Read a file's tensors.

    Raises
    ------
    CheckpointError
        The file cannot be read, is something else, holds pickled code, or has no state dict.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        _refuse_other_files(path, head)
        # A safetensors file is an 8-byte length, then JSON; no torch.save file has a brace there.
        return _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", "check the path") from None


def _refuse_other_files(path: Path, head: bytes) -> None:
    """Refuse, by name, what is downloaded or given in place of a checkpoint."""
    name = shlex.quote(str(path))
    instead = impostor(head)
    if instead == "a Git LFS pointer":
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights", "fetch them with: git lfs pull")
    if instead == "a web page":
        raise CheckpointError(
            f"{path}: is a web page that came in place of the weights",
            "open the link in a browser, or use the site's own download tool",
        )
    _refuse_archives(path, head)
    if head.startswith(b"\x89HDF"):
        raise CheckpointError(
            f"{path}: is an HDF5 file (Keras), expected PyTorch's weights", f"save them with: {_SAVE}"
        )
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: is an ONNX model, not weights", f"compile it: tsm-edge compile --onnx {name}")


def _refuse_archives(path: Path, head: bytes) -> None:
    name = shlex.quote(str(path))
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        raise _archive(path, f"a tar archive{_of(_tar_member(path))}", f"tar -xf {name}")
    if head.startswith(b"PK\3\4") and (members := _zip_members(path)):
        raise _archive(path, f"a zip archive{_of(members[0])}", f"unzip {name}")
    for magic, (program, opened) in _COMPRESSED.items():
        if head.startswith(magic):
            if _decompressed_head(path, opened)[_TAR_MAGIC_AT:].startswith(b"ustar"):
                raise _archive(path, f"a tar archive compressed with {program}", f"tar -xf {name}")
            raise _archive(path, f"compressed with {program}", f"{program} -dc {name} > weights.pth")


def _archive(path: Path, kind: str, command: str) -> CheckpointError:
    return CheckpointError(f"{path}: is {kind}, expected the checkpoint itself", f"unpack it: {command}")


def _of(member: str) -> str:
    return f" (of {member[:80]!r}, …)" if member else ""


def _tar_member(path: Path) -> str:
    """Name of the first file in an archive; empty if it has none or is damaged."""
    try:
        with tarfile.open(path) as archive:
            return next((member.name for member in archive if member.isfile()), "")
    except (tarfile.TarError, OSError, ValueError):
        return ""


def _zip_members(path: Path) -> list[str]:
    """Names in a zip archive; none if PyTorch wrote it, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []
    return [] if any(name.endswith(("data.pkl", "version")) for name in names) else names


def _decompressed_head(path: Path, opened: Callable[[Path], Any] | None) -> bytes:
    if opened is None:
        return b""
    try:
        with opened(path) as file:
            head: bytes = file.read(_HEAD)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return b""
    return head


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(native_path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            declared = (file.metadata() or {}).get("temporal_mode")
    except SafetensorError as error:
        raise _unreadable(path, str(error)) from None
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors", f"save them again: {_SAVE}")
    return WeightFile(tensors, declared)


class _Ignored:
    """Stands for an object that is not needed, whatever it is made of."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _read_torch(path: Path) -> WeightFile:
    stand_ins = [(_Ignored, name) for name in _STOOD_IN_FOR]
    try:
        # Damaged files give odd pickle protocols, of which PyTorch warns.
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _pickled(path, str(error)) from None
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch.load raise nearly anything
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript program, expected plain tensors",
                "where you trust it, save its weights with: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
            ) from None
        raise _unreadable(path, str(error)) from None
    return _state_dict(path, content)


def _pickled(path: Path, reason: str) -> CheckpointError:
    found = re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)\D*?) ?([\w.]+\.[\w.]+)", reason)
    if found is None:
        return _unreadable(path, "its pickle is damaged")
    return CheckpointError(
        f"{path}: holds pickled code ({found[1]}), which is never run; expected plain tensors",
        f"where you trust it, save its weights with: {_SAVE}",
    )


def _state_dict(path: Path, content: object) -> WeightFile:
    """Find the state dict among what was saved."""
    if _is_state_dict(content):
        return WeightFile(content)
    table = content if isinstance(content, dict) else {}
    found = {}
    for key, value in table.items():
        # {"model": {"state_dict": …}}
        inner = value.get("state_dict") if isinstance(value, dict) and not _is_state_dict(value) else value
        if isinstance(key, str) and _is_state_dict(inner):
            found[key] = inner
    if not found:
        raise CheckpointError(
            f"{path}: not a state dict, expected names with tensors, or {{'state_dict': …}} around them",
            f"save one with: {_SAVE}",
        )
    known = [key for key in (*_PLAIN, *_AVERAGED) if key in found] or (list(found) if len(found) == 1 else [])
    if not known:
        raise CheckpointError(
            f"{path}: holds several state dicts ({', '.join(sorted(found)[:6])}), expected one",
            "save the network's alone: torch.save(torch.load(FILE)[NAME], NEW)",
        )
    part = known[0]
    return WeightFile(found[part], table.get("temporal_mode"), part, tuple(sorted(set(found) - {part})))


def _is_state_dict(value: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _unreadable(path: Path, reason: str) -> CheckpointError:
    first_sentence = reason.partition("\n")[0].partition(". ")[0][:120]
    return CheckpointError(
        f"{path}: not a readable checkpoint ({first_sentence}); expected a torch.save or safetensors file",
        "download or copy it again",
    )
