"""Boards that share candidates: of one kind, and machines of their own."""

from __future__ import annotations

import dataclasses

import pytest
from simulated_board import simulated_board

from tsm_edge.errors import TuneError
from tsm_edge.tune.boards import Board, check_alike


def board(name: str, kind: str, boot: str = "") -> Board:
    return dataclasses.replace(simulated_board(name), kind=kind, boot=boot)


def test_unlike_boards_are_refused_by_name() -> None:
    boards = [board("a:9090", ""), board("b:9090", "4 x Cortex-A72"), board("c:9090", "4 x Cortex-A53")]
    with pytest.raises(TuneError) as refused:
        check_alike(boards, pytest.fail)
    assert str(refused.value) == (
        "b:9090 is 4 x Cortex-A72, c:9090 is 4 x Cortex-A53: expected boards of one kind; "
        "tune each alone, into a file of its own: -o FILE"
    )


def test_boards_that_do_not_tell_are_taken_for_alike() -> None:
    check_alike([board("a", ""), board("b", "4 x Cortex-A72", "1"), board("c", "4 x Cortex-A72", "2")], pytest.fail)


def test_two_servers_of_one_machine_are_told() -> None:
    said: list[str] = []
    check_alike([board("a", "x", "1"), board("b", "x", "2"), board("c", "x", "1")], said.append)
    check_alike([board("tracked", "x", "1"), board("tracked", "x", "1")], pytest.fail)
    assert said == ["a and c are one machine: what they measure at the same time is slower"]
