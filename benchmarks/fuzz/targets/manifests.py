"""Artifacts whose manifest, or a file beside it, was changed: loaded, listed for a device, opened, run and verified.

The library is compiled when the module is loaded; a seed's change is applied to its manifest when it is run.
"""

from __future__ import annotations

import copy
import json
import os
import pwd
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, MANIFEST, RUNNER, load_artifact
from tsm_edge.artifact.onnx_runtime import import_onnxruntime
from tsm_edge.cards import load_target
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.deploy.files import files_of
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import verify_artifact

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))
from onnx_graphs import small_network

name = "manifests"

VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 7, 2**31, 2**40, 2**63, 10**400, -(10**4000), 0.5, 1e308, float("inf"), float("nan")),
    *(
        "",
        "\0",
        "a\nb",
        "\udcff",
        "../../../evil",
        "/etc/passwd",
        "/dev/zero",
        "x" * 100_000,
        "riscv64-unknown-linux-gnu",
    ),
    *(None, True, False, [], {}, [[]], [1, 3, 2, 2], [1, 3, 2**20, 2**20], [[0, 1], [2]], {"a": {"b": []}}),
)
# In place of a value, as text: what json.dumps would not write.
TEXTS = ("NaN", "-Infinity", "1e999", "9" * 5000, "0" * 50, '"\\ud800"', "[" * 100_000, '{"a":' * 5000, "'x'", "")
CONTENTS = (b"[]", b"{}", b"1", b'"x"', b"null", b'{"format": 1}', b"\xff\xfe{", b"[" * 9999)
FILES = (LIBRARY, "tsm_edge.h", RUNNER, GOLDEN, "labels.txt", "model.onnx")


def make(seed: int) -> int:
    """The seed of the change."""
    return seed


def run(given: int) -> None:
    """Write the artifact down and use it as ``run``, ``verify`` and ``deploy`` do."""
    chance, folder = random.Random(given), Path("out") / "model"
    folder.mkdir(parents=True)
    for file, content in _CONTENT.items():
        (folder / file).write_bytes(content)
    chance.choice(CHANGES)(folder, chance)
    artifact = load_artifact(folder)
    files_of(artifact)
    with OnlineSession(artifact, threads=1 + given % 2) as session:
        session.step(np.zeros(session.manifest.frame_shape, np.float32))
        session.step_explicit(
            np.ones(session.manifest.frame_shape, np.float32),
            [np.zeros(cache.shape, np.float32) for cache in session.manifest.caches],
        )
    verify_artifact(artifact, frames=1)


def _change_values(folder: Path, chance: random.Random) -> None:
    """One value of the manifest or a few, a key's name, or what keys there are."""
    table = json.loads(_CONTENT[MANIFEST])
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        holder = chance.choice(_holders(table))
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match chance.randrange(7):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(("", "colour", "__class__", "x" * 5000, "\udcff\n"))] = holder.pop(key)
            case 2:
                other = chance.choice(_holders(table))
                holder[key] = copy.deepcopy(chance.choice(list(other.values()) if isinstance(other, dict) else other))
            case 3 if isinstance(holder[key], (list, str)):
                holder[key] = holder[key] * chance.choice((0, 2, 1000))
            case 4 if isinstance(holder[key], (int, float)):
                holder[key] = holder[key] + chance.choice((-1, 1, 2**32))
            case _:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
        if not _holders(table):
            break
    (folder / MANIFEST).write_bytes(_text(table))


def _change_text(folder: Path, chance: random.Random) -> None:
    """The JSON's text around one value: what is no JSON, or only just."""
    text = _CONTENT[MANIFEST].decode()
    colon = chance.choice([place for place, letter in enumerate(text) if letter == ":"])
    end = text.find("\n", colon)
    (folder / MANIFEST).write_bytes(f"{text[:colon]}: {chance.choice(TEXTS)}{text[end - 1 :]}".encode())


def _damage(folder: Path, chance: random.Random) -> None:
    """Bytes of a file."""
    file = chance.choice((MANIFEST, MANIFEST, MANIFEST, *_CONTENT))
    data = bytearray(_CONTENT[file])
    for _ in range(chance.choice((1, 2, 20))):
        start, length = chance.randrange(len(data) + 1), chance.choice((1, 8, 100))
        match chance.randrange(4):
            case 0:
                data[start : start + length] = chance.randbytes(length)
            case 1:
                del data[start : start + length]
            case 2:
                data[start:start] = data[start : start + length]
            case _ if chance.random() < 0.2:
                del data[start:]
    (folder / file).write_bytes(data)


def _replace_a_file(folder: Path, chance: random.Random) -> None:
    """Another kind of thing in its place, another content, or none."""
    path = folder / chance.choice((*FILES, MANIFEST))
    path.unlink(missing_ok=True)
    match chance.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(chance.choice(("/dev/zero", "/dev/null", "/proc/self/mem", "nowhere", path.name)))
        case 3:
            path.write_bytes(b"")
        case 4:
            path.write_bytes(chance.randbytes(5000))
        case 5:
            path.write_bytes(chance.choice(CONTENTS))
        case _:
            pass  # missing


def _list_other_files(folder: Path, chance: random.Random) -> None:
    """More files in the list, or fewer, or other hashes."""
    table = json.loads(_CONTENT[MANIFEST])
    name = chance.choice((*FILES, MANIFEST, *(value for value in VALUES if isinstance(value, str))))
    if chance.random() < 0.3:
        table["files"].pop(name, None)
    else:
        table["files"][name] = chance.choice(("0" * 64, *table["files"].values(), *VALUES))
    (folder / MANIFEST).write_bytes(_text(table))


def _write_differently(folder: Path, chance: random.Random) -> None:
    """The same manifest in other words."""
    table = json.loads(_CONTENT[MANIFEST])
    text = json.dumps(table, indent=chance.choice((None, 0, 4)), ensure_ascii=chance.random() < 0.5)
    (folder / MANIFEST).write_bytes(chance.choice((b"", b"", b"\xef\xbb\xbf")) + text.encode())


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_change_values,) * 8,
    *(_change_text,) * 3,
    *(_damage,) * 3,
    *(_list_other_files,) * 3,
    *(_replace_a_file,) * 2,
    _write_differently,
)


def _holders(table: Any) -> list[Any]:
    """All lists and dicts with something in them."""
    if not isinstance(table, (dict, list)):
        return []
    values = table.values() if isinstance(table, dict) else table
    return [table, *(found for value in values for found in _holders(value))] if table else []


def _text(table: Any) -> bytes:
    return json.dumps(table, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _compiled() -> dict[str, bytes]:
    """A small artifact's files, with the linker's cache of the real home: this process has an empty one."""
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/tsm-edge/zig")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "model.onnx"
        onnx.save(small_network(), str(source))
        request = CompileRequest(load_target("native"), Path(place) / "out", onnx=source, runner=False)
        return {path.name: path.read_bytes() for path in compile_model(request).path.iterdir() if path.is_file()}


import_onnxruntime()  # before memory is limited
_CONTENT = _compiled()
