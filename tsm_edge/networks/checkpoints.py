"""Checkpoints of the upstream TSM code, read without running any code in them and checked before they are used.

Known formats (``torch.save`` files old and new, and safetensors):

- the online demo's plain state dict: ``features.N.conv.M.*``, ``classifier.*``;
- the training code's ``{"state_dict": …}`` with ``module.base_model.…`` names, shifted parts wrapped in ``.net.``,
  non-local ones in ``.block.`` and ``.nl.``, and the classifier as ``module.new_fc.*``;
- either, saying itself how it was trained: ``{"state_dict": …, "temporal_mode": "online"}``, or the entry
  ``temporal_mode`` in a safetensors file's metadata.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import typing
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsm_edge.cards import NetworkSpec, ShiftPlace, TemporalMode
from tsm_edge.errors import CheckpointError, unknown_name
from tsm_edge.networks.mobilenet_v2 import block_channels, width_of
from tsm_edge.networks.resnet import PLANS
from tsm_edge.networks.temporal import TemporalNetwork

_NAMED = 3
_HEADS = {"mobilenet-v2": "classifier"}
_OTHER_CARD = "see the model cards with: tsm-edge models"


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what they say about themselves.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file, hexadecimal.
    backbone : str
        One of :data:`tsm_edge.cards.BACKBONES`, from the tensors' names and shapes.
    width : float or None
        MobileNet-V2 width multiplier, from the shapes (1.0 for other backbones); None if no width has these shapes.
    classes : int
        Width of the classifier.
    trained_mode : {"online", "offline", "none"}
        What the file declares; else ``offline`` where parts are wrapped in a shift, ``online`` for the demo's plain
        MobileNet-V2, ``none`` otherwise.
    shift_place : {"residual", "in-place"} or None
        Where the training code put the shift; None if the names do not tell.
    tensors : mapping of str to Tensor
        float32, under the names of :attr:`TemporalNetwork.backbone`'s state dict; ``num_batches_tracked`` left out.
    """

    path: Path
    sha256: str
    backbone: str
    width: float | None
    classes: int
    trained_mode: TemporalMode
    shift_place: ShiftPlace | None
    tensors: Mapping[str, Tensor] = field(repr=False)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint and recognise what it holds.

    Raises
    ------
    CheckpointError
        The file cannot be read, holds pickled code, is of no known backbone, has no classifier, or has values that
        are not finite.
    """
    path = Path(path)
    raw, declared = _read(path)
    prefixed = any(name.startswith(("base_model.", "module.base_model.")) for name in raw)
    place = _shift_place(raw)
    tensors = _canonical(path, raw)
    backbone = _backbone(path, tensors)
    head = tensors.get(f"{_head(backbone)}.weight")
    if head is None or head.dim() != 2:
        raise CheckpointError(
            f"{path}: no classifier among its tensors, expected new_fc.weight or {_head(backbone)}.weight",
            "give a checkpoint of the whole network",
        )
    if declared is not None:
        mode = declared
    elif place is not None:
        mode = "offline"
    else:
        mode = "online" if backbone == "mobilenet-v2" and not prefixed else "none"
    _check_finite(path, tensors)
    width = _width(tensors) if backbone == "mobilenet-v2" else 1.0
    return Checkpoint(path, _sha256(path), backbone, width, head.shape[0], mode, place, tensors)


def load_into(
    network: TemporalNetwork, spec: NetworkSpec, checkpoint: Checkpoint, allow_offline_weights: bool = False
) -> None:
    """Copy a checkpoint's weights into a network built from ``spec``; nothing is changed if they do not fit.

    Parameters
    ----------
    network : TemporalNetwork
        From :func:`tsm_edge.networks.build_network`.
    spec : NetworkSpec
        What the network was built from.
    checkpoint : Checkpoint
    allow_offline_weights : bool
        Accept weights trained with bi-directional shift, or without any, for an online network: its first channels
        then look the other way than they were trained to.

    Raises
    ------
    CheckpointError
        Another backbone, width or class count; another temporal mode or shift place; missing or unexpected tensors;
        other shapes.
    """
    _check_kind(spec, checkpoint)
    _check_temporal(spec, checkpoint, allow_offline_weights)
    expected = {
        name: tensor
        for name, tensor in network.backbone.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
    _check_names(checkpoint, expected)
    for name, tensor in expected.items():
        found = checkpoint.tensors[name].shape
        if found != tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {list(found)}, expected {list(tensor.shape)}", _OTHER_CARD
            )
    network.backbone.load_state_dict(dict(checkpoint.tensors), strict=False)


def _read(path: Path) -> tuple[dict[str, Tensor], TemporalMode | None]:
    """Return a file's tensors under their own names, and the temporal mode it declares."""
    try:
        with path.open("rb") as file:
            # A safetensors file is an 8-byte length, then JSON; no torch.save file has a brace there.
            is_safetensors = file.read(9)[8:] == b"{"
        content, declared = _read_safetensors(path) if is_safetensors else _read_torch(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", "check the --checkpoint path") from None
    named = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    if not content or not named:
        raise CheckpointError(
            f"{path}: not a state dict, expected names with tensors, or {{'state_dict': …}} around them",
            "save one with: torch.save(model.state_dict(), FILE)",
        )
    if declared is not None and declared not in typing.get_args(TemporalMode):
        modes = typing.get_args(TemporalMode)
        raise CheckpointError(f"{path}: {unknown_name('temporal_mode', str(declared), modes)}", "correct its metadata")
    return content, declared


def _read_torch(path: Path) -> tuple[dict[str, Any], Any]:
    try:
        with warnings.catch_warnings():  # on odd pickle protocols: damaged files give damaged numbers
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)\D*?) ?([\w.]+\.[\w.]+)", str(error))
        if found is None:
            raise _unreadable(path, "its pickle is damaged") from None
        raise CheckpointError(
            f"{path}: holds pickled code ({found[1]}), which is never run; expected plain tensors",
            "where you trust it, save its weights with: torch.save(model.state_dict(), FILE)",
        ) from None
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch.load raise nearly anything
        raise _unreadable(path, str(error)) from None
    if not isinstance(content, dict):
        return {}, None
    if isinstance(content.get("state_dict"), dict):
        return content["state_dict"], content.get("temporal_mode")
    return content, None


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get("temporal_mode")
    except SafetensorError as error:
        raise _unreadable(path, str(error)) from None


