"""How a stream's caches are told to the caller: element types against NumPy's, and what a reset leaves."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from artifacts import run_cc

from tsm_edge.cards import load_target
from tsm_edge.runtime import RUNTIME_FOLDER

PIXELS = 65536
MODEL = """
#include "caches.h"
static const tsm_cache all[] = {
    {.channels = 1, .height = 256, .width = 256, .pixel = 1, .channel = 1, .form = TSM_HALF},
    {.channels = 2, .height = 16, .width = 8, .pixel = 4, .channel = 1, .offset = 131072, .form = TSM_BYTE,
     .scale = 0.1f, .zero = 100, .flip = 128}};
const tsm_model tsm_the_model = {.cache_bytes = 131072 + 512, .n_caches = 2, .caches = all};
void reset(unsigned char *set) { tsm_caches_reset(set); }
void import(int which, const float *planes, unsigned char *set) { tsm_cache_import(&all[which], planes, set); }
void export(int which, const unsigned char *set, float *planes) { tsm_cache_export(&all[which], set, planes); }
"""
HALVES = np.arange(PIXELS, dtype=np.uint16).view(np.float16)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("caches")
    (folder / "model.c").write_text(MODEL)
    flags = ["-std=c11", f"-I{RUNTIME_FOLDER}", "-shared", "-fPIC"]
    output = folder / "caches.so"
    run_cc(load_target("native"), *flags, folder / "model.c", RUNTIME_FOLDER / "caches.c", "-o", output)
    return ctypes.CDLL(str(output))


class Set:
    """One set of caches."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.memory = np.full(131072 + 512, 7, np.uint8)

    def reset(self) -> None:
        self._library.reset(self.memory.ctypes.data_as(ctypes.c_void_p))

    def put(self, which: int, planes: np.ndarray) -> None:
        planes = np.ascontiguousarray(planes, np.float32)
        memory = self.memory.ctypes.data_as(ctypes.c_void_p)
        self._library["import"](which, planes.ctypes.data_as(ctypes.c_void_p), memory)

    def take(self, which: int, count: int) -> np.ndarray:
        planes = np.empty(count, np.float32)
        memory = self.memory.ctypes.data_as(ctypes.c_void_p)
        self._library["export"](which, memory, planes.ctypes.data_as(ctypes.c_void_p))
        return planes


def test_every_half_is_told_exactly(library: ctypes.CDLL) -> None:
    caches = Set(library)
    caches.memory[:131072] = HALVES.view(np.uint8)
    np.testing.assert_array_equal(caches.take(0, PIXELS), HALVES.astype(np.float32))


@pytest.mark.filterwarnings("ignore:overflow")
def test_floats_are_rounded_to_half_as_numpy_does(library: ctypes.CDLL) -> None:
    """Every half, the ties between neighbours and what lies beside them, and random bits."""
    halves = HALVES.astype(np.float32)
    finite = np.abs(halves[:31743])
    ties = finite[:-1] / 2 + finite[1:] / 2
    edges = np.array([65519.996, 65520, -65504, 65536, 1e30, -1e-30, 2.0**-25, 2.9802326e-8, 0.0, -0.0], np.float32)
    random = np.random.default_rng(0).integers(0, 2**32, PIXELS, np.uint64).astype(np.uint32).view(np.float32)
    beside = np.concatenate([ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9)), edges])
    for values in (halves, random, -beside[:PIXELS], beside[PIXELS // 2 :]):
        planes = np.zeros(PIXELS, np.float32)
        planes[: values.size] = values[:PIXELS]
        caches = Set(library)
        caches.put(0, planes)
        found, wanted = caches.memory[:131072].view(np.float16), planes.astype(np.float16)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        known = ~np.isnan(wanted)
        np.testing.assert_array_equal(found[known].view(np.uint16), wanted[known].view(np.uint16))


def test_bytes_have_a_scale_and_a_zero(library: ctypes.CDLL) -> None:
    """Two channels of four a pixel, planes outside; levels come back as they went in, others are rounded to one."""
    caches = Set(library)
    levels = (np.arange(256) - 100).astype(np.float32) * np.float32(0.1)
    caches.put(1, levels)
    pixels = caches.memory[131072:].reshape(128, 4)
    np.testing.assert_array_equal(pixels[:, :2].T.reshape(-1) ^ 128, np.arange(256))
    assert (pixels[:, 2:] == 7).all()
    np.testing.assert_array_equal(caches.take(1, 256), levels)
    caches.put(1, levels + np.float32(0.04))
    np.testing.assert_array_equal(caches.take(1, 256), levels)
    caches.put(1, np.array([np.nan, -1e9, 1e9] + [0] * 253, np.float32))
    np.testing.assert_allclose(caches.take(1, 256)[:4], [0, -10, 15.5, 0], rtol=1e-6)


def test_a_reset_leaves_zeros(library: ctypes.CDLL) -> None:
    caches = Set(library)
    caches.reset()
    assert not caches.take(0, PIXELS).any()
    assert not caches.take(1, 256).any()
    assert caches.memory[-1] == 100 ^ 128, "between pixels too"
