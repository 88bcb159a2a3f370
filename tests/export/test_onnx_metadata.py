"""Metadata of ONNX files: what is written is read back, what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tsm_edge.cards import load_model
from tsm_edge.errors import ModelFileError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, read_metadata, write_metadata

METADATA = OnnxMetadata(load_model("mobilenetv2-jester"), WeightSource("a.pth", "12ab" * 16, "online"), "1.2.3")


def some_model() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))


def changed(key: str, value: object) -> onnx.ModelProto:
    """A model whose metadata has another ``key``; None takes it away."""
    model = some_model()
    write_metadata(model, METADATA)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
    helper.set_model_props(model, kept if value is None else kept | {key: value})
    return model


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    model = some_model()
    write_metadata(model, METADATA)
    onnx.save(model, tmp_path / "m.onnx")
    assert read_metadata(tmp_path / "m.onnx") == METADATA == read_metadata(model)


def test_keys_can_be_read_without_tsm_edge() -> None:
    model = some_model()
    write_metadata(model, METADATA)
    values = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert values["tsm_edge.network"]["shift_proportion"] == "1/8"
    assert values["tsm_edge.network"]["temporal_mode"] == "online"
    assert values["tsm_edge.preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert values["tsm_edge.labels"][2] == "No gesture"
    assert values["tsm_edge.weights"]["sha256"] == "12ab" * 16
    assert values["tsm_edge.smoothing"]["window"] == 12
    assert values["tsm_edge.version"] == "1.2.3"


def test_writing_twice_replaces_ours_and_keeps_theirs() -> None:
    model = some_model()
    helper.set_model_props(model, {"author": "someone"})
    write_metadata(model, METADATA)
    once = len(model.metadata_props)
    write_metadata(model, METADATA)
    assert len(model.metadata_props) == once
    assert model.metadata_props[0].value == "someone"


def test_random_weights() -> None:
    source = WeightSource(seed=5)
    assert source.random
    assert str(source) == "random, seed 5"
    assert not METADATA.weights.random
    assert str(METADATA.weights) == "a.pth (sha256 12ab12ab12ab)"


def test_weights_beside_which_there_are_others() -> None:
    weights = WeightSource("a.pth", "12ab" * 16, "online", part="state_dict", beside="state_dict_ema")
    assert str(weights) == "a.pth, its state_dict, not its state_dict_ema (sha256 12ab12ab12ab)"


def test_foreign_file() -> None:
    assert read_metadata(some_model()) is None


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("tsm_edge.format", "2", "tsm_edge.format is 2, expected 1"),
        ("tsm_edge.network", None, "tsm_edge.network is missing"),
        ("tsm_edge.format", None, "tsm_edge.format is missing"),
        ("tsm_edge.labels", "[", "damaged"),
        ("tsm_edge.labels", '["one"]', "damaged (.*1 labels, expected 27"),
        ("tsm_edge.model", "3", "damaged"),
        ("tsm_edge.labels", "[" * 99999, "damaged"),
        ("tsm_edge.weights", '{"colour": 1}', "damaged: weights: unknown key 'colour'"),
        ("tsm_edge.weights", '{"seed": "1"}', "damaged: weights: seed is '1', expected a whole number"),
        ("tsm_edge.network", '{"backbone": "vgg", "classes": 27}', "damaged .*unknown backbone 'vgg'"),
    ],
)
def test_damaged_metadata(key: str, value: str | None, problem: str) -> None:
    with pytest.raises(ModelFileError, match=problem.replace("(", r"\(", 1)) as caught:
        read_metadata(changed(key, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>404</html>", None], ids=["not ONNX", "missing"])
def test_unreadable_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.onnx: cannot be read"):
        read_metadata(path)
