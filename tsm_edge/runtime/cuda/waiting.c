/* waiting.c - how a stream is waited for: short frames are asked for again and again, long ones slept through. */
#include "waiting.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tsm_edge.h"

enum { SHORT_NS = 1000000 };

tsm_waiting_wish tsm_waiting_asked(void) {
  const char *wish = getenv("TSM_EDGE_SPIN");
  if (!wish || !*wish) return WAIT_BOUNDED;
  return strcmp(wish, "0") == 0 ? WAIT_ASLEEP : WAIT_SPINNING;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int32_t tsm_wait(tsm_waiting *waiting, CUstream stream) {
  const int is_polled = waiting->wish == WAIT_BOUNDED && waiting->last_ns && waiting->last_ns < SHORT_NS;
  const uint64_t began = now(), patience = is_polled ? 2 * waiting->last_ns : 0;
  CUresult result = CUDA_ERROR_NOT_READY;
  waiting->last_ns = 0;
  while (result == CUDA_ERROR_NOT_READY && now() - began < patience) result = tsm_cu.query(stream);
  if (result == CUDA_ERROR_NOT_READY)
    TSM_TRY(tsm_cu.synchronize(stream), "cuStreamSynchronize", "a frame");
  else
    TSM_TRY(result, "cuStreamQuery", "a frame");
  waiting->last_ns = now() - began;
  return TSM_OK;
}
