"""A board behind a server as a tuner sees it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.architecture import this_architecture
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Place
from tsm_edge.tune.boards import board_at, this_machine
from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.race import Pace
from tsm_edge.tune.threads import fastest_threads


def test_a_board_with_our_server_says_what_may_be_raced(
    ours: Place, small_artifact: Artifact, native: TargetCard
) -> None:
    board = board_at(ours, None, native)
    assert board.machine
    assert board.ways[0] == Threads(1)
    assert max(way.count for way in board.ways) == len(os.sched_getaffinity(0))
    assert board_at(ours, 2, native).ways == ()
    frames = np.zeros((2, *small_artifact.manifest.frame_shape[1:]), np.float32)
    with closing(board.open(small_artifact, Threads(1))) as runner:
        calls = runner.select(0)
        timings = runner.measure(frames, 0, 3, kernels=True)
        assert timings.kernels_ns is not None
        assert timings.kernels_ns.shape == (3, calls)


def test_a_board_that_cannot_run_the_target_is_refused(ours: Place, stock: Place) -> None:
    foreign = "raspberry-pi-4" if this_architecture() == "x86_64" else "x86-64"
    for place in (ours, stock):
        with pytest.raises(RpcError, match=f"is {this_architecture()}, the model is compiled for {foreign} "):
            board_at(place, None, load_target(foreign))


def test_a_board_tells_its_kind_and_which_machine_it_is(ours: Place, stock: Place, native: TargetCard) -> None:
    board = board_at(ours, None, native)
    assert board.kind == board.machine == this_machine(None).kind
    assert board.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert board_at(stock, None, native).kind == ""


def test_the_race_of_threads_reaches_the_board(ours: Place, small_artifact: Artifact, native: TargetCard) -> None:
    board = board_at(ours, None, native)
    frames = np.zeros((2, *small_artifact.manifest.frame_shape[1:]), np.float32)
    ways = (Threads(1), Threads(2))
    found = fastest_threads(Fleet([board]), small_artifact, frames, ways, Pace(2, 2, 1), lambda: False, program=0)
    assert found is None or found.threads == Threads(2)


def test_stock_tvm_has_nothing_to_race(stock: Place, native: TargetCard) -> None:
    assert board_at(stock, None, native).ways == ()
