"""``tsm-edge`` as a real process, with a stand-in for the compiled model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(program_environment: dict[str, str]) -> dict[str, str]:
    """In which the stand-ins of the tests are found, too."""
    environment = {**program_environment, "PYTHONPATH": f"{program_environment['PYTHONPATH']}:{TESTS}"}
    environment.pop("OPENCV_FFMPEG_LOGLEVEL", None)  # set by tests that used the package in this process
    return environment


@pytest.fixture
def run(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Run:
    """Run the test module's ``PROGRAM`` in an empty folder; its output is text."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*request.module.PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment
        )

    return call
