"""Table 8 of the paper, with what was measured, modelled, or neither."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from bench_results import a_result, changed, document

from tsm_edge.bench.result import Model, Result, to_json
from tsm_edge.bench.table8 import DEVICES, Modelled, read_files, table8
from tsm_edge.cards.load import load_target, target_names
from tsm_edge.errors import ArtifactError

QUIET = document(a_result()).results[0]


def of(target: str, board: str, ms: float = 12.0, **model: object) -> Result:
    result = changed(a_result(ms=ms, name=f"{target} at {ms}"), before={"board": board})
    card = dataclasses.replace(result.model, target=target, **model)  # type: ignore[arg-type]
    return document(dataclasses.replace(result, model=card)).results[0]


def status(results: list[Result], modelled: list[Modelled] | None = None) -> dict[str, str]:
    return {
        row.device.name: row.status for row in table8(results, modelled or []).entries if row.status != "not measured"
    }


def test_without_results_the_papers_figures_stand_alone() -> None:
    table = table8([])
    assert [(row.device.paper_ms, row.device.paper_w) for row in table.entries] == [
        *((47.8, 4.8), (13.4, 4.5), (36.4, 5.6), (8.5, 5.8), (69.6, 3.8), (34.5, None), (47.4, None))
    ]
    assert {row[-1] for row in table.rows} == {"not measured"}


def test_a_measurement_stands_in_its_devices_row() -> None:
    table = table8([QUIET])
    assert ("Raspberry Pi 4B", "69.6 ms, 3.8 W", "17 ms, XNNPACK int8", "12.00 ms, 2.7 W") in table.rows
    assert "Raspberry Pi 4B: power above idle of the wall" in table.notes
    (row,) = (row for row in table.entries if row.status == "measured")
    assert (row.ms, row.net_w, row.doubts) == (QUIET.latency_ms.p50, pytest.approx(2.7), ())


def test_no_line_is_wider_than_80_columns() -> None:
    slow = [
        of(device.targets[0], board, 999.9, precision="int8") for device, board in zip(DEVICES, BOARDS, strict=True)
    ]
    doubtful = [
        changed(result, verdicts=document(changed(result, partial="interrupted")).results[0].verdicts)
        for result in slow
    ]
    table = table8(doubtful)
    widths = [max(len(row[index]) for row in (table.columns, *table.rows)) for index in range(4)]
    assert sum(widths) + 2 * 3 <= 80
    assert max(map(len, table.notes)) <= 110


BOARDS = (
    *("NVIDIA Jetson Nano Developer Kit",) * 2,
    *("quill",) * 2,
    *("Raspberry Pi 4 Model B Rev 1.4", "SM-N950F", "Pixel"),
)


def test_a_result_on_another_board_is_left_out_and_said_so() -> None:
    """An artifact for a board runs elsewhere, too, under an emulator or by luck."""
    table = table8([of("raspberry-pi-4", "Raspberry Pi 5 Model B Rev 1.0")])
    assert not [row for row in table.entries if row.status != "not measured"]
    assert table.left_out == (
        "raspberry-pi-4 at 12.0: target raspberry-pi-4, but measured on: Raspberry Pi 5 Model B Rev 1.0",
    )


def test_a_general_target_is_placed_by_its_board() -> None:
    assert status([of("android-arm64", "Pixel")]) == {"Pixel 1": "measured"}
    assert status([of("android-arm64", "Pixel 2")]) == {}
    assert status([of("jetson-nano", "NVIDIA Jetson Nano Developer Kit", device="cuda")]) == {
        "Jetson Nano GPU": "measured"
    }


@pytest.mark.parametrize(
    "model",
    [
        dataclasses.replace(QUIET.model, name="resnet50-kinetics"),
        dataclasses.replace(QUIET.model, frame_shape=(1, 3, 128, 128)),
    ],
)
def test_another_network_is_left_out(model: Model) -> None:
    (reason,) = table8([dataclasses.replace(QUIET, model=model)]).left_out
    assert "the paper's is MobileNet-V2, 224×224" in reason


def test_the_fastest_that_can_be_relied_on_counts() -> None:
    good, better = of("raspberry-pi-4", BOARDS[4], 12.0), of("raspberry-pi-4", BOARDS[4], 11.0)
    throttled = document(
        changed(of("raspberry-pi-4", BOARDS[4], 9.0), during={"throttled_now": ("throttled",)})
    ).results[0]
    assert "11.00 ms, 2.7 W" in [row[-1] for row in table8([good, better, throttled]).rows]
    alone = table8([throttled])
    assert "8.999 ms, 2.7 W !" in [row[-1] for row in alone.rows]
    assert "! Raspberry Pi 4B: do not rely on it (throttled)" in alone.notes


def test_a_model_is_called_one_and_gives_way_to_a_measurement() -> None:
    model = Modelled("raspberry-pi-4", "mobilenetv2-jester", 40.0, "fp32", "explain.json")
    table = table8([], [model, dataclasses.replace(model, target="x86-64")])
    assert "modelled 40.00 ms" in [row[-1] for row in table.rows]
    assert any("not a measurement" in line for line in table.notes)
    assert table.left_out == ("explain.json: target x86-64 is none of the paper's devices",)
    assert status([QUIET], [model]) == {"Raspberry Pi 4B": "measured"}


def test_files_of_both_kinds_are_read(tmp_path: Path) -> None:
    bench, explain = tmp_path / "bench.json", tmp_path / "explain.json"
    bench.write_text(json.dumps(to_json(document(QUIET))))
    manifest = {"model": "mobilenetv2-jester", "target": {"name": "jetson-nano-cpu"}}
    explain.write_text(json.dumps({"manifest": manifest, "explain": {"modelled_milliseconds": 61.5}}))
    results, modelled = read_files([bench, explain])
    assert results == [QUIET]
    assert modelled == [Modelled("jetson-nano-cpu", "mobilenetv2-jester", 61.5, "fp32", str(explain))]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no result"),
        ('{"schema": "other/1"}', "schema is 'other/1'"),
        ('{"explain": {"modelled_milliseconds": null}}', "has no modelled time"),
        ('{"explain": {"modelled_milliseconds": 4}, "manifest": {"target": []}}', "has no modelled time"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_neither_is_one_line(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=problem):
        read_files([path])


def test_cards_that_the_table_names_are_for_such_devices() -> None:
    known = set(target_names())
    for device in DEVICES:
        for name in known & set(device.targets):
            assert load_target(name).device == device.device
