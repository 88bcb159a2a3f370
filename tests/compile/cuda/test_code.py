"""From CUDA C to machine code: what is asked of NVRTC and ptxas, and what they are not allowed to make."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cuda_steps import addresses_can_be_fixed

from tsm_edge.cards import GpuSpec, load_target, target_names
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cuda import nvrtc, toolchain
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.choose.tiles import gemm_tile, most_registers, registers_of
from tsm_edge.compile.backends.cuda.codegen import cuda_source
from tsm_edge.compile.backends.cuda.generate import generate
from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx
from tsm_edge.compile.backends.cuda.ptxas import assemble, check_resources, parse_resources
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.device_code import KernelResources
from tsm_edge.compile.ir.layout import planes
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program
from tsm_edge.errors import CompileError, TsmEdgeError

GPUS = {name: card.gpu for name in target_names() if not name.startswith("native") and (card := load_target(name)).gpu}


def copying() -> Program:
    """A program of one small kernel."""
    spec = CopySpec(planes(3, 5, 2), planes(3, 5, 2))
    call = KernelCall("tsm_k0_copy", spec, (BufferRef("cache"), BufferRef("next_cache")), "copy")
    return Program((call,), (), (np.zeros(1, np.float32),), (), 0, FP32, Choices())


@pytest.fixture(scope="module")
def cuda_code() -> str:
    """Kernels that NVRTC makes other PTX of where its objects lie elsewhere, and some more: two processes' work."""
    gpu = load_gpu("jetson-nano")
    specs: dict[str, GemmSpec | CopySpec] = {
        f"copy_{channels}": CopySpec(planes(3, 5, channels), planes(3, 5, channels)) for channels in range(1, 6)
    }
    for side, inputs, outputs in ((2, 480, 320), (12, 24, 72), (24, 8, 48)):
        spec = GemmSpec(planes(side, side, inputs), planes(side, side, outputs), GemmTile(8, 8, 8, 8))
        specs[f"to_{outputs}"] = dataclasses.replace(spec, tile=gemm_tile(gpu, spec), activation="saturate")
    return cuda_source({name: spec.write(name) for name, spec in specs.items()}, gpu)


@pytest.mark.skipif(not addresses_can_be_fixed(), reason="processes here may not ask for fixed addresses")
def test_the_same_kernels_are_the_same_instructions_every_time(
    cuda_code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NVRTC orders instructions by the addresses of its own objects, which depend on much."""
    gpu = load_gpu("jetson-nano")
    first = compile_ptx(cuda_code, gpu)
    for cores, size in ((1, 500), (7, 3000)):
        folder = tmp_path / ("a folder of a long name" * cores)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("A_VARIABLE", "x" * size)
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert compile_ptx(cuda_code, gpu) == first, f"{cores} cores, and {size} bytes more of environment"


@pytest.mark.parametrize("name", ["random", "ctypes", "tempfile", "tsm_edge"])
def test_no_module_of_the_users_folder_is_taken_for_another(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = 'extern "C" __global__ void mine(float *x) { *x = 1.0f; }\n'
    assert ".visible .entry mine(" in compile_ptx(code, load_gpu("jetson-nano"))


def test_what_nvrtc_refuses_is_said_in_a_line() -> None:
    with pytest.raises(CompileError, match=r"^NVRTC cannot compile the kernels: .*error: .*nothing") as caught:
        compile_ptx('extern "C" __global__ void mine() { nothing(); }\n', load_gpu("jetson-nano"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GPUS)
def test_every_card_takes_its_own_ptx(name: str) -> None:
    """The assembler refuses PTX newer than ``.version`` says, and a version that does not know the GPU."""
    gpu = GPUS[name]
    assert gpu is not None
    code = generate(copying(), gpu)
    assert re.search(rf"^\.version {re.escape(gpu.ptx_isa)}$", code.ptx, re.MULTILINE)
    assert re.search(rf"^\.target {gpu.arch}$", code.ptx, re.MULTILINE)
    assert code.cubin.startswith(b"\x7fELF")
    assert code.resources["tsm_k0_copy"].registers < 32
    assert code.arch == gpu.arch


def test_ptx_that_is_newer_than_the_drivers_is_refused() -> None:
    ptx = ".version 6.4\n.target sm_90\n.address_size 64\n"
    with pytest.raises(CompileError, match="ptxas refuses the kernels for sm_53: "):
        assemble(ptx, load_gpu("jetson-nano"))


def load_gpu(name: str) -> GpuSpec:
    gpu = load_target(name).gpu
    assert gpu is not None
    return gpu


LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'tsm_k0_stem' for 'sm_53'
ptxas info    : Function properties for tsm_k0_stem
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, 3584 bytes smem, 344 bytes cmem[0]
ptxas info    : Compiling entry function 'tsm_k1_pointwise' for 'sm_53'
ptxas info    : Function properties for tsm_k1_pointwise
    24 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 128 registers, 356 bytes cmem[0]
"""


def test_what_ptxas_says_is_read() -> None:
    assert parse_resources(LOG) == {
        "tsm_k0_stem": KernelResources(64, 0, 3584),
        "tsm_k1_pointwise": KernelResources(128, 84, 0),
    }


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        (KernelResources(257, 0, 0), r"257 registers × 128 threads, a block may have 32768"),
        (KernelResources(32, 0, 49153), "49153 bytes of shared memory, a block may have 49152"),
        (KernelResources(32, 8, 0), "8 bytes of spilled registers, expected none"),
    ],
)
def test_a_kernel_that_could_not_run_well_is_refused(resources: KernelResources, problem: str) -> None:
    with pytest.raises(CompileError, match=problem):
        check_resources(copying(), {"tsm_k0_copy": resources}, load_gpu("jetson-nano"))


