"""Whole networks on a GPU: small frames on the stand-in driver, and whole ones through ptxas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_follows, lowered

from tsm_edge.cards import load_model, load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.generate import generate
from tsm_edge.export.onnx import ExportRequest, export_onnx

BACKBONES = ("resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnext-101-32x8d")
pytestmark = pytest.mark.slow


def exported(backbone: str, frame_size: int, folder: Path) -> onnx.ModelProto:
    """A network with random weights."""
    card = load_model("resnet50-kinetics")
    network = replace(card.network, backbone=backbone, frame_size=frame_size)
    card = replace(card, network=network, preprocess=replace(card.preprocess, crop=frame_size))
    export_onnx(ExportRequest(card, folder / "exported.onnx", seed=0))
    return onnx.load(folder / "exported.onnx")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_is_right_on_small_frames(backbone: str, tmp_path: Path) -> None:
    model = exported(backbone, 64, tmp_path)
    made = lowered(model, tmp_path)
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert_follows(made, model, gpu, 1e-4, 1e-4)


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-tx2"])
@pytest.mark.parametrize("precision", [FP32, PRECISIONS["fp16"]], ids=["fp32", "fp16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_kernel_spills(backbone: str, precision: Precision, target: str, tmp_path: Path) -> None:
    """``generate`` refuses a kernel that spills, or that a block of threads cannot run; every layer has a rule."""
    made = lowered(exported(backbone, 224, tmp_path), tmp_path, target, precision)
    gpu = load_target(target).gpu
    assert gpu is not None
    code = generate(made.program, gpu)
    assert max(used.spill_bytes for used in code.resources.values()) == 0
    assert not {call.spec.rule for call in made.program.calls} & {"generic", "direct"}
