"""A small install (no extras) has what a device needs, and says of the rest how to get it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from background import Background, served_at
from encoded_clips import clip

from tsm_edge.artifact.folder import Artifact
from tsm_edge.extras import EXTRAS, line_for
from tsm_edge.rpc.place import Place
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.session.local import OnlineSession

PROJECT = Path(__file__).resolve().parents[1]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


def required(by: metadata.Distribution, seen: set[str]) -> Iterator[metadata.Distribution]:
    """All that a distribution requires, without extras, from this environment."""
    for line in by.requires or ():
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip())[0]
        if name in seen or "extra ==" in marker or "python_version" in marker:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        yield found
        yield from required(found, seen)


@pytest.fixture(scope="module")
def small_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of an environment with the wheel and what it requires, and nothing else.

    The required packages are this environment's own, linked one by one.
    """
    folder = tmp_path_factory.mktemp("small-install")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("tsm_edge-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    (itself,) = metadata.distributions(name="tsm-edge", path=[str(site)])
    for distribution in required(itself, set()):
        for top in {Path(str(file)).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(source)
    return folder / "venv/bin/python"


@pytest.fixture
def program(small_install: Path, tmp_path: Path) -> Program:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(small_install), "-m", "tsm_edge.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)

    return run


def test_nothing_of_the_compiler_is_installed(small_install: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {EXTRAS['compile']!r} if u.find_spec(n)])"
    assert subprocess.run([small_install, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_and_cards(program: Program) -> None:
    assert program("--help").returncode == 0
    assert "raspberry-pi-4" in program("targets").stdout
    assert "mobilenetv2-jester" in program("models").stdout


def test_run(program: Program, artifact_with_runner: Artifact) -> None:
    done = program("run", str(artifact_with_runner.path), "--video", str(clip("bikes.mp4")), "--json", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["index"] == 0


def test_the_page_and_mqtt_name_the_pip_command(program: Program, artifact_with_runner: Artifact) -> None:
    run = ("run", str(artifact_with_runner.path), "--video", str(clip("bikes.mp4")))
    for extra, words in (("page", ("--page", "0")), ("mqtt", ("--mqtt", "localhost"))):
        done = program(*run, *words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"tsm-edge: error: --{extra} needs ")
        assert done.stderr.endswith(f"install it with: pip install 'tsm-edge[{extra}]'\n")


def test_events_need_no_extra(program: Program, artifact_with_runner: Artifact, tmp_path: Path) -> None:
    words = ("--video", str(clip("bikes.mp4")), "--limit", "60", "--quiet", "--events", str(tmp_path / "events.jsonl"))
    (tmp_path / "rules.toml").write_text("[[rule]]\nprobability = 0\n")
    done = program("run", str(artifact_with_runner.path), *words, "--rules", str(tmp_path / "rules.toml"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])["event_type"] == "start"


def test_verify_with_golden_frames(program: Program, artifact_with_runner: Artifact) -> None:
    done = program("verify", str(artifact_with_runner.path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] is True
    assert found["against"] == "its golden.bin"


def test_deploy_makes_a_bundle(program: Program, artifact_with_runner: Artifact, tmp_path: Path) -> None:
    done = program("deploy", str(artifact_with_runner.path), "--bundle", str(tmp_path / "model.tar.gz"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.tar.gz").stat().st_size > 1000


@pytest.mark.parametrize("command", ["compile", "export -o model.onnx", "demo"])
def test_what_needs_the_compiler_names_the_pip_command(program: Program, command: str) -> None:
    done = program(*command.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        rf"tsm-edge: error: tsm-edge {command.split()[0]} needs tvm, .*ziglang, which a small install leaves out; "
        r"install it with: pip install 'tsm-edge\[compile\]'\n",
        done.stderr,
    )


def test_serve(small_install: Path, program: Program, artifact_with_runner: Artifact, tmp_path: Path) -> None:
    """The program of the small install at both ends, and a client of this environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(small_install), "-m", "tsm_edge.cli", "serve", "--port", "0"]
    server = Background(command, tmp_path / "server.log", environment)
    try:
        place = Place(served_at(server))
        frame = np.random.default_rng(0).standard_normal(artifact_with_runner.manifest.frame_shape, np.float32)
        with RemoteSession(artifact_with_runner, place) as there, OnlineSession(artifact_with_runner) as here:
            np.testing.assert_array_equal(there.step(frame), here.step(frame))
        words = ("--video", str(clip("bikes.mp4")), "--json", "--limit", "3", "--rpc", str(place.endpoint))
        done = program("run", str(artifact_with_runner.path), *words)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["index"] == 0
        assert server.interrupt() == 0
    finally:
        server.kill()


def test_a_module_of_an_extra_is_told_from_others() -> None:
    assert line_for("torch.nn") == (
        "torch is missing, which a small install leaves out; install it with: pip install 'tsm-edge[compile]'"
    )
    assert line_for("numpy") is None
    assert line_for(None) is None
