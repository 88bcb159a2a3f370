import json
import subprocess
from collections.abc import Callable

from tsm_edge.cards import load_model, model_names

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def test_table_has_a_line_for_every_card(run_program: RunProgram) -> None:
    done = run_program("models")
    heading, *rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert heading.split()[:4] == ["model", "backbone", "mode", "classes"]
    assert [row.split()[0] for row in rows] == model_names()
    for row, name in zip(rows, model_names(), strict=True):
        card = load_model(name)
        assert row.endswith(card.description)
        # Aligned: every description begins under its heading.
        assert row.index(card.description) == heading.index("description")


def test_json_has_every_card_whole(run_program: RunProgram) -> None:
    cards = json.loads(run_program("models", "--json").stdout)
    assert [card["name"] for card in cards] == model_names()
    jester = cards[model_names().index("mobilenetv2-jester")]
    assert jester["network"]["shift_proportion"] == "1/8"
    assert jester["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert jester["smoothing"]["shown_as"] == [[0, 2]]
    assert len(jester["labels"]) == 27
