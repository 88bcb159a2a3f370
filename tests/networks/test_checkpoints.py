"""Reading checkpoints in upstream's formats, and refusing what does not fit."""

from __future__ import annotations

import argparse
import bz2
import datetime
import gzip
import hashlib
import io
import lzma
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tsm_edge.cards import NetworkSpec
from tsm_edge.errors import CheckpointError
from tsm_edge.networks import build_network
from tsm_edge.networks.checkpoints import read_checkpoint
from tsm_edge.networks.loading import load_into

ONLINE = NetworkSpec("mobilenet-v2", 5, width=0.5, frame_size=32)
OFFLINE = NetworkSpec("mobilenet-v2", 5, "offline", width=0.5, frame_size=32, frames=2)
RESNET = NetworkSpec("resnet-18", 5, "offline", frame_size=32, frames=2)
SHIFTED_CONVOLUTIONS = {
    "mobilenet-v2": r"(features\.(?:3|5|6|8|9|10|12|13|15|16)\.conv\.0)\.",
    "resnet-18": r"(layer\d\.\d\.conv1)\.",
}


def demo_weights(spec: NetworkSpec = ONLINE, seed: int = 7) -> dict[str, Tensor]:
    """Weights as the online demo names them."""
    return dict(build_network(spec, seed).backbone.state_dict())


def training_weights(spec: NetworkSpec, wrapper: str | None = None) -> dict[str, Tensor]:
    """Weights as the training code names them, the parts matching ``wrapper`` wrapped in a shift."""
    named = {}
    for name, tensor in demo_weights(spec).items():
        name = re.sub(r"^(classifier|fc)\.", "new_fc.", name)
        name = name if name.startswith("new_fc.") else f"base_model.{name}"
        named["module." + (re.sub(wrapper, r"\1.net.", name) if wrapper else name)] = tensor
    return named