def _unreadable(path: Path, reason: str) -> CheckpointError:
    first_sentence = reason.partition("\n")[0].partition(". ")[0][:120]
    return CheckpointError(
        f"{path}: not a readable checkpoint ({first_sentence}); expected a torch.save or safetensors file",
        "download or copy it again",
    )


def _shift_place(names: Iterable[str]) -> ShiftPlace | None:
    """Where upstream's wrappers (``.net.``) sit: around a first convolution, or around a whole block."""
    for name in names:
        if ".net." in name:
            return "residual" if re.search(r"\.conv(1|\.0)\.net\.", name) else "in-place"
    return None


def _canonical(path: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename upstream's tensors to this package's names."""
    is_mobilenet = any("features." in name for name in raw)
    tensors: dict[str, Tensor] = {}
    for name, tensor in raw.items():
        if name.endswith("num_batches_tracked"):
            continue
        short = re.sub(r"^(module\.)?(base_model\.)?", "", name)
        short = re.sub(r"\.(net|block)\.", ".", short)
        short = re.sub(r"^new_fc\.", f"{_head('mobilenet-v2' if is_mobilenet else '')}.", short)
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype}, {tensor.layout}, expected dense floating point", _OTHER_CARD
            )
        if short in tensors:
            raise CheckpointError(f"{path}: two tensors for {short}, expected one", "save the state dict again")
        # Non-local blocks are 1x1x1 in upstream's files, 1x1 here: the same numbers.
        tensors[short] = (tensor.squeeze(-1) if tensor.dim() == 5 else tensor).float()
    return tensors


def _head(backbone: str) -> str:
    return _HEADS.get(backbone, "fc")


def _backbone(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Recognise a backbone by its blocks and, among ResNets, by the width between the convolutions of a block."""
    if any(re.match(r"features\.\d+\.conv\.", name) for name in tensors):
        return "mobilenet-v2"
    last = {1: -1, 2: -1, 3: -1, 4: -1}
    for name in tensors:
        if found := re.match(r"layer([1-4])\.(\d+)\.", name):
            last[int(found[1])] = max(last[int(found[1])], int(found[2]))
    blocks = tuple(index + 1 for index in last.values())
    bottleneck = any(name.endswith(".conv3.weight") for name in tensors)
    non_local = any(".nl." in name for name in tensors)
    first = tensors.get("layer1.0.conv1.weight")
    for backbone, plan in PLANS.items():
        same_kind = (plan.blocks, plan.bottleneck, bool(plan.non_local)) == (blocks, bottleneck, non_local)
        if same_kind and _outputs(first) == plan.channels(64)[1]:
            return backbone
    raise CheckpointError(
        f"{path}: weights of no known backbone (its first tensors: {_some(tensors)}); "
        f"known are mobilenet-v2, {', '.join(PLANS)}",
        _OTHER_CARD,
    )


def _width(tensors: Mapping[str, Tensor]) -> float | None:
    projections = ["features.1.conv.3", *(f"features.{index}.conv.6" for index in range(2, 18)), "features.18.0"]
    return width_of([_outputs(tensors.get(f"{name}.weight")) for name in projections])


def _outputs(weight: Tensor | None) -> int | None:
    """Output channels of a convolution, if it is there."""
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path}: holds values that are not finite (in {_some(broken)})",
            "use a checkpoint from before the training diverged",
        )


