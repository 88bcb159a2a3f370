"""Real servers and a real tracker; each is started once, when the first test asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from background import Background, Start, served_at

import tsm_edge
from tsm_edge.rpc.place import Endpoint, Place


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start ``python -m ARGUMENTS`` in the background, where torch is not installed, as on a board.

    Ended after the last test. (Without torch TVM's programs start in half the time.)
    """
    folder = tmp_path_factory.mktemp("background")
    (folder / "torch.py").write_text("raise ImportError('not on this machine')\n")
    package_parent = str(Path(tsm_edge.__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{package_parent}",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }
    running: list[Background] = []

    def run(*arguments: str, **variables: str) -> Background:
        log = folder / f"{len(running)}.log"
        running.append(Background([sys.executable, "-m", *arguments], log, {**environment, **variables}))
        return running[-1]

    yield run
    for program in running:
        program.kill()


@pytest.fixture(scope="session")
def our_server(start: Start) -> Background:
    """``tsm-edge serve`` with the key ``board``."""
    return start("tsm_edge.cli", "serve", "--port", "0", "--key", "board")


@pytest.fixture(scope="session")
def stock_server(start: Start) -> Background:
    """TVM's own server with the key ``stock``."""
    arguments = ("--host", "127.0.0.1", "--port", "9300", "--port-end", "9399", "--key", "stock")
    return start("tvm.exec.rpc_server", *arguments)


@pytest.fixture(scope="session")
def tracker(start: Start) -> Background:
    """TVM's tracker."""
    arguments = ("--host", "127.0.0.1", "--port", "9400", "--port-end", "9499")
    return start("tvm.exec.rpc_tracker", *arguments, TVM_USE_RUNTIME_LIB="1")


@pytest.fixture
def ours(our_server: Background) -> Place:
    """Our server."""
    return Place(served_at(our_server), "board")


@pytest.fixture
def stock(stock_server: Background) -> Place:
    """TVM's own server."""
    return Place(Endpoint("127.0.0.1", int(stock_server.wait_for(r"bind to 127\.0\.0\.1:(\d+)")[1])), "stock")


@pytest.fixture
def tracked(tracker: Background) -> Endpoint:
    """Where the tracker listens."""
    return Endpoint("127.0.0.1", int(tracker.wait_for(r"bind to 127\.0\.0\.1:(\d+)")[1]))


@pytest.fixture(scope="session")
def our_tracked_server(start: Start, tracker: Background) -> Background:
    """``tsm-edge serve``, announced as a ``gadget``."""
    port = tracker.wait_for(r"bind to 127\.0\.0\.1:(\d+)")[1]
    return start("tsm_edge.cli", "serve", "--port", "0", "--key", "gadget", "--tracker", f"127.0.0.1:{port}")
