"""Which candidates come next, by what was measured; how many of them in a library; which moves are the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from simulated_board import small_network

from tsm_edge.compile.records import Record
from tsm_edge.compile.trials import Network
from tsm_edge.tune.agenda import Agenda, InTurn
from tsm_edge.tune.candidates import Candidate, candidates
from tsm_edge.tune.libraries import FIRST, MOST, LibrarySizes
from tsm_edge.tune.moves import Move


def kernel(name: str, microseconds: float, moves: Sequence[str] = ("a", "b", "c", "d")) -> list[Candidate]:
    """A kernel whose candidates differ from the rules' in one setting, each by another move."""
    found = []
    for place, to in enumerate(moves):
        choices = ({"rule": "convolution", "layers": [0], "settings": {"move": to}},)
        blank = Record(False, (name,), "card", "fp32", 1, choices, None, 0.0, 0, {"layer": name, "move": to})
        found.append(Candidate((), blank, Move(f"convolution {to}", to, is_structural=False), place, microseconds))
    return found


def measured(candidate: Candidate, ratio: float) -> Record:
    return replace(candidate.blank, ratio=(ratio, ratio - 0.01, ratio + 0.01), rounds=6)


def names(taken: Sequence[Candidate]) -> list[str]:
    return [f"{one.blank.about['layer']}.{one.blank.about['move']}" for one in taken]


def test_the_kernel_that_takes_most_time_comes_first_and_the_likeliest_of_it() -> None:
    agenda = Agenda([*kernel("short", 10.0), *kernel("long", 100.0)])
    assert names(agenda.take(2)) == ["long.a", "long.b"]
    assert len(agenda) == 6


def test_what_is_known_from_elsewhere_comes_before_all_others() -> None:
    short, long = kernel("short", 10.0), kernel("long", 100.0)
    agenda = Agenda([*short, *long], (), {short[3].blank.candidate, "of another network"})
    assert names(agenda.take(2)) == ["short.d", "long.a"]
    learned = Agenda([*short, *long], [measured(short[3], 1.2)], {short[3].blank.candidate})
    assert "short.d" not in names(learned.take(8)), "it was measured before"


def test_a_library_has_candidates_of_several_kernels() -> None:
    agenda = Agenda([*kernel("one", 100.0), *kernel("two", 90.0)])
    assert sorted(names(agenda.take(4))) == ["one.a", "one.b", "two.a", "two.b"]


def test_what_one_kernel_gained_by_is_tried_first_for_others_of_its_kind() -> None:
    one, two = kernel("one", 100.0), kernel("two", 100.0)
    agenda = Agenda([*one, *two])
    agenda.learn(measured(one[3], 0.8))
    assert names(agenda.take(1)) == ["two.d"]


def test_what_one_kernel_lost_by_is_tried_last() -> None:
    one, two = kernel("one", 100.0), kernel("two", 100.0)
    agenda = Agenda(two + one)
    for lost in one:
        agenda.learn(measured(lost, 1.3 if lost is one[0] else 1.02))
    assert names(agenda.take(8))[-1].endswith(".a")


def test_a_wrong_result_is_no_success() -> None:
    one, two = kernel("one", 100.0), kernel("two", 100.0)
    agenda = Agenda([*one, *two])
    agenda.learn(replace(one[0].blank, rounds=3))
    assert names(agenda.take(8)).index("two.a") > names(Agenda(two).take(8)).index("two.a")


def test_where_a_kernel_has_gained_much_the_others_are_looked_at() -> None:
    one, two = kernel("one", 100.0), kernel("two", 90.0)
    agenda = Agenda([*one, *two])
    assert names(agenda.take(1)) == ["one.a"]
    agenda.learn(measured(one[0], 0.5))
    assert {name.split(".")[0] for name in names(agenda.take(4))} == {"two"}


def test_what_was_measured_before_is_not_tried_again_and_has_taught() -> None:
    one, two = kernel("one", 100.0), kernel("two", 100.0)
    agenda = Agenda([*one, *two], [measured(one[3], 0.8)])
    assert len(agenda) == 7
    assert names(agenda.take(1)) == ["two.d"]


@pytest.mark.parametrize("kind", [Agenda, InTurn])
def test_what_is_given_back_waits_again(kind: type[Agenda] | type[InTurn]) -> None:
    waiting = kind(kernel("one", 100.0))
    taken = waiting.take(3)
    waiting.give_back(taken[1:])
    assert len(waiting) == 3
    assert names(waiting.take(9)) == ["one.b", "one.c", "one.d"]


def test_libraries_grow_as_time_allows() -> None:
    sizes, found = LibrarySizes(), []
    for _ in range(4):
        found.append(sizes.next(360.0))
        sizes.took(found[-1], 0.8 * found[-1])
    assert found == [FIRST, 12, MOST, MOST]


@pytest.mark.parametrize(("seconds_each", "left_s", "size"), [(10.0, 240.0, 6), (30.0, 180.0, 3), (100.0, 60.0, 1)])
def test_libraries_are_small_where_candidates_take_long(seconds_each: float, left_s: float, size: int) -> None:
    sizes = LibrarySizes()
    sizes.took(FIRST, seconds_each * FIRST)
    assert sizes.next(left_s) == size


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    network: Network = small_network(tmp_path_factory.mktemp("network"))
    return list(candidates(network, network.freedoms, {}, {free.layers: 7.0 for free in network.freedoms}))


def test_moves_are_told_apart_within_a_kernel_and_shared_between_kernels(found: list[Candidate]) -> None:
    moves: defaultdict[str, list[Move]] = defaultdict(list)
    for one in found:
        moves[one.blank.key].append(one.move)
        assert one.kernel_us == 7.0
    for of_kernel in moves.values():
        settings = [move for move in of_kernel if not move.is_structural]
        assert len(set(settings)) == len(settings)
    shared = [move for move in {one.move for one in found} if sum(move in each for each in moves.values()) > 1]
    assert {move.axis for move in shared} >= {"convolution tile.panels_outside"}


def test_structure_is_told_from_settings(found: list[Candidate]) -> None:
    for one in found:
        other_rule = {choice.rule for choice in one.choices} != {one.move.axis.split()[0]}
        assert one.move.is_structural == (len(one.choices) > 1 or other_rule)
    assert {one.move.axis for one in found if one.move.is_structural} == {"winograd as convolution"}


def test_a_measurement_that_says_little_teaches_little() -> None:
    one, two = kernel("one", 100.0), kernel("two", 100.0)
    noise = replace(one[3].blank, ratio=(0.5, 0.1, 3.0), rounds=3)
    assert names(Agenda([*one, *two], [noise]).take(1)) != ["two.d"]


def test_what_an_algorithm_does_to_small_images_says_little_of_large_ones() -> None:
    def as_winograd(name: str, size: int) -> Candidate:
        (one,) = kernel(name, 100.0, ["a"])
        return replace(one, move=Move("convolution as winograd", f"F(4) 2^{size}", is_structural=True))

    small, other, large = as_winograd("small", 7), as_winograd("other", 7), as_winograd("large", 11)
    agenda = Agenda([small, other, large], [measured(small, 1.5)])
    assert names(agenda.take(1)) == ["large.a"]