def _check_kind(spec: NetworkSpec, checkpoint: Checkpoint) -> None:
    path = checkpoint.path
    if checkpoint.backbone != spec.backbone:
        raise CheckpointError(f"{path}: weights of {checkpoint.backbone}, expected {spec.backbone}", _OTHER_CARD)
    if checkpoint.width is not None and block_channels(checkpoint.width) != block_channels(spec.width):
        raise CheckpointError(f"{path}: mobilenet-v2 of width {checkpoint.width}, expected {spec.width}", _OTHER_CARD)
    if checkpoint.classes != spec.classes:
        raise CheckpointError(
            f"{path}: classifier of {checkpoint.classes} classes, expected {spec.classes}", _OTHER_CARD
        )


def _check_temporal(spec: NetworkSpec, checkpoint: Checkpoint, allow_offline_weights: bool) -> None:
    trained = {
        "online": "trained for online use (shift from the past)",
        "offline": "trained offline (bi-directional shift)",
        "none": "trained without a temporal shift (TSN)",
    }[checkpoint.trained_mode]
    wanted = {"online": "online", "offline": "offline", "none": "unshifted"}[spec.temporal_mode]
    if checkpoint.trained_mode != spec.temporal_mode and not (spec.temporal_mode == "online" and allow_offline_weights):
        allow = ", or accept wrong predictions with --allow-offline-weights" if spec.temporal_mode == "online" else ""
        raise CheckpointError(
            f"{checkpoint.path}: {trained}, expected weights for an {wanted} network",
            f"export with --mode {checkpoint.trained_mode}{allow}",
        )
    if checkpoint.shift_place not in (None, spec.shift_place) and spec.temporal_mode != "none":
        raise CheckpointError(
            f"{checkpoint.path}: trained with {checkpoint.shift_place} shift, expected {spec.shift_place}",
            f'use a model card with shift_place = "{checkpoint.shift_place}"',
        )


def _check_names(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in checkpoint.tensors]
    unexpected = [name for name in checkpoint.tensors if name not in expected]
    problems = [
        f"{kind} {_some(names)} ({len(names)} in all)"
        for kind, names in (("missing tensors", missing), ("unexpected tensors", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint.path}: {'; '.join(problems)}; expected those of {checkpoint.backbone}",
            "save the whole state dict again, or choose another model card: tsm-edge models",
        )


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (", …" if len(listed) > _NAMED else "")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
