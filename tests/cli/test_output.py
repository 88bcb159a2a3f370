import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import pytest
from terminal import run_on_terminal

from tsm_edge.cards import load_model
from tsm_edge.cli.output import print_entry, print_json, print_json_line, print_table, status, to_plain, warn
from tsm_edge.cli.table import Table


def test_plain_table_aligns_and_never_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500
    print_table("Times", ["kernel", "time (ms)"], [["conv1", 1.25], [long, 10.5], ["日本", 3]])
    title, heading, *rows = capsys.readouterr().out.splitlines()
    assert title == "Times"
    assert heading == "kernel" + " " * 494 + "  time (ms)"
    assert rows == [
        "conv1" + " " * 495 + "       1.25",
        long + "       10.5",
        "日本" + " " * 496 + "          3",
    ]


def test_plain_table_shows_brackets_and_missing_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["shape", "note"], [["[1, 3, 224, 224]", None], ["[bold]", "[/bold]"]])
    assert capsys.readouterr().out.splitlines() == [
        "shape             note",
        "[1, 3, 224, 224]  -",
        "[bold]            [/bold]",
    ]


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        print_table("", ["a", "b"], [["1"]])


WIDE_TABLE = """
from tsm_edge.cli.output import print_table
print_table("Times", ["name", "runs", "note"], [["[bold]", 3, "word " * 30], ["b", 12, None]])
"""


def test_table_on_a_terminal_wraps_its_widest_column_to_fit(program_environment: dict[str, str]) -> None:
    text = run_on_terminal(WIDE_TABLE, {**program_environment, "COLUMNS": "48", "TERM": "xterm"})
    title, heading, *lines = re.sub(r"\x1b\[\d+m|\r", "", text).splitlines()
    assert (title, heading) == ("Times", "name    runs  note")
    assert lines[0] == "[bold]     3  word word word word word word word"
    assert lines[1] == "              word word word word word word word"
    assert lines[-1] == "b         12  -"
    assert max(map(len, lines)) <= 48
    assert text.count("word") == 30


LONG_ENTRY = """
from tsm_edge.cli.output import print_entry
print_entry("note", "word " * 30)
"""


def test_an_entry_is_wrapped_under_itself_on_a_terminal_only(
    program_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = run_on_terminal(LONG_ENTRY, {**program_environment, "COLUMNS": "48", "TERM": "xterm"})
    first, *others = text.replace("\r", "").splitlines()
    assert first.startswith("note  word ")
    assert all(line.startswith("      word") for line in others)
    assert len(others) > 1
    assert max(map(len, (first, *others))) <= 48
    print_entry("note", "word " * 30)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_table_on_a_narrow_terminal_is_a_block_a_row(program_environment: dict[str, str]) -> None:
    text = run_on_terminal(WIDE_TABLE, {**program_environment, "COLUMNS": "30", "TERM": "xterm"})
    lines = re.sub(r"\x1b\[\d+m|\r", "", text).splitlines()
    assert lines[1:3] == ["[bold]", "  runs  3"]
    assert lines[-3:] == ["b", "  runs  12", "  note  -"]
    assert text.count("word") == 30


def test_figures_that_stood_in_a_column_are_not_indented_in_a_block() -> None:
    table = Table.of(("part", "median (ms)", "p90 (ms)"), [("decode", f"{9.2:11.2f}", f"{12.38:8.2f}")])
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in table.fitted(12)] == [
        "decode",
        "  median (ms)  9.20",
        "  p90 (ms)     12.38",
    ]


