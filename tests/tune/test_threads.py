"""What may be raced on a machine: threads, clusters of cores, hardware threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsm_edge.cards.threads import Threads
from tsm_edge.power.system import LocalSystem
from tsm_edge.tune.threads import ways_of

Part = tuple[int, int, range]  # Arm's part number, highest clock in MHz, CPUs
A57, DENVER, A72, A55, A76 = 0xD07, 0x003, 0xD08, 0xD05, 0xD0B


def machine(folder: Path, *parts: Part, allowed: str = "") -> LocalSystem:
    """The files of a machine whose clusters have these cores."""
    cpus = folder / "sys/devices/system/cpu"
    every = [number for _, _, numbers in parts for number in numbers]
    cores = {number: part for part, _, numbers in parts for number in numbers}
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/status").write_text(f"Name:\tx\nCpus_allowed_list:\t{allowed or f'0-{max(every)}'}\n")
    blocks = [f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: {cores[n]:#x}" for n in sorted(every)]
    (folder / "proc/cpuinfo").write_text("\n\n".join(blocks) + "\n")
    for _, mhz, numbers in parts:
        policy = cpus / f"cpufreq/policy{numbers[0]}"
        policy.mkdir(parents=True)
        (policy / "affected_cpus").write_text(" ".join(map(str, numbers)))
        (policy / "cpuinfo_max_freq").write_text(str(mhz * 1000))
    for name in ("present", "online"):
        (cpus / name).write_text(f"0-{max(every)}")
    return LocalSystem(folder)


def test_equal_cores_are_counted(tmp_path: Path) -> None:
    found = ways_of(machine(tmp_path, (A72, 1500, range(4))))
    assert found == (Threads(1), Threads(2), Threads(4))


def test_both_clusters_of_a_tx2_and_each_alone(tmp_path: Path) -> None:
    """Two Denver 2 cores between Cortex-A57s."""
    found = ways_of(machine(tmp_path, (A57, 2035, range(3, 6)), (DENVER, 2035, range(1, 3)), (A57, 2035, range(1))))
    assert found[:4] == (Threads(1), Threads(2), Threads(4), Threads(6))
    assert {way.cores for way in found} == {(), (0, 3, 4, 5), (1, 2)}
    assert Threads(4, (0, 3, 4, 5)) in found
    assert Threads(2, (1, 2)) in found


def test_the_fast_cores_of_a_phone_come_first(tmp_path: Path) -> None:
    found = ways_of(machine(tmp_path, (A55, 1800, range(4)), (A76, 2400, range(4, 8))))
    clusters = [way.cores for way in found if way.cores]
    assert clusters[0] == (4, 5, 6, 7)
    assert set(clusters) == {(0, 1, 2, 3), (4, 5, 6, 7)}
    assert Threads(8) in found


def test_only_the_cores_that_it_may_use(tmp_path: Path) -> None:
    found = ways_of(machine(tmp_path, (A55, 1800, range(4)), (A76, 2400, range(4, 8)), allowed="0-1,7"))
    assert {way.cores for way in found} == {(), (0, 1), (7,)}
    assert max(way.count for way in found) == 3


def test_a_hardware_thread_of_every_core(tmp_path: Path) -> None:
    system = machine(tmp_path, (A76, 2400, range(8)))
    for number in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}")
    assert ways_of(system)[-1] == Threads(4, (0, 1, 2, 3))


@pytest.mark.parametrize("text", ["", "Cpus_allowed_list:\tnonsense"])
def test_a_machine_that_tells_nothing_has_one_thread(text: str, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text(text)
    assert ways_of(LocalSystem(tmp_path)) == (Threads(1),)