def saved(folder: Path, content: object, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def refused(path: Path, spec: NetworkSpec, allow_offline_weights: bool = False) -> str:
    """Load a checkpoint that must not fit; check that it changed nothing, and return the message, one line."""
    network = build_network(spec)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(network, spec, read_checkpoint(path), allow_offline_weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def assert_loads(path: Path, spec: NetworkSpec, allow_offline_weights: bool = False) -> None:
    network = build_network(spec, seed=0)
    load_into(network, spec, read_checkpoint(path), allow_offline_weights)
    for name, tensor in demo_weights(spec).items():
        assert torch.equal(network.backbone.state_dict()[name], tensor), name


def test_demo_format(tmp_path: Path) -> None:
    path = saved(tmp_path, demo_weights())
    checkpoint = read_checkpoint(path)
    assert (checkpoint.backbone, checkpoint.width, checkpoint.classes) == ("mobilenet-v2", 0.5, 5)
    assert (checkpoint.trained_mode, checkpoint.shift_place) == ("online", None)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_loads(path, ONLINE)


@pytest.mark.parametrize("spec", [OFFLINE, RESNET], ids=lambda spec: spec.backbone)
def test_training_format(spec: NetworkSpec, tmp_path: Path) -> None:
    weights = training_weights(spec, SHIFTED_CONVOLUTIONS[spec.backbone])
    path = saved(tmp_path, {"epoch": 50, "arch": "resnet18", "best_prec1": 70.5, "state_dict": weights})
    checkpoint = read_checkpoint(path)
    found = (checkpoint.backbone, checkpoint.trained_mode, checkpoint.shift_place)
    assert found == (spec.backbone, "offline", "residual")
    assert_loads(path, spec)


def test_training_format_with_the_shift_around_blocks(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": training_weights(RESNET, r"(layer\d\.\d)\.")})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.trained_mode, checkpoint.shift_place) == ("offline", "in-place")
    assert_loads(path, NetworkSpec("resnet-18", 5, "offline", frame_size=32, frames=2, shift_place="in-place"))
    assert 'shift_place = "in-place"' in refused(path, RESNET)


def test_unshifted_training_format(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": training_weights(RESNET)})
    assert read_checkpoint(path).trained_mode == "none"
    assert_loads(path, NetworkSpec("resnet-18", 5, "none", frame_size=32))
    assert "its names show no temporal shift (as TSN)" in refused(path, NetworkSpec("resnet-18", 5, frame_size=32))


def test_torch_format_of_2018(tmp_path: Path) -> None:
    torch.save(demo_weights(), tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pth.tar", ONLINE)


def test_safetensors_whatever_the_file_is_called(tmp_path: Path) -> None:
    save_file(demo_weights(), tmp_path / "weights.bin")
    assert_loads(tmp_path / "weights.bin", ONLINE)


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.", "_orig_mod.", "backbone.", "net.", "module.model._orig_mod.", "_orig_mod.module.backbone."],
)
@pytest.mark.parametrize("safetensors", [False, True], ids=["torch", "safetensors"])
def test_prefixes_of_wrappers(prefix: str, safetensors: bool, tmp_path: Path) -> None:
    weights = {f"{prefix}{name}": tensor for name, tensor in demo_weights().items()}
    if safetensors:
        save_file(weights, tmp_path / "weights")
    else:
        torch.save(weights, tmp_path / "weights")
    assert_loads(tmp_path / "weights", ONLINE)


def test_wrappers_within_a_network(tmp_path: Path) -> None:
    weights = {name.replace("features.3.", "features.3._orig_mod."): value for name, value in demo_weights().items()}
    assert_loads(saved(tmp_path, {"state_dict": weights}), ONLINE)


def test_the_same_tensor_under_two_prefixes(tmp_path: Path) -> None:
    weights = demo_weights() | {"model.classifier.bias": torch.zeros(5)}
    message = refused(saved(tmp_path, weights), ONLINE)
    assert "classifier.bias and model.classifier.bias are both classifier.bias, expected one" in message


def test_torchvision_layout(tmp_path: Path) -> None:
    """The names of torchvision 0.28's MobileNet-V2: a convolution and its BatchNorm are one module of two."""
    first = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    other = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}

    def theirs(name: str) -> str:
        found = re.match(r"features\.(\d+)\.conv\.(\d)\.(.*)", name)
        if found is None:
            return name.replace("classifier.", "classifier.1.")
        return f"features.{found[1]}.conv.{(first if found[1] == '1' else other)[found[2]]}.{found[3]}"

    path = saved(tmp_path, {theirs(name): tensor for name, tensor in demo_weights().items()})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.backbone, checkpoint.trained_mode, checkpoint.declared) == ("mobilenet-v2", "none", False)
    assert_loads(path, NetworkSpec("mobilenet-v2", 5, "none", width=0.5, frame_size=32))
    message = refused(path, ONLINE)
    assert "its names show no temporal shift (as TSN), expected weights for an online network" in message
    assert "compile a network of its kind: tsm-edge compile --mode none" in message


def test_counters_of_tools_and_values_of_numpy_are_left_out(tmp_path: Path) -> None:
    weights = demo_weights()
    for name in [name for name in weights if name.endswith(".weight")]:
        layer = name.removesuffix(".weight")
        weights |= {f"{layer}.total_ops": torch.zeros(1).double(), f"{layer}.total_params": torch.zeros(1).double()}
    weights |= {"total_ops": torch.zeros(1), "n_averaged": torch.tensor(3)}
    content = {
        "state_dict": weights,
        "best_prec1": np.float64(70.5),
        "epoch": np.int64(50),
        "confusion": np.zeros((5, 5)),
        "args": argparse.Namespace(lr=0.1, root=Path("data")),
        "date": datetime.datetime(2026, 11, 26),
    }
    assert_loads(saved(tmp_path, content), ONLINE)
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pth.tar", ONLINE)


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema"])
def test_a_running_average_beside_the_weights_is_not_used_and_named(name: str, tmp_path: Path) -> None:
    average = {name: torch.zeros_like(tensor) for name, tensor in demo_weights().items()}
    path = saved(tmp_path, {name: average, "state_dict": demo_weights(), "optimizer": {"state": {}}})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.part, checkpoint.beside) == ("state_dict", (name,))
    assert_loads(path, ONLINE)


def test_a_running_average_among_the_weights_is_not_used_and_named(tmp_path: Path) -> None:
    average = {f"ema_model.module.{name}": torch.zeros_like(tensor) for name, tensor in demo_weights().items()}
    path = saved(tmp_path, {"state_dict": average | {f"model.{name}": value for name, value in demo_weights().items()}})
    assert read_checkpoint(path).beside == ("ema_model",)
    assert_loads(path, ONLINE)


def test_a_running_average_alone_is_used(tmp_path: Path) -> None:
    assert_loads(saved(tmp_path, {"model_ema": {"state_dict": demo_weights()}, "epoch": 3}), ONLINE)
    assert_loads(saved(tmp_path, {f"ema.{name}": value for name, value in demo_weights().items()}), ONLINE)


def test_several_state_dicts_without_a_known_name(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, {"teacher": demo_weights(), "student": demo_weights()}), ONLINE)
    assert "holds several state dicts (student, teacher), expected one; save the network's alone" in message


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    path = saved(tmp_path, {name: tensor.half() for name, tensor in demo_weights().items()})
    assert all(tensor.dtype == torch.float32 for tensor in read_checkpoint(path).tensors.values())


