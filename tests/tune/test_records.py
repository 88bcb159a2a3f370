"""Records on disk, and what compile makes of them."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
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
    assert said[0] == f"{path}: lines 2, 3 are damaged and not used"
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


def test_a_record_without_the_end_of_its_line_stays_and_the_next_is_a_line_of_its_own(
    records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    for count in (1, 2):
        path.write_text("\n".join(record.line() for record in records[:count]))
        with Ledger(path, go_on=True) as ledger:
            assert ledger.records == records[:count]
            ledger.append(records[2])
        assert read_records(path) == RecordFile((*records[:count], records[2]), (), ())


def test_a_line_that_ends_within_a_letter_costs_that_line_alone(records: list[Record], tmp_path: Path) -> None:
    first, second = (f"{record.line()}\n".encode() for record in records[:2])
    path = tmp_path / "r.jsonl"
    path.write_bytes(first + second[: second.index("Ü".encode()) + 1])
    said: list[str] = []
    with Ledger(path, True, said.append) as ledger:
        assert ledger.records == records[:1]
    assert path.read_bytes() == first
    assert said == []


def test_what_is_damaged_within_a_file_is_told_when_it_goes(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f"{records[0].line()}\nnothing\n{records[1].line()}\n")
    said: list[str] = []
    with Ledger(path, True, said.append) as ledger:
        assert ledger.records == records[:2]
    assert said == [f"{path}: line 2 is damaged and not used"]
    many = RecordFile((), (), tuple(range(1, 31)))
    assert many.damage == "lines 1, 2, 3, 4, 5 and 25 more are damaged and not used"


def test_a_name_may_have_any_letter(records: list[Record], tmp_path: Path) -> None:
    odd = dataclasses.replace(records[0], about={"layer": "a\u2028b\x85c", "machine": "\x1c\x0b"})
    write_records(tmp_path / "r.jsonl", RecordFile((odd,), (), ()))
    assert read_records(tmp_path / "r.jsonl").records == (odd,)


DISK_FULL = """
import dataclasses, resource, signal, sys
from pathlib import Path
from tsm_edge.compile.records import read_records
from tsm_edge.errors import TuneError
from tsm_edge.tune.ledger import Ledger
path = Path(sys.argv[1])
(first,) = read_records(path).records
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with Ledger(path, go_on=True) as ledger:
        ledger.append(dataclasses.replace(first, rounds=7))
except TuneError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_leaves_no_half_line(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, RecordFile((records[0],), (), ()))
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", DISK_FULL, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "r.jsonl: cannot be written" in done.stdout
    assert "make room, then go on with: --continue" in done.stdout
    assert path.read_bytes() == before


def test_records_go_into_files_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(TuneError, match="is no file, expected one for records"):
            Ledger(path, go_on=False)
        assert path.exists()


def test_a_place_that_cannot_be_locked_is_not_said_to_be_another_tuners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(TuneError, match=r"cannot be locked \(No locks available\)"):
        Ledger(tmp_path / "r.jsonl", go_on=False)


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