def test_a_narrow_window_leaves_out_what_it_can_do_without() -> None:
    columns = ("layer", "tile", "time (us)", "fastest (us)", "share (%)")
    rows = [(f"layer_{index}", "expand 14 by 32, depthwise 14 by 16", 1.5, 1.25, 12) for index in range(3)]
    table = Table.of(columns, rows)
    optional = ("fastest (us)", "tile")
    assert table.fitted(90, optional) == [click.style(table.plain()[0], bold=True), *table.plain()[1:]]
    heading, *lines = table.fitted(60, optional)
    assert click.unstyle(heading).split("  ")[0] == "layer"
    assert "fastest" not in heading
    assert lines[-1] == "(no room for fastest (us): widen the window)"
    heading, *lines = table.fitted(32, optional)
    assert click.unstyle(heading) == "layer    time (us)  share (%)"
    assert lines == [
        *(f"layer_{index}        1.5         12" for index in range(3)),
        "(no room for fastest (us), tile:",
        "widen the window)",
    ]
    assert len(table.fitted(20, optional)) == 3 * len(columns)  # a block a row, with everything in it


def test_options_are_not_broken_at_their_dashes() -> None:
    table = Table.of(("name", "note"), [("a", "accept them with --allow-offline-weights or not at all")])
    assert any("--allow-offline-weights" in line for line in table.fitted(33))


def test_a_spinner_on_a_terminal_is_a_line_a_stage_in_a_pipe(program_environment: dict[str, str]) -> None:
    code = (
        "import time; from tsm_edge.cli.output import status\n"
        "with status('compiling [conv]') as update:\n    time.sleep(0.3); update('linking', 0.456); time.sleep(0.3)"
    )
    shown = run_on_terminal(code, {**program_environment, "TERM": "xterm", "NO_COLOR": "1"})
    assert "compiling [conv]" in shown
    assert "[ 46 %] linking" in shown
    piped = subprocess.run([sys.executable, "-c", code], env=program_environment, capture_output=True, check=True)
    # A line for each stage of known share, nothing of what only turns on a terminal.
    assert (piped.stdout, piped.stderr) == (b"", b"[ 46 %] linking\n")


def test_of_stages_that_differ_by_figures_alone_a_pipe_gets_one_in_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("tsm_edge.cli.output.time.monotonic", lambda: now_s)
    with status("measuring") as update:
        for clip in range(1, 51):
            update(f"clip {clip} of 50, {0.1 * clip:.1f} ms", clip / 50)
            now_s += 0.5
        update("writing", 1.0)
        update("writing", None)
    assert capsys.readouterr().err.splitlines() == [
        "[  2 %] clip 1 of 50, 0.1 ms",
        "[ 44 %] clip 22 of 50, 2.2 ms",
        "[ 86 %] clip 43 of 50, 4.3 ms",
        "[100 %] writing",
    ]


def test_prose_is_wrapped_on_a_terminal_only(program_environment: dict[str, str]) -> None:
    code = f"from tsm_edge.cli.output import print_text\nprint_text({'word ' * 20!r}.strip())"
    lines = run_on_terminal(code, {**program_environment, "COLUMNS": "40"}).split("\r\n")
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == ["word"] * 20
    piped = subprocess.run([sys.executable, "-c", code], env=program_environment, capture_output=True, check=True)
    assert piped.stdout.count(b"\n") == 1


def test_status_lets_errors_through() -> None:
    with pytest.raises(KeyError), status("working"):
        raise KeyError


def test_json_of_cards_arrays_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"half": Fraction(1, 2), "where": Path("a/b"), "values": np.float32([1.5, np.nan]), "n": np.int64(3)})
    expected = {"half": "1/2", "where": "a/b", "values": [1.5, None], "n": 3}
    assert json.loads(capsys.readouterr().out) == expected
    assert to_plain(load_model("mobilenetv2-jester"))["network"]["backbone"] == "mobilenet-v2"


def test_json_line_is_one_line_of_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_line({"label": "Pouce levé\n", "ms": float("inf")})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"label": "Pouce levé\n", "ms": None}


def test_json_refuses_what_it_cannot_show() -> None:
    with pytest.raises(TypeError, match="object cannot be printed as JSON"):
        to_plain({"thing": object()})


def test_warnings_go_to_stderr_in_plain_text_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    warn("random weights: predictions mean nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: random weights: predictions mean nothing\n")
