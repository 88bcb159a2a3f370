"""A checkpoint's weights into a network: what does not fit is refused, and the cards that it fits are named."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tsm_edge.cards import FLOW_CHANNELS, RGB_CHANNELS, NetworkSpec, TemporalMode, load_model, model_names
from tsm_edge.errors import CheckpointError
from tsm_edge.networks.checkpoints import OTHER_CARD, Checkpoint, some
from tsm_edge.networks.mobilenet_v2 import block_channels
from tsm_edge.networks.temporal import TemporalNetwork


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
                f"{checkpoint.path}: {name} is {list(found)}, expected {list(tensor.shape)}", OTHER_CARD
            )
    network.backbone.load_state_dict(dict(checkpoint.tensors), strict=False)


def _check_kind(spec: NetworkSpec, checkpoint: Checkpoint) -> None:
    path = checkpoint.path
    if checkpoint.backbone != spec.backbone:
        raise CheckpointError(f"{path}: weights of {checkpoint.backbone}, expected {spec.backbone}", OTHER_CARD)
    if checkpoint.width is not None and block_channels(checkpoint.width) != block_channels(spec.width):
        raise CheckpointError(f"{path}: mobilenet-v2 of width {checkpoint.width}, expected {spec.width}", OTHER_CARD)
    if checkpoint.classes != spec.classes:
        raise CheckpointError(
            f"{path}: classifier of {checkpoint.classes} classes, expected {spec.classes}", OTHER_CARD
        )
    if checkpoint.channels == RGB_CHANNELS and spec.channels == FLOW_CHANNELS:
        raise CheckpointError(
            f"{path}: weights of an RGB network, expected those of one for optical flow",
            "to begin training such a one with them: tsm-edge export --from-rgb",
        )
    if checkpoint.channels == FLOW_CHANNELS and spec.channels == RGB_CHANNELS:
        raise CheckpointError(
            f"{path}: weights of a network for optical flow, expected an RGB one's", _card_hint(checkpoint)
        )


def _check_temporal(spec: NetworkSpec, checkpoint: Checkpoint, allow_offline_weights: bool) -> None:
    wanted = {"online": "online", "offline": "offline", "none": "unshifted"}[spec.temporal_mode]
    if checkpoint.trained_mode != spec.temporal_mode and not (spec.temporal_mode == "online" and allow_offline_weights):
        raise CheckpointError(
            f"{checkpoint.path}: {_training(checkpoint)}, expected weights for an {wanted} network",
            _mode_hint(spec.temporal_mode, checkpoint),
        )
    if checkpoint.shift_place not in (None, spec.shift_place) and spec.temporal_mode != "none":
        raise CheckpointError(
            f"{checkpoint.path}: trained with {checkpoint.shift_place} shift, expected {spec.shift_place}",
            f'use a model card with shift_place = "{checkpoint.shift_place}"',
        )


def _training(checkpoint: Checkpoint) -> str:
    """How a checkpoint was trained, or what its names say about it."""
    if checkpoint.declared or checkpoint.trained_mode == "online":
        return {
            "online": "trained for online use (shift from the past)",
            "offline": "trained offline (bi-directional shift)",
            "none": "trained without a temporal shift (TSN)",
        }[checkpoint.trained_mode]
    if checkpoint.trained_mode == "none":
        return "its names show no temporal shift (as TSN)"
    return "has the training code's names, where the shift is bi-directional unless it was changed"


def _mode_hint(wanted: TemporalMode, checkpoint: Checkpoint) -> str:
    ways = [_card_hint(checkpoint)]
    if not checkpoint.declared:
        kind = {
            "online": "with a uni-directional shift",
            "offline": "with a bi-directional shift",
            "none": "without a shift",
        }
        ways.append(f"if it was trained {kind[wanted]}, say so: tsm-edge compile --trained-mode {wanted}")
    if wanted == "online":
        ways.append("accept wrong predictions: tsm-edge compile --allow-offline-weights")
    return "; or ".join(ways)


def _card_hint(checkpoint: Checkpoint) -> str:
    """What to do with weights of another kind than the card's: the cards that they fit, if any is shipped."""
    fitting = [name for name in model_names() if _fits(load_model(name).network, checkpoint)]
    if not fitting and checkpoint.channels == FLOW_CHANNELS:
        return f"use a model card with channels = {FLOW_CHANNELS}"
    if not fitting:
        return f"compile a network of its kind: tsm-edge compile --mode {checkpoint.trained_mode}"
    return f"take the model card that fits it: {' or '.join(fitting)}"


def _fits(spec: NetworkSpec, checkpoint: Checkpoint) -> bool:
    found = (checkpoint.backbone, checkpoint.width, checkpoint.classes, checkpoint.trained_mode, checkpoint.channels)
    place = spec.temporal_mode == "none" or checkpoint.shift_place in (None, spec.shift_place)
    return found == (spec.backbone, spec.width, spec.classes, spec.temporal_mode, spec.channels) and place


def _check_names(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in checkpoint.tensors]
    unexpected = [name for name in checkpoint.tensors if name not in expected]
    problems = [
        f"{kind} {some(names)} ({len(names)} in all)"
        for kind, names in (("missing tensors", missing), ("unexpected tensors", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint.path}: {'; '.join(problems)}; expected those of {checkpoint.backbone}",
            "save the whole state dict again, or choose another model card: tsm-edge models",
        )
