"""The report of a tuning run."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from tsm_edge.bench.paired import Ratio
from tsm_edge.cards.threads import Threads
from tsm_edge.compile.records import Record
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.tune.page import gains_of, render, write_page
from tsm_edge.tune.state import Tuned

THREADS = ThreadRecord("n", Threads(2), (0.6, 0.58, 0.62), 900.0, {})


def record(layer: str, median: float | None, rule: str = "convolution", accepted: bool = False) -> Record:
    return Record(
        accepted=accepted,
        layers=(f"layer {layer}",),
        card="card",
        precision="fp32",
        rules=1,
        choices=({"rule": rule, "layers": [0], "settings": None},),
        ratio=None if median is None else (median, median - 0.01, median + 0.01),
        rule_us=100.0,
        rounds=16,
        about={"layer": layer},
    )


RECORDS = (
    record("<first>", 0.8, "winograd"),
    record("<first>", 0.9),
    record("<first>", 0.8, "winograd", accepted=True),
    record("second", 1.2),
    record("third", None),
)
WHOLE = Ratio(0.9, 0.88, 0.92)
TUNED = Tuned(RECORDS[2:3], WHOLE, THREADS, 4.2, 4, 3, 1, ((1.0, 0.99), (2.0, 0.97), (3.0, 0.95)))


def test_of_every_kernel_the_best_is_shown_and_what_was_wrong_is_not() -> None:
    gains = gains_of(RECORDS)
    assert [(gain.layer, gain.rule, gain.tried, gain.accepted) for gain in gains] == [
        ("<first>", "winograd", 2, True),
        ("second", "convolution", 1, False),
    ]
    assert [round(gain.saved_us, 6) for gain in gains] == [20.0, 0.0]


def test_it_is_one_file_that_fetches_nothing_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    write_page(TUNED, RECORDS, "<small> for this", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<first>" not in page
    assert "&lt;first&gt;" in page
    assert "&lt;small&gt; for this" in page
    assert not re.search(r"<script|src=|href=", page)
    assert "0.900 of the rules' time" in page.replace("&#x27;", "'")
    assert "with 2 threads" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
    assert page.count("<svg") == 2, "convergence, for a window and for a phone"


def test_a_run_that_found_nothing_has_a_report_too() -> None:
    page = render(Tuned((), None, None, 4.2, 0, 3, 0), (), "small")
    assert "not faster" in page
    assert "<svg" not in page
