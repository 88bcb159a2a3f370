"""Model and target cards and label files: valid ones with their text, bytes or values changed, up to a compile request.

What is accepted becomes what ``tsm-edge compile`` makes of it before any work: a request, an artifact's folder, the
CPU asked of LLVM, the rules that steady a label.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.artifact.folder import OUTPUT_FOLDER
from tsm_edge.cards import ModelCard, TargetCard, load_model, load_target, model_from_table, model_names, model_to_table
from tsm_edge.cli.output import to_plain
from tsm_edge.compile.backends.cpu.llvm import check_cpu
from tsm_edge.compile.pipeline import CompileRequest
from tsm_edge.export.onnx import ExportRequest
from tsm_edge.live.smoothing import Smoother

name = "cards"

ROOT = Path(__file__).resolve().parents[3]
MODELS = tuple(path.read_bytes() for path in sorted((ROOT / "models").glob("*.toml")))
TARGETS = tuple(path.read_bytes() for path in sorted((ROOT / "targets").glob("*.toml")) if path.stem != "native")
LABELS = {path.name: path.read_bytes() for path in sorted((ROOT / "models" / "labels").glob("*.txt"))}
VALUES = (
    *(
        "0",
        "-1",
        "1",
        "2_000_000_000",
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
        "-0.0",
        "1e308",
        "1e400",
        "nan",
        "-inf",
    ),
    *(
        "true",
        '""',
        "[]",
        "{}",
        "[[]]",
        "[1, 2]",
        "[[0, 1], [2]]",
        '["+neon"]',
        '["+bogus"]',
        '["-sse2"]',
        "2026-11-26",
    ),
    *('"1e999999999"', '"1/8"', '"1/0"', '"8/64"', '"None"', '"../../../evil"', '"/dev/zero"', '"/etc/passwd"', '"."'),
    *(
        '"\\u0000"',
        '"\\u001b[2J"',
        '"\\uFEFF"',
        '"\\n"',
        '"%s%n"',
        '"pentium4"',
        '"native"',
        '"generic"',
        '"cortex-m4"',
    ),
    *('"x86_64-unknown-linux-gnu"', '"bogus-triple"', '"arm64-apple-darwin"', '"armv7l-unknown-linux-gnueabihf"'),
    *('"aarch64-unknown-linux-android"', '"bionic"', '"musl"', '"glibc-2.99"', '"glibc-2.1"', '"cuda"', '"online"'),
    *('"' + "x" * 3000 + '"', "[" * 3000, "[" + "1," * 3000 + "]", "{a" + ".b" * 900 + " = 1}"),
)
PLAIN = (
    *(None, True, 0, -1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, "", "x" * 3000, "../../../evil"),
    *("\0", "\ud800", "1e999999999", "1/8", [], {}, [[]], [[0, 1]], ["a"], {"a": 1}),
)
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp932")
# LLVM is set up by the first question: as an import, not as a part of some input's time.
for shipped in ("x86-64", "raspberry-pi-4", "raspberry-pi-4-32bit"):
    check_cpu(load_target(shipped))


@dataclass(frozen=True)
class Given:
    """Files of a model, of labels and of a target; or, instead of the model's file, its table."""

    model: bytes
    target: bytes
    labels: bytes | None = None
    table: Any = None


def make(seed: int) -> Given:
    """A shipped model and board, one of them changed; in one of four, as a table."""
    chance = random.Random(seed)
    model, target = chance.choice(MODELS), chance.choice(TARGETS)
    kind = chance.choice(("model", "model", "labels", "target", "table"))
    if kind == "table":
        return Given(model, target, table=_changed_table(chance))
    if kind == "labels":
        labels = chance.choice(list(LABELS.values()))
        # Ask for as many classes as there are lines, so that most changes are not refused for their number.
        return Given(_with_classes(model, len(labels.splitlines())), target, _changed_text(labels, chance))
    if kind == "model":
        return Given(_changed_text(model, chance), target)
    return Given(model, _changed_text(target, chance))


