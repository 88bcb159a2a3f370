"""The stand-in driver: kernels compute what they compute on a GPU, and what they must not do is found."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from standin_device import KernelFault, load_driver, run_kernel

from tsm_edge.cards.architecture import this_architecture
from tsm_edge.errors import ArtifactError
from tsm_edge.verify.standin.apart import gpu_apart
from tsm_edge.verify.standin.build import LIBRARY_NAME, StandIn, build_standin
from tsm_edge.verify.standin.translate import Image

PTX = (Path(__file__).parents[1] / "ptx" / "forms.ptx").read_text("ascii")


def test_arithmetic_of_floats() -> None:
    a = np.random.default_rng(0).standard_normal(256).astype(np.float32) * 3
    found = np.full(256, np.nan, np.float32)
    run_kernel(PTX, "floats", (2, 1, 1), 128, [a, found])
    x = torch.from_numpy(a)
    y = x.view(2, 128).flip(1).reshape(-1)
    thread = torch.arange(256) % 128
    wanted = torch.exp(x) + torch.log(x.abs() + 1) + x.abs() ** 1.7 + torch.tanh(y) + torch.erf(x)
    wanted += torch.rsqrt(x.abs() + 1) + y.abs().sqrt() + x.floor() + y.ceil() + x.sign() * (x.abs() + 0.5).floor()
    wanted += x.trunc() + torch.fmod(x, 0.7) + x.sin() + y.cos() + 1 / (x * x + 1) + 2**y + torch.log2(x.abs() + 2)
    wanted += x.clamp(0, 1) + x / 3
    wanted = wanted.clamp(-3, 1e9) + torch.tensor([1.0, 2, 3, 4])[thread & 3] + x * ((thread + x.int()) & 7)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-5, atol=2e-5)


def test_arithmetic_of_integers() -> None:
    random = np.random.default_rng(1)
    a, u = random.standard_normal(256).astype(np.float32) * 300, random.integers(0, 256, 257, dtype=np.uint8)
    found = np.zeros(256, np.int32)
    run_kernel(PTX, "integers", (2, 1, 1), 128, [a, u, found])
    q, i = a.astype(np.int64), np.arange(256)
    sevenths, fifths = np.trunc(q / 7).astype(np.int64), np.trunc(q / 5).astype(np.int64)
    wanted = sevenths + (q - 5 * fifths) + (i >> 2) + (i << 3) + (q & i) + (q ^ i) + ~q + abs(q)
    wanted += np.minimum(q, i) + np.maximum(q, 3) + u[:256] + u[1:].view(np.int8) + np.array([5, 6, 7])[i % 3]
    wanted += np.array([n.bit_count() + 32 - n.bit_length() for n in range(256)]) + ((q * i) >> 5) + i // 7
    wanted += np.rint(a).astype(np.int64) + np.abs(a).astype(np.int64) + ((q < 0) | (i > 200))
    np.testing.assert_array_equal(found, wanted)


def test_halves_are_rounded_once() -> None:
    random = np.random.default_rng(2)
    a, b = (random.standard_normal((32, 2)).astype(np.float16) for _ in range(2))
    c, d, e = np.zeros((32, 2), np.float16), np.zeros(32, np.float32), np.arange(32, dtype=np.uint16)
    run_kernel(PTX, "halves", (1, 1, 1), 32, [a, b, c, d, e])
    product = (a[:, :1].astype(np.float64) * b + 1).astype(np.float16)
    np.testing.assert_array_equal(d, product[:, 1].astype(np.float32))
    np.testing.assert_array_equal(e, product[:, 1].view(np.uint16) + np.arange(32, dtype=np.uint16))
    np.testing.assert_array_equal(c, product + np.stack([a[:, 1], np.full(32, 0.1, np.float16)], 1))


def product(ptx: str, shape: tuple[int, int] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel makes of two matrices, and what it should."""
    random = np.random.default_rng(3)
    w, x = (random.standard_normal((32, 64)).astype(np.float32) for _ in range(2))
    y, steps = np.full(shape, np.nan, np.float32), np.zeros(16, np.uint32)
    run_kernel(ptx, "product", (4, 4, 1), 64, [w, x, y, steps])
    assert (steps == 4).all()
    return y, w.astype(np.float64).T @ x


