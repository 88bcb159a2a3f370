"""Checkpoints of the upstream TSM code, recognised by their tensors' names.

Known layouts:

- the online demo's: ``features.N.conv.M.*``, ``classifier.*``;
- the training code's: ``module.base_model.…``, shifted parts wrapped in ``.net.``, non-local ones in ``.block.`` and
  ``.nl.``, and the classifier as ``module.new_fc.*``;
- torchvision's: ``features.N.conv.M.K.*``, ``classifier.1.*`` (its ResNets have the training code's names);
- each of them under the prefixes that wrappers put before names, in any order: ``module.``, ``model.``,
  ``_orig_mod.``, ``backbone.`` …

A file may say itself how it was trained: ``{"state_dict": …, "temporal_mode": "online"}``, or the entry
``temporal_mode`` in a safetensors file's metadata.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tsm_edge.cards import FLOW_CHANNELS, RGB_CHANNELS, ShiftPlace, TemporalMode
from tsm_edge.errors import CheckpointError, unknown_name
from tsm_edge.files.atomic import file_sha256
from tsm_edge.networks.mobilenet_v2 import width_of
from tsm_edge.networks.resnet import PLANS
from tsm_edge.networks.weight_files import read_weight_file

_NAMED = 3
_LARGEST = 1 << 28  # elements of a tensor; a damaged file may claim any number
# Names of the modules that only hold a network: of torch.nn.parallel, torch.compile, Lightning and training code.
_WRAPPERS = r"(?:(?:module|model|_orig_mod|backbone|base_model|network|net)\.)+"
# Of a running average among the weights.
_AVERAGES = r"(ema|model_ema|ema_model|averaged_model)\."
# What tools count in buffers of their own: PyTorch's BatchNorm and averaged models, thop.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
# torchvision's inverted residual, with and without expansion: its convolutions and BatchNorms as upstream numbers them.
_TORCHVISION = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4", "1": "3", "2": "6", "3": "7"}
_TORCHVISION_FIRST = {"0.0": "0", "0.1": "1", "1": "3", "2": "4"}
_HEADS = {"mobilenet-v2": "classifier"}
_STEMS = {"mobilenet-v2": "features.0.0.weight"}
OTHER_CARD = "see the model cards with: tsm-edge models"


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
        What the file or the user declares; else ``offline`` where parts are wrapped in a shift, ``online`` for the
        demo's plain MobileNet-V2, ``none`` otherwise.
    declared : bool
        Whether the file or the user says so. Names alone do not tell an online shift in the training code's layout
        from an offline one.
    shift_place : {"residual", "in-place"} or None
        Where the training code put the shift; None if the names do not tell.
    tensors : mapping of str to Tensor
        float32, under the names of :attr:`TemporalNetwork.backbone`'s state dict; counters of tools left out.
    part : str
        Which of the file's state dicts it is; empty where there is one only.
    beside : tuple of str
        The others, such as a running average (EMA).
    """

    path: Path
    sha256: str
    backbone: str
    width: float | None
    classes: int
    trained_mode: TemporalMode
    declared: bool
    shift_place: ShiftPlace | None
    tensors: Mapping[str, Tensor] = field(repr=False)
    part: str = ""
    beside: tuple[str, ...] = ()

    @property
    def channels(self) -> int | None:
        """Of a frame's input, from the first convolution; None: it is not there."""
        stem = self.tensors.get(_stem(self.backbone))
        return stem.shape[1] if stem is not None and stem.dim() == 4 else None


def read_checkpoint(path: str | Path, trained_mode: TemporalMode | None = None) -> Checkpoint:
    """Read a checkpoint and recognise what it holds.

    Parameters
    ----------
    path : str or Path
    trained_mode : {"online", "offline", "none"}, optional
        How it was trained, where it does not say so itself.

    Raises
    ------
    CheckpointError
        The file cannot be read, holds pickled code, is of no known backbone, has no classifier, has values that are
        not finite or negative variances, or says that it was trained in another mode.
    """
    path = Path(path)
    file = read_weight_file(path)
    declared = _declared_mode(path, file.declared_mode, trained_mode)
    raw, beside = _without_averages(file.tensors)
    names = {name: _unwrapped(name) for name in raw if name.rpartition(".")[2] not in _COUNTERS}
    prefixed = any("base_model." in name for name in raw)
    place = _shift_place(names.values())
    tensors = _canonical(path, {short: raw[name] for name, short in _unique(path, names).items()})
    backbone = _backbone(path, tensors)
    head = tensors.get(f"{_head(backbone)}.weight")
    if head is None or head.dim() != 2:
        raise CheckpointError(
            f"{path}: no classifier among its tensors (their last: {some([*tensors][-_NAMED:])}), expected "
            f"new_fc.weight or {_head(backbone)}.weight",
            "give a checkpoint of the whole network",
        )
    if declared is not None:
        mode = declared
    elif place is not None:
        mode = "offline"
    else:
        is_demo = backbone == "mobilenet-v2" and not prefixed and not _is_torchvision(names.values())
        mode = "online" if is_demo else "none"
    _check_values(path, tensors)
    return Checkpoint(
        path,
        file_sha256(path),
        backbone,
        _width(tensors) if backbone == "mobilenet-v2" else 1.0,
        head.shape[0],
        mode,
        declared is not None,
        place,
        tensors,
        file.part if file.beside else "",
        (*file.beside, *beside),
    )


