"""The default model is compiled again where anything that decides what comes out has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tsm_edge.bench.default_model import fingerprint
from tsm_edge.cards import DEFAULT_MODEL, load_model, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.errors import BenchError


def test_what_decides_an_artifact_is_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, target = load_model(DEFAULT_MODEL), load_target("raspberry-pi-4")
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"one")
    trained = replace(card, weights_file=str(weights))
    found = [
        fingerprint(card, target, FP32),
        fingerprint(
            replace(card, network=replace(card.network, classes=card.network.classes + 1), labels=()), target, FP32
        ),
        fingerprint(card, load_target("jetson-nano-cpu"), FP32),
        fingerprint(card, replace(target, libc="glibc-2.99"), FP32),
        fingerprint(card, target, replace(FP32, name="other")),
        fingerprint(trained, target, FP32),
    ]
    weights.write_bytes(b"two")
    found.append(fingerprint(trained, target, FP32))
    monkeypatch.setattr("tsm_edge.bench.default_model.__version__", "99.0")
    found.append(fingerprint(card, target, FP32))
    assert len(set(found)) == len(found)
    monkeypatch.undo()
    assert fingerprint(card, target, FP32) == found[0]


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    card = replace(load_model(DEFAULT_MODEL), weights_file=str(tmp_path / "none.npz"))
    with pytest.raises(BenchError, match=r"none\.npz \(No such file or directory\)"):
        fingerprint(card, load_target("raspberry-pi-4"), FP32)
