"""What stream.c promises of memory: a program of one kernel, which looks at the pointers it is given."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pytest
from artifacts import run_cc

from tsm_edge.cards import load_target
from tsm_edge.compile.backends.cpu.choose.tiles import gemm_tile, k_loop
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.kernels.convolution import convolution
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec
from tsm_edge.compile.ir.layout import Image, nhwc
from tsm_edge.runtime import RUNTIME_FOLDER, bytes_behind_caches

PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
#include "tsm_edge.h"

/* Every allocation of stream.c, moved off its alignment as far as an allocator may. */
static struct { unsigned char *start; size_t bytes; } made[16];
static int n_made, off;
void *noted_calloc(size_t count, size_t each) {
  unsigned char *start = (unsigned char *)calloc(1, count * each + 64) + off;
  made[n_made].start = start;
  made[n_made++].bytes = count * each;
  return start;
}
void noted_free(void *start) { if (start) free((unsigned char *)start - off); }

static int outside, calls;
static void look(void *const *buffers, int32_t begin, int32_t end, int32_t resumed, tsm_clock *clock) {
  for (int k = 0; k < 2; ++k) {
    unsigned char *from = buffers[k], *to = from + tsm_the_model.cache_bytes + TSM_READ_BEHIND;
    int inside = (uintptr_t)from % 64 == 0;
    for (int i = 0; i < n_made; ++i)
      if (made[i].start <= from && to <= made[i].start + made[i].bytes) inside |= 2;
    outside += inside != 3;
  }
  ++calls;
}

static const tsm_call one_call[] = {{look, 1, 1, 0, 0, 2, {{TSM_CACHE, 0}, {TSM_NEXT_CACHE, 0}}}};
static const tsm_cache one_cache[] = {{"in", "out", 4, 2, 2, 4, 1, 0}};
const tsm_model tsm_the_model = {
    .manifest = "{}", .clips = 1, .cache_bytes = 64, .n_calls = 1, .n_caches = 1, .calls = one_call,
    .caches = one_cache};
const tsm_model *const tsm_programs[] = {&tsm_the_model};
const int32_t tsm_n_programs = 1;

int main(void) {
  float frame[1] = {0}, logits[1], kept[16] = {0}, next[16];
  const float *read[] = {kept};
  float *write[] = {next};
  for (off = 0; off < 64; off += 8) {
    n_made = 0;
    tsm_stream *stream = tsm_open(1);
    for (int i = 0; i < 2; ++i) tsm_step(stream, frame, logits);
    tsm_step_explicit(stream, frame, read, logits, write);
    tsm_close(stream);
  }
  printf("%d calls, %d outside\\n", calls, outside);
  return outside;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    (folder / "main.c").write_text(PROGRAM)
    parts = [str(RUNTIME_FOLDER / name) for name in ("caches.c", "error.c", "input.c", "opening.c", "pool.c")]
    noted = ["-Dcalloc=noted_calloc", "-Dfree=noted_free", "-c", str(RUNTIME_FOLDER / "stream.c")]
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{RUNTIME_FOLDER}", "-pthread"]
    native, output = load_target("native"), folder / "program"
    run_cc(native, *flags, *noted, "-o", folder / "stream.o")
    run_cc(native, *flags, folder / "main.c", folder / "stream.o", *parts, "-o", output)
    return output


def test_what_lies_behind_the_caches_may_be_read(program: Path) -> None:
    """In both sets of a stream, and in those of explicit steps, wherever the allocator puts them."""
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "24 calls, 0 outside\n")


@pytest.mark.parametrize(("room", "behind"), [(None, 8), (8, 8), (4, 0)])
def test_kernels_read_no_further_behind_a_cache(room: int | None, behind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two channels by vectors of four: the last pixel's reaches two values, 8 bytes, behind the cache."""
    if room is not None:
        monkeypatch.setattr("tsm_edge.compile.backends.cpu.kernels.reduction.bytes_behind_caches", lambda: room)
    cpu = load_target("raspberry-pi-4").cpu
    spec = ConvolutionSpec(
        source=nhwc(1, 8, 16, 4),
        target=nhwc(1, 8, 16, 4),
        kernel=(1, 1),
        strides=(1, 1),
        pad_top=0,
        pad_left=0,
        reduction_channels=16,
        tile=gemm_tile(Core(cpu, "float32"), 1, 8, 16, 16),
        lanes=4,
        low=-math.inf,
        high=math.inf,
        cache=Image(1, 8, 2, 2, 16),
        k_loop=k_loop(Core(cpu, "float32")),
    )
    script = convolution("kernel", spec).script()
    (cache,) = re.findall(r"(\w+) = T\.decl_buffer\(.*data=cache_ptr", script)
    vectors = re.findall(rf"\b{cache}\[T\.Ramp\((\d+), 1, (\d+)\)\]", script)
    assert max((4 * (int(start) + int(lanes) - 16) for start, lanes in vectors), default=0) == behind
    assert behind <= bytes_behind_caches()