def test_declared_temporal_mode(tmp_path: Path) -> None:
    spec = NetworkSpec("resnet-18", 5, frame_size=32)
    assert_loads(saved(tmp_path, {"state_dict": demo_weights(spec), "temporal_mode": "online"}), spec)
    save_file(demo_weights(spec), tmp_path / "x.safetensors", metadata={"temporal_mode": "online"})
    assert_loads(tmp_path / "x.safetensors", spec)
    path = saved(tmp_path, {"state_dict": demo_weights(spec), "temporal_mode": "onlin"})
    assert "did you mean 'online'?" in refused(path, spec)


def test_offline_weights_for_an_online_network(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": training_weights(OFFLINE, SHIFTED_CONVOLUTIONS["mobilenet-v2"])})
    message = refused(path, ONLINE)
    assert "where the shift is bi-directional unless it was changed, expected weights for an online network" in message
    assert (
        "if it was trained with a uni-directional shift, say so: tsm-edge compile --trained-mode online; or " in message
    )
    assert "tsm-edge compile --mode offline" in message
    assert "--allow-offline-weights" in message
    assert_loads(path, ONLINE, allow_offline_weights=True)


def test_a_uni_directional_network_of_the_training_code_loads_when_one_says_so(tmp_path: Path) -> None:
    weights = training_weights(ONLINE, SHIFTED_CONVOLUTIONS["mobilenet-v2"])
    checkpoint = read_checkpoint(saved(tmp_path, {"state_dict": weights}), "online")
    assert (checkpoint.trained_mode, checkpoint.declared) == ("online", True)
    load_into(build_network(ONLINE), ONLINE, checkpoint)


def test_what_a_file_declares_is_not_overruled(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": demo_weights(RESNET), "temporal_mode": "offline"})
    with pytest.raises(CheckpointError, match="says it was trained offline, not online; leave out --trained-mode"):
        read_checkpoint(path, "online")
    message = refused(path, NetworkSpec("resnet-18", 5, frame_size=32))
    assert "trained offline (bi-directional shift), expected weights for an online network" in message
    assert "--trained-mode" not in message


def test_online_weights_stay_online(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, demo_weights()), OFFLINE, allow_offline_weights=True)
    assert "expected weights for an offline network" in message
    assert "--allow-offline-weights" not in message


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (NetworkSpec("resnet-18", 5, frame_size=32), "weights of mobilenet-v2, expected resnet-18"),
        (NetworkSpec("mobilenet-v2", 5, frame_size=32), "mobilenet-v2 of width 0.5, expected 1.0"),
        (NetworkSpec("mobilenet-v2", 6, width=0.5, frame_size=32), "classifier of 5 classes, expected 6"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_network(spec: NetworkSpec, problem: str, tmp_path: Path) -> None:
    assert problem in refused(saved(tmp_path, demo_weights()), spec)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    weights = demo_weights()
    for index in (3, 4, 5, 6):
        weights[f"features.{index}.conv.0.extra"] = weights.pop(f"features.{index}.conv.0.weight")
    message = refused(saved(tmp_path, weights), ONLINE)
    assert (
        "missing tensors features.3.conv.0.weight, features.4.conv.0.weight, features.5.conv.0.weight, … (4" in message
    )
    assert "unexpected tensors features.3.conv.0.extra, " in message


def test_wrong_shape(tmp_path: Path) -> None:
    weights = demo_weights()
    weights["features.0.0.weight"] = torch.zeros(32, 4, 3, 3)
    message = refused(saved(tmp_path, weights), ONLINE)
    assert "features.0.0.weight is [32, 4, 3, 3], expected [32, 3, 3, 3]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    weights = demo_weights()
    weights["features.4.conv.1.running_var"][3] = value
    assert "not finite (in features.4.conv.1.running_var)" in refused(saved(tmp_path, weights), ONLINE)


def test_negative_variances(tmp_path: Path) -> None:
    weights = demo_weights()
    weights["features.4.conv.1.running_var"][3] = -0.5
    message = refused(saved(tmp_path, weights), ONLINE)
    assert "holds negative variances (in features.4.conv.1.running_var); the file is damaged" in message


def test_a_tensor_that_claims_a_terabyte(tmp_path: Path) -> None:
    weights = demo_weights() | {"classifier.bias": torch.zeros(1).expand(1 << 38)}
    assert "larger than any known network's" in refused(saved(tmp_path, weights), ONLINE)


def test_a_tensor_without_values(tmp_path: Path) -> None:
    weights = demo_weights() | {"classifier.bias": torch.zeros(5, device="meta")}
    assert "on meta, expected dense floating point with its values" in refused(saved(tmp_path, weights), ONLINE)


def test_no_classifier(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in demo_weights().items() if not name.startswith("classifier")}
    assert "no classifier" in refused(saved(tmp_path, weights), ONLINE)


def test_unknown_backbone(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, {"encoder.weight": torch.zeros(2, 2)}), ONLINE)
    assert "weights of no known backbone (its first tensors: encoder.weight)" in message


def test_integer_weights(tmp_path: Path) -> None:
    weights = demo_weights() | {"classifier.bias": torch.zeros(5, dtype=torch.int8)}
    assert "classifier.bias is torch.int8, torch.strided on cpu, expected dense floating point" in refused(
        saved(tmp_path, weights), ONLINE
    )


@pytest.mark.parametrize(
    "content", [{}, {"a": 1}, {1: torch.zeros(2)}, [1, 2], {"state_dict": {"a": [1]}}, torch.zeros(2)], ids=str
)
def test_not_a_state_dict(content: object, tmp_path: Path) -> None:
    assert "not a state dict" in refused(saved(tmp_path, content), ONLINE)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(zipped: bool, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was-run"),)

    content = demo_weights() | {"x": Malicious()}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "bad.pth", ONLINE)
    assert "holds pickled code (posix.mkdir), which is never run" in message
    assert not (tmp_path / "was-run").exists()


def test_a_whole_pickled_network(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, build_network(ONLINE)), ONLINE)
    assert "holds pickled code (tsm_edge.networks.temporal.OnlineNetwork)" in message


