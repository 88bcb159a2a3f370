"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import (  # noqa: F401
    artifact_with_runner,
    clip_artifact,
    clips_artifact,
    golden_artifact,
    golden_checkpoint,
    motion_artifact,
    native,
    other_artifact,
    small_artifact,
    tiny_gpu_models,
)

import tsm_edge

# A shell that starts the tests in the background has Ctrl-C ignored in them and in every program they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So has nohup the end of a terminal. What is handled here is not ignored in programs that are started.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# Processes of pytest-xdist share the cores: PyTorch's own threads would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long sweeps take as long as they take; what is of real time gets another try after the machine was too busy."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))
        if item.get_closest_marker("real_time"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program_environment() -> dict[str, str]:
    """The environment in which a real ``tsm-edge`` process finds the package under test, from any folder."""
    package_parent = str(Path(tsm_edge.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": package_parent, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run_program(program_environment: dict[str, str], tmp_path: Path) -> RunProgram:
    """Run ``tsm-edge`` with the given arguments as a real process in an empty folder; its output is text."""

    def run(*arguments: str, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tsm_edge.cli", *arguments]
        settings: dict[str, object] = {"cwd": tmp_path, "env": program_environment, **options}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **settings)  # type: ignore[call-overload, no-any-return]

    return run