def test_a_product_of_matrices_through_shared_memory() -> None:
    found, wanted = product(PTX)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def floats(ptx: str) -> None:
    run_kernel(ptx, "floats", (2, 1, 1), 128, [np.zeros(256, np.float32), np.zeros(256, np.float32)])


@pytest.mark.parametrize(("index", "run"), [(0, floats), (1, product), (2, product)])
def test_a_barrier_that_is_missing_is_found(index: int, run: Callable[[str], object]) -> None:
    barriers = list(re.finditer(r"bar\.sync\s+0;", PTX))
    assert len(barriers) == 3
    broken = PTX[: barriers[index].start()] + PTX[barriers[index].end() :]
    with pytest.raises(KernelFault, match=rf"{run.__name__}: shared race, .*line \d+ of the PTX, block 0, thread \d+"):
        run(broken)


def test_a_barrier_that_some_never_reach_is_found() -> None:
    broken = re.sub(r"\bret;", "setp.lt.u32 %p1, %tid.x, 40; @%p1 bar.sync 0; ret;", PTX, count=1)
    with pytest.raises(KernelFault, match="floats: 40 of 128 threads wait at a barrier that the others never reach"):
        floats(broken)


def test_shared_memory_begins_as_not_a_number() -> None:
    """A store that is left out shows in the result."""
    store = re.search(r"st\.shared\.v4\.f32 [^;]*;", PTX)
    assert store
    found, _ = product(PTX.replace(store[0], "", 1))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("shape", "blocks", "message"),
    [
        (256, 3, r"floats: global load outside \(4 bytes at 0x\w+, line \d+ of the PTX, block 2, thread 0\)"),
        (255, 2, "floats: global load outside .* block 1, thread 127"),
    ],
)
def test_reading_outside_is_found(shape: int, blocks: int, message: str) -> None:
    with pytest.raises(KernelFault, match=message):
        run_kernel(PTX, "floats", (blocks, 1, 1), 128, [np.zeros(shape, np.float32), np.zeros(384, np.float32)])


def test_writing_outside_is_found() -> None:
    with pytest.raises(KernelFault, match=r"product: global store outside .*block 12"):
        product(PTX, (63, 64))


def test_an_access_that_is_not_aligned_is_found() -> None:
    broken = re.sub(r"(ld\.global\.nc\.v4\.f32[^;]*\[%rd\d+)\]", r"\1+4]", PTX, count=1)
    with pytest.raises(KernelFault, match="product: global load not aligned"):
        product(broken)


def test_two_blocks_that_write_one_place_are_found() -> None:
    broken = re.sub(r"mov\.u32\s+%r\d+, %ctaid\.x;", lambda match: match[0].replace("%ctaid.x", "0"), PTX)
    with pytest.raises(KernelFault, match="product: global race, two blocks write"):
        product(broken)


def test_a_block_that_reads_what_another_writes_is_found() -> None:
    w = np.zeros((64, 64), np.float32)
    with pytest.raises(KernelFault, match=r"product: global race, (read of another block's write|write where another)"):
        run_kernel(PTX, "product", (4, 4, 1), 64, [w, np.zeros((32, 64), np.float32), w, np.zeros(16, np.uint32)])


def test_too_many_threads_are_refused() -> None:
    with pytest.raises(KernelFault, match="cuLaunchKernel: error 701"):
        run_kernel(PTX, "floats", (2, 1, 1), 129, [np.zeros(258, np.float32)] * 2)


