"""Several machines: different ones at the same time, two places of one machine in turn, and nobody loses by another."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench_results import a_result

from tsm_edge.bench.run import Outcome, Show
from tsm_edge.bench.together import Job, in_turn, machine_behind, measure_together, shared_machines
from tsm_edge.errors import BenchError, TsmEdgeError
from tsm_edge.power.system import LocalSystem


def quiet(text: str, done: float | None) -> None:
    pass


def job(name: str, machine: str, measure: object = None) -> Job:
    def plain(show: Show) -> Outcome:
        return Outcome(replace(a_result(), name=name), None)

    return Job(name, machine, measure or plain)  # type: ignore[arg-type]


def names(found: list[Outcome | TsmEdgeError]) -> list[str]:
    return [one.result.name if isinstance(one, Outcome) else str(one) for one in found]


def test_different_machines_are_measured_at_the_same_time() -> None:
    """Each waits for the other one to have begun."""
    both = threading.Barrier(2, timeout=30)

    def measure(name: str) -> Job:
        def wait(show: Show) -> Outcome:
            both.wait()
            return Outcome(replace(a_result(), name=name), None)

        return job(name, name, wait)

    assert names(list(measure_together([measure("b"), measure("a")], False, quiet))) == ["b", "a"]


def test_places_of_one_machine_take_turns() -> None:
    busy = threading.Lock()

    def alone(show: Show) -> Outcome:
        assert busy.acquire(blocking=False)
        time.sleep(0.05)
        busy.release()
        return Outcome(a_result(), None)

    jobs = [job("a", "one", alone), job("b", "two"), job("c", "one", alone)]
    assert in_turn(jobs, one_at_a_time=False) == [[0, 2], [1]]
    assert in_turn(jobs, one_at_a_time=True) == [[0, 1, 2]]
    assert shared_machines(jobs) == [["a", "c"]]
    assert len(list(measure_together(jobs, False, quiet))) == 3


@pytest.mark.parametrize("machines", [("one", "one", "one"), ("one", "two", "three")])
def test_a_machine_that_fails_takes_nothing_from_the_others(machines: tuple[str, str, str]) -> None:
    def fail(show: Show) -> Outcome:
        raise BenchError("b is gone", "measure again")

    jobs = [job("a", machines[0]), job("b", machines[1], fail), job("c", machines[2])]
    found = list(measure_together(jobs, False, quiet))
    assert [type(one) for one in found] == [Outcome, BenchError, Outcome]


def test_a_defect_of_ours_is_not_swallowed() -> None:
    def broken(show: Show) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(measure_together([job("a", "one"), job("b", "two", broken)], False, quiet))


def test_ctrl_c_ends_all_with_what_they_have() -> None:
    began = {name: threading.Event() for name in "ab"}

    def measure(name: str) -> Job:
        def forever(show: Show) -> Outcome:
            try:
                began[name].set()
                while True:
                    time.sleep(0.01)
            except KeyboardInterrupt as stopped:
                return Outcome(replace(a_result(), name=name, partial="interrupted"), stopped)

        return job(name, name, forever)

    def interrupt() -> None:
        assert all(event.wait(30) for event in began.values())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    found = list(measure_together([measure("a"), job("c", "a"), measure("b")], False, quiet))
    thread.join(30)
    assert names(found) == ["a", "b"]  # c was not begun
    assert all(isinstance(one, Outcome) and one.result.partial == "interrupted" for one in found)


def test_ctrl_c_while_the_threads_start_ends_those_that_have(monkeypatch: pytest.MonkeyPatch) -> None:
    began, start, started = threading.Event(), threading.Thread.start, []

    def forever(show: Show) -> Outcome:
        began.set()
        try:
            while time.monotonic() < until:
                time.sleep(0.01)
        except KeyboardInterrupt as stopped:
            return Outcome(replace(a_result(), partial="interrupted"), stopped)
        raise AssertionError("was not interrupted")

    def interrupted(thread: threading.Thread) -> None:
        if started:
            assert began.wait(30)
            raise KeyboardInterrupt
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    until = time.monotonic() + 30
    [found] = measure_together([job("a", "one", forever), job("b", "two", forever)], False, quiet)
    assert isinstance(found, Outcome)
    assert found.result.partial == "interrupted"


def test_a_machine_is_told_by_its_boot_or_its_address(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    here = [machine_behind(LocalSystem(), "192.0.2.7:9090"), *(machine_behind(None, text) for text in LOOPBACK)]
    assert set(here) == {boot}
    assert machine_behind(None, "192.0.2.7:9090 (key 'a')") == machine_behind(LocalSystem(tmp_path), "192.0.2.7:80")
    assert machine_behind(None, "192.0.2.7:9090") != machine_behind(None, "192.0.2.8:9090")


LOOPBACK = ("127.0.0.1:9090", "[::1]:9090", "localhost:1", "unix:/tmp/board", None)
