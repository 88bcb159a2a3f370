import json
import subprocess
from collections.abc import Callable

import pytest

from tsm_edge.cards import load_target, target_names
from tsm_edge.cli.main import entry_point
from tsm_edge.errors import CardError

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def test_table_has_a_line_for_every_card(run_program: RunProgram) -> None:
    done = run_program("targets")
    heading, *rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert heading.startswith("target")
    assert [row.split()[0] for row in rows] == target_names()
    assert rows[target_names().index("x86-64")].split()[2] == "x86-64-v3"


def test_json_has_every_card_whole_and_native_detected(run_program: RunProgram) -> None:
    cards = {card["name"]: card for card in json.loads(run_program("targets", "--json").stdout)}
    assert sorted(cards) == target_names()
    assert cards["x86-64"]["cpu"]["vector_registers"] == 16
    assert cards["native"]["cpu"]["l1d_kib"] == load_target("native").cpu.l1d_kib


def test_a_machine_that_cannot_be_detected_does_not_hide_the_other_targets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise CardError("target 'native': this is Darwin on arm64", "name the target")

    monkeypatch.setattr("tsm_edge.cards.detect.detect_cpu", fail)
    assert entry_point(["targets"]) == 0
    captured = capsys.readouterr()
    assert "x86-64-v3" in captured.out
    assert "\nnative" not in captured.out
    # For ``native`` and for ``native-cuda``.
    assert captured.err == 2 * "warning: target 'native': this is Darwin on arm64; name the target\n"