def test_unreadable_files(tmp_path: Path) -> None:
    whole = saved(tmp_path, demo_weights()).read_bytes()
    save_file(demo_weights(), tmp_path / "whole.safetensors")
    contents = {
        "empty.pth": b"",
        "text.pth": b"404 not found\n",
        "zeros.pth": bytes(1000),
        "cut.pth": whole[: len(whole) // 2],
        "cut.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:5000],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert "not a readable checkpoint" in refused(tmp_path / name, ONLINE)


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as writer:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        for name, content in files.items():
            writer.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a Git LFS pointer, not the weights; fetch them with: git lfs pull",
        ),
        (
            b"\n<!DOCTYPE html><html><title>Google Drive</title>",
            "is a web page that came in place of the weights; open",
        ),
        (b"<html>404 not found</html>\n", "is a web page that came in place of the weights; open"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page that came in place"),
        (
            archive({"a/best.pth.tar": b"x"}),
            "is a tar archive (of 'a/best.pth.tar', …), expected the checkpoint itself; unpack it: tar -xf ",
        ),
        (
            gzip.compress(archive({"best.pth": b"x"})),
            "is a tar archive compressed with gzip, expected the checkpoint itself; unpack it: tar -xf ",
        ),
        (gzip.compress(b"x"), "is compressed with gzip, expected the checkpoint itself; unpack it: gzip -dc "),
        (gzip.compress(b"x" * 9999)[:20], "is compressed with gzip"),
        (bz2.compress(b"x"), "is compressed with bzip2"),
        (lzma.compress(b"x"), "is compressed with xz"),
        (
            zipped({"best.pth": b"x"}),
            "is a zip archive (of 'best.pth', …), expected the checkpoint itself; unpack it: unzip",
        ),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras), expected PyTorch's weights; save them with: torch.save"),
    ],
    ids=["lfs", "page", "404", "xml", "tar", "tar.gz", "gz", "cut gz", "bz2", "xz", "zip", "hdf5"],
)
def test_what_is_no_checkpoint_is_called_by_its_name(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "my weights.pth.tar"
    path.write_bytes(content)
    message = refused(path, ONLINE)
    assert message.startswith(f"{path}: {expected}")
    assert "unpack it" not in message or f"'{path}'" in message  # quoted for a shell


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    assert "is a TorchScript program, expected plain tensors; where you trust it" in refused(
        tmp_path / "program.pt", ONLINE
    )


def test_an_onnx_model_as_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    assert "is an ONNX model, not weights; compile it: tsm-edge compile --onnx " in refused(
        tmp_path / "model.onnx", ONLINE
    )


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(tmp_path / "nothing.pth", ONLINE)
    assert "Is a directory" in refused(tmp_path, ONLINE)