def test_on_a_large_gpu_a_kernel_may_spill_a_few_bytes() -> None:
    gpu = load_gpu("cuda-sm90")
    check_resources(copying(), {"tsm_k0_copy": KernelResources(40, 24, 0)}, gpu)
    with pytest.raises(CompileError, match="200 bytes of spilled registers, expected 64"):
        check_resources(copying(), {"tsm_k0_copy": KernelResources(40, 200, 0)}, gpu)


def test_without_the_extra_the_pip_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toolchain.require.__globals__["EXTRAS"], "cuda", ("nvidia_is_not_here.cuda_nvrtc",))
    with pytest.raises(TsmEdgeError) as caught:
        toolchain.check_toolchain()
    assert "pip install 'tsm-edge[cuda]'" in caught.value.hint


def test_a_machine_for_which_the_extra_has_nothing_is_not_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toolchain.require.__globals__["EXTRAS"], "cuda", ("nvidia_is_not_here.cuda_nvrtc",))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(CompileError, match="PyPI has them for x86-64 Linux, not for aarch64") as caught:
        toolchain.check_toolchain()
    assert "tsm-edge deploy" in caught.value.hint


def test_a_killed_nvrtc_is_said_to_be_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = tmp_path / "killed.py"
    child.write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(nvrtc, "_CHILD", child)
    with pytest.raises(CompileError, match="NVRTC's process was killed, most likely for lack of memory"):
        compile_ptx('extern "C" __global__ void mine() {}\n', load_gpu("jetson-nano"))


# Kernels of 64 registers: the CUDA occupancy calculator's answers for compute capability 5.3.
@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [(64, 0, 128, 8), (32, 0, 64, 32), (128, 0, 256, 2), (86, 10240, 64, 6), (255, 0, 256, 0), (16, 50_000, 32, 0)],
)
def test_resident_blocks(registers: int, shared: int, threads: int, blocks: int) -> None:
    assert resident_blocks(load_gpu("jetson-nano"), registers, shared, threads) == blocks


@pytest.mark.parametrize("pixels", [1 << n for n in range(2, 15, 3)])
@pytest.mark.parametrize("outputs", [5, 64, 600])
def test_tiles_fit_the_gpu(pixels: int, outputs: int) -> None:
    gpu = load_gpu("jetson-nano")
    spec = GemmSpec(planes(1, pixels, 40), planes(1, pixels, outputs), GemmTile(8, 8, 8, 8), residual=True)
    tile = gemm_tile(gpu, spec)
    made = dataclasses.replace(spec, tile=tile)
    assert registers_of(made) <= most_registers(gpu, tile.threads)
    assert 4 * made.shared_words <= gpu.shared_kib * 1024
    assert tile.channels - outputs < 16
