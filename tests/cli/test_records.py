"""``tsm-edge records`` as a user types it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tsm_edge.cards import load_target
from tsm_edge.cards.threads import Threads
from tsm_edge.cli.main import entry_point
from tsm_edge.compile.backends.cpu.version import RULES_VERSION
from tsm_edge.compile.record_keys import card_fingerprint
from tsm_edge.compile.records import Record, read_records
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.tune.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


RunProgram = Callable[..., Done]


@pytest.fixture
def run_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunProgram:
    """The program in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        return Done(entry_point(arguments), *capsys.readouterr())

    return run


def record(accepted: bool = True, number: int = 1, version: int = RULES_VERSION, layer: str = "features.1") -> Record:
    return Record(
        accepted=accepted,
        layers=(f"conv {number}>24 1x1 /1 56x56",),
        card=card_fingerprint(load_target("x86-64-v3")),
        precision="fp32",
        rules=version,
        choices=({"rule": "convolution", "layers": [0], "settings": None},),
        ratio=(0.912, 0.9, 0.93),
        rule_us=120.5,
        rounds=16,
        about={"layer": layer, "machine": "Ünnamed CPU", "date": "2026-11-26"},
    )


THREADS = ThreadRecord("n", Threads(4, (4, 5, 6, 7)), (0.31, 0.3, 0.32), 900.0, {"model": "small"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    kept = [record(), record(accepted=False), record(number=2, version=0, layer="old"), THREADS]
    path.write_text("".join(f"{one.line()}\n" for one in kept), "utf-8")
    return path


def test_they_are_listed(run_program: RunProgram, file: Path) -> None:
    done = run_program("records", "list", file.name)
    assert done.returncode == 0, done.stderr
    assert "features.1" in done.stdout
    assert "x86-64-v3, fp32" in done.stdout
    assert "0.912" in done.stdout
    assert "(not accepted)" not in done.stdout
    assert "small: 4 threads on CPUs 4, 5, 6, 7, 0.310 of one thread's time" in done.stdout
    assert "2 accepted records, 1 of threads, 1 trials that were not accepted" in done.stderr
    assert "uses it" in done.stdout
    assert "(not accepted)" in run_program("records", "list", file.name, "--all").stdout
    table = json.loads(run_program("records", "list", file.name, "--json").stdout)
    assert [one["about"]["layer"] for one in table["records"]] == ["features.1", "old"]
    assert table["threads"][0]["threads"] == {"count": 4, "cores": [4, 5, 6, 7]}


def test_what_compile_does_not_use_is_marked(run_program: RunProgram, file: Path) -> None:
    foreign = dataclasses.replace(record(number=5, layer="foreign"), card="0123456789abcdef")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{foreign.line()}\n")
    done = run_program("records", "list", file.name)
    marks = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line.split()}
    assert marks["features.1"].endswith("uses it")
    assert marks["old"].endswith(f"not used: version 0 of the rules, not {RULES_VERSION}")
    assert marks["foreign"].endswith("not used by a card here: another machine's, changed since, or a file of yours")
    assert "with the cards here compile does not use 2 of them: tune again with: tsm-edge tune" in done.stderr
    table = json.loads(run_program("records", "list", file.name, "--all", "--json").stdout)
    marks = {f"{one['about']['layer']}, {one['accepted']}": one["compile"] for one in table["records"]}
    assert marks["features.1, True"] == "uses it"
    assert marks["features.1, False"] == "a trial"
    assert marks["old, True"].startswith("not used: version 0")


def test_a_trial_in_which_the_board_failed_is_told_from_a_wrong_one(run_program: RunProgram, tmp_path: Path) -> None:
    wrong = dataclasses.replace(record(accepted=False), ratio=None)
    failed = dataclasses.replace(record(accepted=False, number=2, layer="other"), ratio=None, rounds=0)
    (tmp_path / "r.jsonl").write_text(f"{wrong.line()}\n{failed.line()}\n", "utf-8")
    lines = run_program("records", "list", "r.jsonl", "--all").stdout.splitlines()
    assert ["wrong" in line for line in lines if line.startswith(("features.1", "other"))] == [True, False]
    assert ["the board failed" in line for line in lines if line.startswith(("features.1", "other"))] == [False, True]


def test_they_are_merged(run_program: RunProgram, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(f"{record(layer='later').line()}\n{record(number=3).line()}\nhalf of a li", "utf-8")
    done = run_program("records", "merge", file.name, other.name, "-o", "all.jsonl")
    assert done.returncode == 0, done.stderr
    assert "other.jsonl: line 3 is damaged and not used" in done.stderr
    found = read_records(tmp_path / "all.jsonl")
    assert [one.about["layer"] for one in found.records if one.accepted] == ["later", "old", "features.1"]
    assert found.threads == (THREADS,)
    again = run_program("records", "merge", "all.jsonl", file.name, "-o", other.name)
    assert again.returncode == 2
    assert "other.jsonl: is there already, and none of the files; name it, too, or choose another" in again.stderr


def test_they_are_pruned(run_program: RunProgram, file: Path, tmp_path: Path) -> None:
    before = file.read_text("utf-8")
    done = run_program("records", "prune", file.name, "-o", "small.jsonl")
    assert done.returncode == 0, done.stderr
    assert "1 accepted records are of another version of the rules" in done.stderr
    assert file.read_text("utf-8") == before
    assert read_records(tmp_path / "small.jsonl").records == (record(),)
    assert run_program("records", "prune", file.name).returncode == 0
    assert file.read_bytes() == (tmp_path / "small.jsonl").read_bytes()


def test_a_file_that_has_nothing_for_compile_is_not_pruned_away(run_program: RunProgram, tmp_path: Path) -> None:
    trials = tmp_path / "trials.jsonl"
    trials.write_text(f"{record(accepted=False).line()}\n{record(version=0).line()}\n", "utf-8")
    before = trials.read_bytes()
    done = run_program("records", "prune", trials.name)
    assert done.returncode == 2
    assert "trials.jsonl: compile can use none of its 2 records" in done.stderr
    assert done.stderr.count("\n") == 1
    assert trials.read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [("prune", "mine.jsonl", "-o", "notes.txt"), ("merge", "mine.jsonl", "-o", "notes.txt")]
)
def test_no_other_file_is_replaced(
    run_program: RunProgram, arguments: tuple[str, ...], file: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = run_program("records", *arguments)
    assert done.returncode == 2
    assert "notes.txt: is there already" in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [("prune", "mine.jsonl"), ("merge", "mine.jsonl", "new.jsonl", "-o", "mine.jsonl")]
)
def test_a_file_that_a_tuner_has_is_left_to_it(
    run_program: RunProgram, arguments: tuple[str, ...], file: Path, tmp_path: Path
) -> None:
    (tmp_path / "new.jsonl").write_text(f"{record(number=3).line()}\n", "utf-8")
    with Ledger(file, go_on=True) as tuner:
        done = run_program("records", *arguments)
        assert done.returncode == 2
        assert "mine.jsonl: another tsm-edge tune has it" in done.stderr
        tuner.append(record(number=4))
    assert record(number=4) in read_records(file).records
    assert run_program("records", *arguments).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
        (("list", "diary.txt"), "diary.txt: not a file of tuning records"),
        (("prune", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
        (("merge", "mine.jsonl", "-o", "/proc/all.jsonl"), "/proc/all.jsonl: cannot be written"),
        (("list",), "Missing argument 'FILE...'"),
    ],
)
def test_mistakes_are_a_line(
    run_program: RunProgram, arguments: tuple[str, ...], message: str, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary\n")
    there = sorted(tmp_path.iterdir())
    done = run_program("records", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == there


def test_records_and_none_are_not_both_asked_for(run_program: RunProgram, file: Path) -> None:
    done = run_program("compile", "motion", "--records", file.name, "--no-records")
    assert done.returncode == 2
    assert "--records names records and --no-records wants none: expected one of them" in done.stderr
    assert done.stderr.count("\n") == 1


def test_of_two_records_the_one_that_was_measured_longer_stays() -> None:
    from tsm_edge.tune.record_sets import best_measured

    short, long = record(accepted=False), dataclasses.replace(record(accepted=False), rounds=40)
    assert list(best_measured([long, short]).values()) == [long]
    assert list(best_measured([short, long, record()]).values()) == [long]
