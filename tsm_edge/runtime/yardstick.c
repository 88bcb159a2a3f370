/* yardstick.c - how fast the machine is at a moment: the same work whatever the model, so that a slow machine is told
 * from a slow model.
 *
 * Two pieces, as a frame has both: multiply-adds whose operands come from the second-level cache, which whoever shares
 * the core slows down most, and a pass over more than a board's second-level cache holds. 128-bit vectors are what
 * every 64-bit processor has; the runtime is never compiled for a certain one. */
#include <sys/mman.h>
#include <time.h>

#include "model.h"
#include "tsm_edge.h"

typedef float vector __attribute__((vector_size(16)));

enum {
  CACHED_BYTES = 256 << 10, /* more than first-level caches hold, less than second-level caches */
  MEMORY_BYTES = 4 << 20,
  PASSES = 32, /* over what is cached */
  TRIES = 3,  /* the fastest counts: what is interrupted by others says nothing of the speed */
  SUMS = 8
};

static volatile float result; /* the work has to be done */

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Nanoseconds of so many passes over the first bytes of a block. */
static uint64_t passes(const vector *block, size_t bytes, int count) {
  const vector half = {0.5f, 0.5f, 0.5f, 0.5f};
  vector sums[SUMS] = {{0}};
  const size_t vectors = bytes / sizeof *block;
  const uint64_t began = now();
  for (int pass = 0; pass < count; ++pass)
    for (size_t i = 0; i < vectors; i += SUMS)
      for (int k = 0; k < SUMS; ++k) sums[k] += half * block[i + (size_t)k];
  for (int k = 1; k < SUMS; ++k) sums[0] += sums[k];
  result = sums[0][0];
  return now() - began;
}

static uint64_t fastest(const vector *block, size_t bytes, int count) {
  uint64_t best = UINT64_MAX;
  for (int i = 0; i < TRIES; ++i) {
    const uint64_t time = passes(block, bytes, count);
    if (time < best) best = time;
  }
  return best;
}

int32_t tsm_yardstick(tsm_speed *speed) {
  if (!speed) return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_yardstick: an argument is null");
  /* Fresh pages each time: which ones these are decides a little, too. They must be written to be there. */
  vector *block = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED)
    return tsm_fail(TSM_ERROR_MEMORY, "tsm_yardstick: %d bytes cannot be allocated", (int)MEMORY_BYTES);
  for (size_t i = 0; i < MEMORY_BYTES / sizeof *block; ++i) block[i] = (vector){1, 1, 1, 1};
  speed->memory = fastest(block, MEMORY_BYTES, 1);
  passes(block, CACHED_BYTES, 1);
  speed->arithmetic = fastest(block, CACHED_BYTES, PASSES);
  munmap(block, MEMORY_BYTES);
  return TSM_OK;
}