def test_a_gpu_that_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under an emulator: its memory is the caller's, its faults are told, and it ends with the program."""
    with gpu_apart(tmp_path, [Image(PTX)], StandIn(newest_ptx=99), this_architecture()) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        library = load_driver(tmp_path / LIBRARY_NAME)
        random = np.random.default_rng(3)
        w, x = (random.standard_normal((32, 64)).astype(np.float32) for _ in range(2))
        for _ in range(2):
            y, steps = np.full((64, 64), np.nan, np.float32), np.zeros(16, np.uint32)
            run_kernel(PTX, "product", (4, 4, 1), 64, [w, x, y, steps], library=library)
            np.testing.assert_allclose(y, w.astype(np.float64).T @ x, rtol=1e-5, atol=1e-5)
            with pytest.raises(KernelFault, match=r"product: global store outside .*block 12"):
                run_kernel(PTX, "product", (4, 4, 1), 64, [w, x, y[:63].copy(), steps], library=library)


def test_instructions_it_does_not_know_are_named(tmp_path: Path) -> None:
    line = PTX[: PTX.index("sin.approx")].count("\n") + 1
    broken = PTX.replace("sin.approx.ftz.f32", "tex.1d.v4.f32.s32", 1)
    with pytest.raises(ArtifactError, match=f"cannot run the model's PTX: line {line}: no instruction tex.1d"):
        build_standin(tmp_path, [Image(broken)])


Driver = Callable[[StandIn], ctypes.CDLL]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    def build(standin: StandIn) -> ctypes.CDLL:
        small = PTX[: PTX.index("// .globl\tintegers")]
        return ctypes.CDLL(str(build_standin(tmp_path, [Image(small, b"\x7fELF" + bytes(60))], standin)))

    return build


def test_ptx_that_is_too_new_is_refused_with_a_log(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    library, module = driver(StandIn(newest_ptx=63)), ctypes.c_void_p()
    small = PTX[: PTX.index("// .globl\tintegers")].encode()
    log = ctypes.create_string_buffer(200)
    keys = (ctypes.c_int * 2)(5, 6)
    values = (ctypes.c_void_p * 2)(ctypes.addressof(log), 200)
    assert library.cuModuleLoadDataEx(ctypes.byref(module), small, 0, None, None) == 3  # cuInit was not called
    assert library.cuInit(0) == 0
    assert library.cuModuleLoadDataEx(ctypes.byref(module), small, 2, keys, values) == 222
    assert log.value == b"ptxas fatal   : Unsupported .version 6.4; current version is '6.3'"
    monkeypatch.setenv("STANDIN_PTX", "6.4")
    assert library.cuModuleLoadDataEx(ctypes.byref(module), small, 2, keys, values) == 0
    assert library.cuModuleLoadDataEx(ctypes.byref(module), small + b" ", 2, keys, values) == 218
    assert log.value == b"this stand-in was made of another PTX"


def test_failures_on_demand(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    library, address = driver(StandIn()), ctypes.c_uint64()
    assert library.cuInit(0) == 0
    monkeypatch.setenv("STANDIN_FAIL", "cuMemAlloc_v2=2@2")
    found = [library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(64)) for _ in range(3)]
    assert found == [0, 2, 2]


def test_a_driver_without_graphs(driver: Driver) -> None:
    with pytest.raises(AttributeError, match="cuGraphLaunch"):
        _ = driver(StandIn(has_graphs=False)).cuGraphLaunch


def test_nothing_is_done_before_somebody_waits(driver: Driver) -> None:
    """Pinned memory that is written again too early, or read too early, shows."""
    library = driver(StandIn())
    stream, pinned, address = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    assert library.cuInit(0) == 0
    assert library.cuStreamCreate(ctypes.byref(stream), 1) == 0
    assert library.cuMemHostAlloc(ctypes.byref(pinned), ctypes.c_size_t(8), 0) == 0
    assert library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(8)) == 0
    assert pinned.value
    ctypes.memmove(pinned.value, b"too soon", 8)
    assert library.cuMemcpyHtoDAsync_v2(address, pinned, ctypes.c_size_t(8), stream) == 0
    ctypes.memmove(pinned.value, b"too late", 8)
    back = ctypes.create_string_buffer(8)
    assert library.cuMemcpyDtoHAsync_v2(back, address, ctypes.c_size_t(8), stream) == 0
    assert back.raw == bytes(8)
    assert library.cuStreamSynchronize(stream) == 0
    assert back.raw == b"too late"
