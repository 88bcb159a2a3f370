"""A clock that jumps is told from a machine that keeps a frame waiting."""

from __future__ import annotations

import itertools

import pytest

from tsm_edge.bench.clocks import ClockWatch

OFFSET = 100.0  # the device's clock is ahead by so much


def watch(*calls: tuple[float, float], jumps: dict[int, float] | None = None) -> list[float | None]:
    """Calls of half a second of frames; each waits so long before and after its frames."""
    clock, now, ahead, found = ClockWatch(), 0.0, OFFSET, []
    for index, (before, after) in enumerate(calls):
        ahead += (jumps or {}).get(index, 0.0)
        asked = now
        first = asked + before
        now = first + 0.5 + after
        found.append(clock.jump_s(asked, now, first + ahead, first + 0.5 + ahead))
    return found


def test_waiting_for_a_core_is_no_jump() -> None:
    waits = (0.0, 0.3, 2.0, 0.01)
    calls = list(itertools.product(waits, waits))
    assert watch(*calls, *reversed(calls)) == [None] * 32


@pytest.mark.parametrize("jump_s", [5.0, -5.0, 0.6])
def test_a_jump_is_found_with_its_size(jump_s: float) -> None:
    *quiet, found = watch(*[(0.01, 0.01)] * 5, jumps={4: jump_s})
    assert quiet == [None] * 4
    assert found == pytest.approx(jump_s, abs=0.1)


def test_frames_that_took_longer_than_their_call_are_found() -> None:
    assert ClockWatch().jump_s(0.0, 1.0, 50.0, 53.0) == pytest.approx(2.0)


def test_a_device_that_slept_during_a_call_is_found_at_the_next() -> None:
    clock = ClockWatch()
    assert clock.jump_s(0.0, 0.5, 0.0, 0.5) is None
    assert clock.jump_s(0.5, 11.0, 0.5, 1.0) is None  # it may have waited
    assert clock.jump_s(11.0, 11.5, 1.0, 1.5) == pytest.approx(-10.0, abs=0.6)
