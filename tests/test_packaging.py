"""The wheel carries everything the program needs and works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import tsm_edge

PROJECT = Path(__file__).resolve().parents[1]
SOURCE_SUFFIXES = {".py", ".c", ".h", ".map", ".typed", ".html", ".css", ".js", ".svg"}


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, PROJECT)
    (path,) = folder.glob("tsm_edge-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder the wheel is installed into, without its dependencies (those of this environment are used)."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def test_it_is_the_checkout_that_is_tested() -> None:
    assert Path(tsm_edge.__file__).resolve() == PROJECT / "tsm_edge" / "__init__.py", (
        "install it with: pip install -e ."
    )
    assert Path(tsm_edge.__file__).resolve().parents[1] in (Path(entry).resolve() for entry in sys.path)


def test_wheel_has_every_source_card_and_label_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "tsm_edge").rglob("*")
        if path.suffix in SOURCE_SUFFIXES or path.name == "py.typed"
    }
    data = {
        f"tsm_edge/{path.relative_to(PROJECT).as_posix()}"
        for folder in ("models", "targets")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file()
    }
    assert {"tsm_edge/py.typed", "tsm_edge/runtime/tsm_edge.h"} <= sources
    assert {"tsm_edge/models/mobilenetv2-jester.toml", "tsm_edge/models/labels/jester.txt"} <= data
    assert sources | data <= names
    # And nothing else but the wheel's own description.
    assert all(name in sources | data or ".dist-info/" in name for name in names)


def test_wheel_keeps_test_only_packages_out_of_the_requirements(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    required = fields.get_all("Requires-Dist", [])
    assert [line for line in required if line.startswith("apache-tvm-ffi==0.1.14.post1; extra == 'compile'")]
    assert not [line for line in required if "extra ==" not in line and line.startswith(("torch", "apache", "onnx"))]
    assert any(name.startswith("scikit-video") and "extra == 'test'" in name for name in required)
    assert fields["License-Expression"] == "Apache-2.0"


def test_installed_program_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    program = installed / "bin" / "tsm-edge"
    done = subprocess.run(
        [program, "models"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "mobilenetv2-jester" in done.stdout
    code = "import tsm_edge, tsm_edge.cards as c; print(tsm_edge.__file__); print(c.load_target('x86-64').cpu.cpu)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(installed / "tsm_edge" / "__init__.py"), "x86-64-v3"]