def run(given: Given) -> None:
    """Read the cards and go as far as a compile request."""
    folder = Path("out") / "cards"
    folder.mkdir(parents=True)
    (folder / "board.toml").write_bytes(given.target)
    if given.table is None:
        (folder / "mine.toml").write_bytes(given.model)
        (folder / "labels").mkdir()
        for file, labels in LABELS.items():
            (folder / "labels" / file).write_bytes(labels if given.labels is None else given.labels)
        card = load_model(folder / "mine.toml")
    else:
        card = model_from_table(given.table, "a table")
    _request(card, load_target(folder / "board.toml"))


def _request(card: ModelCard, target: TargetCard) -> None:
    json.dumps(to_plain([card, target]), allow_nan=False).encode()
    output = OUTPUT_FOLDER / f"{card.name}-{target.name}"
    CompileRequest(target, output, card)
    ExportRequest(card, output / "model.onnx")
    output.mkdir(parents=True)
    check_cpu(target)
    Smoother(card.smoothing, card.network.classes)


def _with_classes(model: bytes, classes: int) -> bytes:
    lines = [f"classes = {classes}".encode() if line.startswith(b"classes") else line for line in model.splitlines()]
    return b"\n".join(line for line in lines if not line.startswith((b"masked", b"shown_as")))


def _changed_text(text: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        text = chance.choice((_damaged, _another_value, _another_value, _another_value, _lines_moved, _encoded))(
            text, chance
        )
    return text


def _damaged(text: bytes, chance: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(chance.choice((1, 3, 20))):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.choice((0, 1, 40))] = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
    return bytes(data)


def _another_value(text: bytes, chance: random.Random) -> bytes:
    lines = text.splitlines()
    settings = [index for index, line in enumerate(lines) if b"=" in line and not line.startswith(b"#")]
    if not settings:
        return text + chance.choice(VALUES).encode()
    at = chance.choice(settings)
    key = lines[at].partition(b"=")[0].strip()
    keys = [lines[index].partition(b"=")[0].strip() for index in settings]
    if chance.random() < 0.2:
        key = chance.choice([*keys, b"name", b"labels", b"labels_file", b"features", b"float_abi", b"x" * 3000, b'""'])
    values = _like(lines[at].partition(b"=")[2].strip()) if chance.random() < 0.6 else VALUES
    lines[at] = key + b" = " + chance.choice(values).encode()
    return b"\n".join(lines)


def _like(value: bytes) -> list[str]:
    """Texts for a text, lists for a list, numbers for a number: more of them get as far as the value's own limits."""
    starts = value[:1].decode("latin-1")
    if starts in ('"', "["):
        return [text for text in VALUES if text.startswith(starts)]
    return [text for text in VALUES if text[0] in "-0123456789"]


def _lines_moved(text: bytes, chance: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    if lines:
        line = lines.pop(chance.randrange(len(lines)))
        for _ in range(chance.choice((0, 1, 2, 500))):
            lines.insert(chance.randrange(len(lines) + 1), line)
    return b"".join(lines)


def _encoded(text: bytes, chance: random.Random) -> bytes:
    decoded = text.decode("utf-8", "replace")
    if chance.random() < 0.3:
        decoded = decoded.replace("\n", chance.choice(("\r\n", "\r", "\u2028", "\0", "\n\n")))
    return decoded.encode(chance.choice(ENCODINGS), "replace")


def _changed_table(chance: random.Random) -> Any:
    table = copy.deepcopy(_tables()[chance.randrange(len(_tables()))])
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = table
        while isinstance(place, dict) and place:
            key = chance.choice(list(place))
            if isinstance(place[key], dict) and chance.random() < 0.8:
                place = place[key]
                continue
            _change(place, key, chance)
            break
    return table if chance.random() < 0.98 else chance.choice(PLAIN)


def _change(place: dict[str, Any], key: str, chance: random.Random) -> None:
    value = place[key]
    if isinstance(value, (list, tuple)) and value and chance.random() < 0.7:
        entries = list(value)
        entries[chance.randrange(len(entries))] = chance.choice(PLAIN)
        place[key] = entries
    elif chance.random() < 0.1:
        place[chance.choice(("x" * 3000, "", "labels", "name"))] = place.pop(key)
    else:
        place[key] = chance.choice(PLAIN)


@functools.cache
def _tables() -> tuple[dict[str, Any], ...]:
    return tuple(model_to_table(load_model(model)) for model in model_names())
