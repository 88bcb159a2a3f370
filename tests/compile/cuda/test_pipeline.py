"""``tsm-edge compile`` for a GPU: the whole way, with nothing but Python packages."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from elf import Elf
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import LIBRARY, RUNNER, load_artifact
from tsm_edge.cli.compile import command


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Artifact of a network of three launches, and what ``--explain --json`` says of it."""
    folder = tmp_path_factory.mktemp("cuda")
    graph = GraphBuilder(16, 16)
    model = graph.model(graph.head(graph.relu(graph.conv(graph.frame, 8, 3, 2)), 5))
    onnx.save(model, str(folder / "model.onnx"))
    arguments = ["--onnx", str(folder / "model.onnx"), "--target", "jetson-nano", "-o", str(folder / "out")]
    done = CliRunner().invoke(command, [*arguments, "--explain", "--json", "--keep-intermediates"])
    assert done.exit_code == 0, done.output
    return folder / "out", json.loads(done.stdout)


def test_the_artifact_is_for_the_board(result: tuple[Path, dict[str, object]]) -> None:
    manifest = load_artifact(result[0]).manifest
    assert manifest.target.name == "jetson-nano"
    assert [kernel.rule for kernel in manifest.kernels] == ["stem", "average_pool", "dense"]
    assert manifest.versions["cuda"].startswith("nvrtc 11.8, ptxas 11.8.")


@pytest.mark.parametrize("name", [LIBRARY, RUNNER])
def test_no_cuda_and_an_old_glibc_are_needed(name: str, result: tuple[Path, dict[str, object]]) -> None:
    """``tsm-runner`` is not static: it opens the driver's library."""
    elf = Elf(result[0] / name)
    assert "libc.so.6" in elf.needed
    assert elf.machine == 183  # EM_AARCH64
    assert not [name for name in elf.needed if "cuda" in name or "nv" in name]
    versions = [tuple(map(int, text.removeprefix("GLIBC_").split("."))) for text in elf.versions if "GLIBC_" in text]
    assert max(versions) <= (2, 27)


def test_the_explanation_has_what_ptxas_says(result: tuple[Path, dict[str, object]]) -> None:
    explained = result[1]["explain"]
    assert isinstance(explained, dict)
    stem, pool, dense = explained["kernels"]
    assert stem["registers"] > 40
    assert (stem["spill_bytes"], pool["spill_bytes"], dense["spill_bytes"]) == (0, 0, 0)
    assert (stem["shared_bytes"], pool["shared_bytes"]) == (4 * 28 * 8, 512)
    assert dense["resident_warps"] <= 64
    assert explained["modelled_milliseconds"] == pytest.approx(
        sum(kernel["microseconds"] for kernel in explained["kernels"]) / 1e3
    )


def test_every_stage_is_kept(result: tuple[Path, dict[str, object]]) -> None:
    kept = Path(f"{result[0]}-intermediates")
    assert 'extern "C" __global__' in (kept / "kernels.cu").read_text()
    assert ".version 6.4" in (kept / "kernels.ptx").read_text()
    assert (kept / "kernels.cubin").read_bytes().startswith(b"\x7fELF")
