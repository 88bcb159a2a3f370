"""Records on disk, and what compile makes of them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from simulated_board import small_network

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.cards.threads import Threads
from tsm_edge.compile import recorded as module
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.record_lines import sealed
from tsm_edge.compile.recorded import recorded_choices, recorded_for
from tsm_edge.compile.records import Record, RecordFile, parse_line, read_records
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.compile.trials import Network, differing_calls
from tsm_edge.errors import TuneError
from tsm_edge.tune.candidates import candidates
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.record_sets import merged, pruned, write_records


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def records(network: Network) -> list[Record]:
    found = candidates(network, network.freedoms, {"machine": "Ünnamed CPU"})
    return [dataclasses.replace(one.blank, accepted=True, ratio=(0.9, 0.88, 0.92), rule_us=12.5) for one in found]


def test_a_record_is_read_as_it_was_written(records: list[Record]) -> None:
    for record in records:
        assert parse_line(record.line()) == record
        assert "\n" not in record.line()


@pytest.mark.parametrize("change", [lambda line: line[:-9], lambda line: line.replace("0.9", "0.8"), lambda line: "{}"])
def test_a_line_that_was_cut_off_or_changed_is_no_record(records: list[Record], change: object) -> None:
    with pytest.raises(ValueError, match="checksum"):
        parse_line(change(records[0].line()))  # type: ignore[operator]


def test_damaged_lines_are_told_and_left_out(network: Network, records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f"{records[0].line()}\nnothing\n{records[1].line()[:40]}")
    assert read_records(path).damaged == (2, 3)
    said: list[str] = []
    recorded_for(network.manifest.target, FP32, [path], network.graph, network.layers, said.append)
    assert said[0] == f"{path}: line 2, 3 is damaged and not used"
    path.write_text("a diary\n")
    with pytest.raises(TuneError, match="not a file of tuning records"):
        read_records(path)
    with pytest.raises(TuneError, match="cannot be read"):
        read_records(tmp_path / "nowhere")


def test_every_candidate_can_be_recorded_and_compiled_from_its_record(network: Network, records: list[Record]) -> None:
    target = network.manifest.target
    for record in records:
        found = recorded_choices(network.graph, network.layers, target, FP32, [record])
        program = network.with_choices(found.choices)
        assert found.covered == 1
        assert found.stale == 0
        assert program.choices != network.program.choices or differing_calls(program, network.program) == ([], [])


def test_of_two_records_the_later_one_counts(network: Network, records: list[Record]) -> None:
    same = [record for record in records if record.key == records[0].key]
    target = network.manifest.target
    first, last = (
        recorded_choices(network.graph, network.layers, target, FP32, order).choices
        for order in ([same[1], same[0]], [same[0], same[1]])
    )
    assert first != last


def test_records_of_another_card_precision_or_version_are_not_used(
    network: Network, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, layers, target = network.graph, network.layers, network.manifest.target
    half = dataclasses.replace(FP32, name="fp16")
    assert recorded_choices(graph, layers, load_target("x86-64"), FP32, records).covered == 0
    assert recorded_choices(graph, layers, target, half, records).covered == 0
    unaccepted = [dataclasses.replace(record, accepted=False) for record in records]
    assert recorded_choices(graph, layers, target, FP32, unaccepted).choices == Choices()
    monkeypatch.setattr(module, "rules_version", lambda device: 99)
    found = recorded_choices(graph, layers, target, FP32, records)
    assert found.covered == 0
    assert found.stale == len({record.key for record in records})


def test_a_record_of_another_version_hides_none_of_this(network: Network, records: list[Record]) -> None:
    other = dataclasses.replace(records[0], rules=records[0].rules - 1)
    found = recorded_choices(network.graph, network.layers, network.manifest.target, FP32, [records[0], other])
    assert (found.covered, found.stale) == (1, 0)
    files = [RecordFile((records[0],), (), ()), RecordFile((other,), (), ())]
    assert merged(files).records == (records[0],)


def test_a_trial_against_other_rules_is_another_trial(records: list[Record]) -> None:
    trial = dataclasses.replace(records[0], accepted=False, rounds=6)
    old = dataclasses.replace(trial, rules=trial.rules - 1, rounds=16)
    assert sorted(one.rules for one in merged([RecordFile((trial, old), (), ())]).records) == [old.rules, trial.rules]


def test_a_file_belongs_to_one_tuner(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Ledger(path, go_on=False) as ledger:
        for record in records[:2]:
            ledger.append(record)
        code = f"from tsm_edge.tune.ledger import Ledger; from pathlib import Path; Ledger(Path({str(path)!r}), True)"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another tsm-edge tune has it" in other.stderr
    with pytest.raises(TuneError, match="has 2 records already"):
        Ledger(path, go_on=False)
    with Ledger(path, go_on=True) as ledger:
        assert ledger.records == records[:2]


def test_a_first_record_that_was_cut_off_is_begun_again_and_nothing_else_is(
    records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(records[0].line()[:60])
    with Ledger(path, go_on=True) as ledger:
        assert ledger.records == []
    path.write_text("a diary")
    with pytest.raises(TuneError, match="not a file of tuning records"):
        Ledger(path, go_on=True)
    assert path.read_text() == "a diary"


def test_files_are_merged_and_pruned(records: list[Record], tmp_path: Path) -> None:
    trial = dataclasses.replace(records[0], accepted=False, rounds=3)
    final = dataclasses.replace(trial, ratio=(0.95, 0.94, 0.96), rounds=16)
    older = dataclasses.replace(records[0], rules=0)
    threads = ThreadRecord("network", Threads(2, (4, 5)), (0.5, 0.49, 0.51), 900.0, {"model": "small"})
    first = RecordFile((trial, final, older, records[0]), (threads,), ())
    same = [record for record in records if record.key == records[0].key]
    second = RecordFile((trial, same[1]), (), ())
    both = merged([first, second])
    assert both == merged([both])
    assert [record for record in both.records if not record.accepted] == [final]
    assert [record for record in both.records if record.accepted] == [same[1]], "the later file's counts"
    assert merged([second, first]).records[-1] == records[0]
    assert pruned(both) == RecordFile((same[1],), (threads,), ())
    assert pruned(RecordFile((older,), (), ())).records == ()
    write_records(tmp_path / "r.jsonl", both)
    assert read_records(tmp_path / "r.jsonl") == both


@pytest.mark.parametrize(
    "table",
    [{"count": 0, "cores": []}, {"count": 65, "cores": []}, {"count": 2, "cores": [-1]}, {"count": 2, "cores": ["4"]}],
)
def test_impossible_threads_are_no_record(table: dict[str, object], tmp_path: Path) -> None:
    record = {"network": "n", "threads": table, "ratio": [0.5, 0.4, 0.6], "step_us": 1.0, "about": {}}
    with pytest.raises(ValueError, match=r"threads is|cores are"):
        parse_line(sealed(record))


def test_a_finished_file_is_sorted(records: list[Record], tmp_path: Path) -> None:
    texts = []
    trials = [dataclasses.replace(record, accepted=False) for record in records]
    for number, order in enumerate((trials, trials[::-1])):
        with Ledger(tmp_path / f"{number}.jsonl", go_on=False) as ledger:
            for record in order:
                ledger.append(record)
            ledger.finish()
        texts.append((tmp_path / f"{number}.jsonl").read_text())
    assert texts[0] == texts[1]
