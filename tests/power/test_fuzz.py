"""Whatever a sensor answers, it is a number that can be true or an error in one line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from power_fakes import serving_plug

from tsm_edge.errors import TsmEdgeError
from tsm_edge.power.csvlog import read_log
from tsm_edge.power.registry import open_sensor
from tsm_edge.power.sensor import number

SEEDS = range(40)
PIECES = (
    *(b"0", b"-", b"9" * 400, b"1e999", b"nan", b"-inf", b"", b"\xff\xfe", b"\0", b" ", b"\n", b"1_0", "١٢".encode()),
    *(b"start", b"stop", b",", b";", b"\t", b'"', b"2026-01-31T12:00:00", b"0001-01-01", b"5.0", b"time_s", b"marker"),
    *(b"{", b"}", b"[" * 3000, b'"switch:0":', b'{"apower":', b"null", b"true", b"9" * 5000),
)


def mangled(text: bytes, chance: random.Random) -> bytes:
    """A few pieces of it replaced, put in or cut out."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        stop = min(len(text), start + chance.choice((0, 0, 1, 5, 50)))
        text = text[:start] + chance.choice(PIECES) + text[stop:]
    return text


def outcome(read: Callable[[], float]) -> float | str:
    """What is read, or the line of the error."""
    try:
        return read()
    except TsmEdgeError as error:
        return str(error)


def can_be_true(found: float | str) -> bool:
    """A power, or a line that fits a terminal."""
    return 0 < len(found) < 500 if isinstance(found, str) else 0 < found < 1e5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mangled_log_is_refused_or_read(seed: int, tmp_path: Path) -> None:
    rows = [f"{0.1 * k:.1f},5.{k},{'start' if k == 12 else 'stop' if k == 30 else ''}" for k in range(45)]
    path = tmp_path / "log.csv"
    path.write_bytes(mangled("\n".join(["time_s,power_w,marker", *rows]).encode(), random.Random(seed)))
    assert can_be_true(outcome(lambda: read_log(path).report().gross_w))


def test_a_mangled_answer_of_a_plug_is_refused_or_read() -> None:
    answer = b""
    with serving_plug(lambda path: (200, answer)) as plug:
        for seed in SEEDS:
            answer = mangled(b'{"sys": {}, "switch:0": {"output": true, "apower": 6.5}}', random.Random(seed))
            found = outcome(lambda: open_sensor(f"shelly:{plug.url}").read()[0])
            assert can_be_true(found), (answer, found)


@pytest.mark.parametrize("text", [*(piece.decode("utf-8", "replace") for piece in PIECES), "0x10", "1 2", "."])
def test_only_a_plain_number_is_a_number(text: str) -> None:
    found = outcome(lambda: number(text, "a reading"))
    assert found == float(text) if text in ("0", "5.0") else isinstance(found, str)


@pytest.mark.parametrize("value", [10**400, math.inf, True, None, [1]])
def test_what_json_holds_besides_is_no_number(value: object) -> None:
    with pytest.raises(TsmEdgeError, match="expected a number"):
        number(value, "a reading")
