"""A library for a GPU, as it goes to a board: nothing of NVIDIA's is linked, and what the driver is given is inside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_gpu
from elf import AARCH64, Elf

from tsm_edge.artifact.folder import LIBRARY
from tsm_edge.cards import load_target
from tsm_edge.errors import ArtifactError
from tsm_edge.verify.standin.shipped import shipped_ptx


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    return tiny_gpu.write_artifact(folder / "model", tiny_gpu.tiny(), load_target("jetson-nano")) / LIBRARY


def test_a_jetson_with_jetpack_4_can_load_it(library: Path) -> None:
    elf = Elf(library)
    assert elf.machine == AARCH64
    # Ubuntu 18.04 has glibc 2.27; the driver's library is looked for when it is needed.
    assert set(elf.needed) <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
    versions = [tuple(map(int, text.removeprefix("GLIBC_").split("."))) for text in elf.versions]
    assert versions
    assert max(versions) <= (2, 27)
    asked = {symbol.name for symbol in elf.symbols if not symbol.defined}
    assert "dlopen" in asked
    assert not [name for name in asked if name.startswith("cu")]


def test_it_has_the_ptx_and_the_machine_code_inside(library: Path) -> None:
    assert shipped_ptx(library) == tiny_gpu.PTX
    assert tiny_gpu.CUBIN in library.read_bytes()


def test_a_library_for_a_cpu_has_no_ptx() -> None:
    with pytest.raises(ArtifactError, match="has no PTX inside, expected a model for a GPU"):
        shipped_ptx(Path(sys.executable))


def test_the_interface_is_the_same_as_a_cpus(library: Path) -> None:
    exported = {symbol.name for symbol in Elf(library).symbols if symbol.defined}
    script = (Path(tiny_gpu.HEADER).parent / "exports.map").read_text("ascii")
    assert exported == {name.strip(" ;") for name in script.split("global:")[1].split("local:")[0].split()}
