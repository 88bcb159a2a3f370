"""The JSON of a bench result: whole round trips, refusals, and its page in the documentation."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsm_edge.bench import result
from tsm_edge.errors import ArtifactError

DOCUMENTED = (Path(__file__).resolve().parents[2] / "docs/bench.md").read_text("utf-8")


def a_document() -> result.Document:
    model = result.Model("m", "native", "fp32", "out", "00", (1, 3, 32, 32), 100, 200)
    settings = result.Settings(2, None, 0.5, 3, 1, None, 16, "none")
    latency = result.Latency(2, p50=1.5, min=1.0, refused=(result.Refused("p90", "2 frames"),))
    environment = result.Environment(-0.5, cores=(result.Core(0, True, current_mhz=1500.0),))
    one = result.Result(
        *("here", "local", None, None, "2026-01-01T00:00:00Z", "tsm-edge bench", "monotonic", model, settings),
        startup=result.Startup(load_ms=3.0),
        latency_ms=latency,
        fps=500.0,
        samples=result.Samples((0.0, 0.001), (1.0, 2.0)),
        environment_before=environment,
        verdicts=(result.Verdict("stationary", "good", "no drift"),),
    )
    return result.Document(result.SCHEMA, "0", (one,))


def test_a_document_comes_back_as_it_was() -> None:
    document = a_document()
    assert result.from_json(json.loads(json.dumps(result.to_json(document))), "x.json") == document


def test_another_schema_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"^x\.json: schema is 'tsm-edge-bench/9', expected 'tsm-edge-bench/1'"):
        result.from_json({"schema": "tsm-edge-bench/9"}, "x.json")


def test_a_wrong_type_is_named_with_its_place() -> None:
    table = result.to_json(a_document())
    table["results"][0]["latency_ms"]["p50"] = "fast"
    with pytest.raises(ArtifactError, match=r"x\.json: results\[0\]: latency_ms: p50 is 'fast', expected a number"):
        result.from_json(table, "x.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.json"):
        result.read_document(path)


def test_every_key_is_documented() -> None:
    assert [key for key in _keys(result.Document) if f"`{key}`" not in DOCUMENTED] == []


def test_no_key_is_documented_that_does_not_exist() -> None:
    section = DOCUMENTED.partition("## The JSON")[2].partition("\n## ")[0]
    tables = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    words = {word for cell in tables for word in re.findall(r"`([^`]+)`", cell)}
    assert words - set(_keys(result.Document)) == set()


def _keys(cls: type) -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        yield name
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from _keys(typing.cast(type, inner))