def flow_from_rgb(checkpoint: Checkpoint) -> Checkpoint:
    """Weights that a network of optical flow can start training from, made of those of an RGB network.

    The first convolution's kernels are averaged over R, G and B, and the mean serves every channel of the flow; all
    else stays (cross-modality initialisation of TSN, arXiv:1608.00859, section 3.2).

    Raises
    ------
    CheckpointError
        It is none of an RGB network.
    """
    if checkpoint.channels != RGB_CHANNELS:
        raise CheckpointError(
            f"{checkpoint.path}: takes {checkpoint.channels} channels, expected an RGB network's {RGB_CHANNELS}",
            "leave out --from-rgb",
        )
    stem = _stem(checkpoint.backbone)
    mean = checkpoint.tensors[stem].mean(1, keepdim=True).repeat(1, FLOW_CHANNELS, 1, 1)
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, stem: mean})


def _declared_mode(path: Path, said: object, given: TemporalMode | None) -> TemporalMode | None:
    modes = typing.get_args(TemporalMode)
    if said is not None and said not in modes:
        raise CheckpointError(f"{path}: {unknown_name('temporal_mode', str(said), modes)}", "correct its metadata")
    if said is not None and given is not None and said != given:
        raise CheckpointError(f"{path}: says it was trained {said}, not {given}", "leave out --trained-mode")
    return typing.cast("TemporalMode | None", said or given)


def _without_averages(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Leave out a running average that was saved among the weights; returns its prefix, too."""
    averages = {name: found[1] for name in tensors if (found := re.match(_AVERAGES, name))}
    if len(averages) == len(tensors):
        return {name.removeprefix(f"{averages[name]}."): tensor for name, tensor in tensors.items()}, ()
    kept = {name: tensor for name, tensor in tensors.items() if name not in averages}
    return kept, tuple(sorted(set(averages.values())))


def _unwrapped(name: str) -> str:
    """A tensor's name without what wrappers of modules put before and into it."""
    return re.sub(r"\.(?:module|_orig_mod)\.", ".", re.sub(f"^{_WRAPPERS}", "", name))


def _unique(path: Path, names: Mapping[str, str]) -> Mapping[str, str]:
    by_short: dict[str, str] = {}
    for name, short in names.items():
        if short in by_short:
            raise CheckpointError(
                f"{path}: {by_short[short]} and {name} are both {short}, expected one",
                "save the network's weights alone",
            )
        by_short[short] = name
    return names


def _shift_place(names: Iterable[str]) -> ShiftPlace | None:
    """Where upstream's wrappers (``.net.``) sit: around a first convolution, or around a whole block."""
    for name in names:
        if ".net." in name:
            return "residual" if re.search(r"\.conv(1|\.0|\.0\.0)\.net\.", name) else "in-place"
    return None


def _is_torchvision(names: Iterable[str]) -> bool:
    """Whether these are torchvision's names of MobileNet-V2, whose convolutions and BatchNorms are nested."""
    return any(re.match(r"features\.\d+\.conv\.\d\.(net\.)?\d\.", name) for name in names)


def _canonical(path: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename upstream's tensors to this package's names."""
    is_mobilenet = any("features." in name for name in raw)
    torchvision = _is_torchvision(raw)
    tensors: dict[str, Tensor] = {}
    for name, tensor in raw.items():
        short = re.sub(r"\.(net|block)\.", ".", name)
        if torchvision:
            short = _from_torchvision(short)
        # A classifier behind a dropout has a number.
        short = re.sub(r"^(new_fc|fc|classifier)\.(\d\.)?", f"{_head('mobilenet-v2' if is_mobilenet else '')}.", short)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype}, {tensor.layout} on {tensor.device}, expected dense floating point "
                "with its values",
                OTHER_CARD,
            )
        if tensor.numel() > _LARGEST:
            raise CheckpointError(
                f"{path}: {name} is {list(tensor.shape)}, larger than any known network's", OTHER_CARD
            )
        if short in tensors:
            raise CheckpointError(f"{path}: two tensors for {short}, expected one", "save the network's weights alone")
        # Non-local blocks are 1x1x1 in upstream's files, 1x1 here: the same numbers.
        tensors[short] = (tensor.squeeze(-1) if tensor.dim() == 5 else tensor).float()
    return tensors


def _from_torchvision(name: str) -> str:
    """A name of torchvision's MobileNet-V2 as upstream has it; other names as they are."""
    found = re.match(r"(features\.(\d+)\.conv\.)(\d(?:\.\d)?)\.(.+)", name)
    if found is None:
        return name
    start, block, place, rest = found.groups()
    numbers = _TORCHVISION_FIRST if block == "1" else _TORCHVISION
    return f"{start}{numbers.get(place, place)}.{rest}"


def _head(backbone: str) -> str:
    return _HEADS.get(backbone, "fc")


def _stem(backbone: str) -> str:
    return _STEMS.get(backbone, "conv1.weight")


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
        f"{path}: weights of no known backbone (its first tensors: {some(tensors)}); "
        f"known are mobilenet-v2, {', '.join(PLANS)}",
        OTHER_CARD,
    )


def _width(tensors: Mapping[str, Tensor]) -> float | None:
    projections = ["features.1.conv.3", *(f"features.{index}.conv.6" for index in range(2, 18)), "features.18.0"]
    return width_of([_outputs(tensors.get(f"{name}.weight")) for name in projections])


def _outputs(weight: Tensor | None) -> int | None:
    """Output channels of a convolution, if it is there."""
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path}: holds values that are not finite (in {some(broken)})",
            "use a checkpoint from before the training diverged",
        )
    negative = [name for name, tensor in tensors.items() if name.endswith(".running_var") and (tensor < 0).any()]
    if negative:
        raise CheckpointError(
            f"{path}: holds negative variances (in {some(negative)})", "the file is damaged: copy or save it again"
        )


def some(names: Iterable[str]) -> str:
    """The first few names."""
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (", …" if len(listed) > _NAMED else "")
