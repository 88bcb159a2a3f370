"""Rules, and the events they find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tsm_edge.errors import EventError
from tsm_edge.events.detector import Detector, Sight
from tsm_edge.events.event import Event
from tsm_edge.events.rules import Rule, read_rules

LABELS = ("wave", "clap", "nothing")


def run(rule: Rule, shown: str, every_s: float = 0.1, breaks: Sequence[int] = ()) -> tuple[Detector, list[Event]]:
    """Show labels by their first letters, in capitals with probability 0.9, else 0.6; ``-`` is nothing at 0.1."""
    detector = Detector([rule], "model", "camera 0")
    events = []
    for index, letter in enumerate(shown):
        label = next((label for label in LABELS if label[0] == letter.lower()), "nothing")
        probability = 0.9 if letter.isupper() else 0.1 if letter == "-" else 0.6
        sight = Sight(
            label, LABELS.index(label), probability, index * every_s, 1e9 + index * every_s, index, index in breaks
        )
        events += detector.update(sight)
    return detector, events


def told(events: Sequence[Event]) -> list[tuple[str, str, int]]:
    return [(event.event_type, event.label, event.frame) for event in events]


def test_an_event_begins_after_its_duration_and_ends_after_its_release() -> None:
    rule = Rule("wave", 0.5, duration_s=0.25, release_s=0.15)
    _, events = run(rule, "--wwwWwww-----")
    assert told(events) == [("start", "wave", 5), ("end", "wave", 8)]
    start, end = events
    assert start.event_id == end.event_id
    assert start.id != end.id
    assert (start.time, end.time) == ("2001-09-09T01:46:40.200Z", "2001-09-09T01:46:40.800Z")
    assert (start.duration_s, end.duration_s) == (0.3, 0.6)
    assert (start.probability, end.probability) == (0.9, 0.9)


def test_too_short_or_too_unsure_is_nothing() -> None:
    assert run(Rule("wave", 0.5, 0.5), "wwww--wwww--")[1] == []
    assert run(Rule("wave", 0.7, 0.0), "wwwwwwwwww")[1] == []
    assert run(Rule("clap", 0.5, 0.0), "wwwwwwwwww")[1] == []


def test_a_flicker_shorter_than_the_release_does_not_end_it() -> None:
    detector, events = run(Rule("wave", 0.5, 0.0, release_s=0.35), "ww--ww---ww")
    assert told(events) == [("start", "wave", 0)]
    assert told(detector.finish()) == [("end", "wave", 10)]
    assert detector.finish() == []


def test_the_cool_down_holds_for_its_own_label() -> None:
    rule = Rule("*", 0.5, 0.0, release_s=0.1, cool_down_s=0.45)
    _, events = run(rule, "w--w--cc--w---w-")
    assert told(events) == [
        ("start", "wave", 0), ("end", "wave", 0),
        ("start", "clap", 6), ("end", "clap", 7),
        ("start", "wave", 10), ("end", "wave", 10),
    ]  # fmt: skip


def test_any_label_that_lasts_ends_the_one_before() -> None:
    _, events = run(Rule("*", 0.5, duration_s=0.09, release_s=5.0), "wwwccc")
    assert told(events) == [("start", "wave", 1), ("end", "wave", 2), ("start", "clap", 4)]


def test_a_break_in_the_source_ends_what_goes_on() -> None:
    _, events = run(Rule("wave", 0.5, duration_s=0.15, release_s=1.0), "wwwwwwww", breaks=[4])
    assert told(events) == [("start", "wave", 2), ("end", "wave", 3), ("start", "wave", 6)]


def test_rules_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nlabel = "wave"\nprobability = 0.7\ncool_down_s = 5\n\n[[rule]]\n')
    assert read_rules(file, LABELS) == (Rule("wave", 0.7, cool_down_s=5.0), Rule())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'rule' is missing"),
        ("rule = []", "has no rule"),
        ('[[rule]]\nlabel = "wafe"', "did you mean 'wave'"),
        ("[[rule]]\nprobability = 7", "expected 0 to 1"),
        ("[[rule]]\nduration_s = -1", "expected 0 s or more"),
        ("[[rule]]\ncool_down_s = inf", "cool_down_s"),
        ("[[rule]]\ncooldown = 1", "unknown key 'cooldown'"),
        ("[[rule]\n", "not a readable TOML"),
    ],
)
def test_wrong_rules_are_one_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(EventError) as error:
        read_rules(file, LABELS)
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
