/* measure.c - the timed loop of a benchmark: on the device, with the caches fed back, over changing frames. */
#include <time.h>

#include "model.h"
#include "tsm_edge.h"

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void sleep_until(uint64_t due) {
  struct timespec time = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0) continue; /* a signal */
}

/* When the next frame of a camera comes. Those that came meanwhile are lost, but for the newest. */
static uint64_t next_due(uint64_t due, uint64_t period) {
  uint64_t time = now();
  due += period;
  return time < due ? due : due + (time - due) / period * period;
}

int32_t tsm_measure(tsm_stream *stream, const tsm_run *run, tsm_sample *samples, float *logits, uint64_t *kernels) {
  if (!stream || !run || !samples || !logits || !run->frames)
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_measure: an argument is null");
  if (run->n_frames < 1 || run->first < 0 || run->count < 0)
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_measure: %d frames from number %d, %d times", (int)run->n_frames,
                    (int)run->first, (int)run->count);
  const int64_t *shape = tsm_the_model.frame_shape;
  const int64_t floats = shape[0] * shape[1] * shape[2] * shape[3];
  uint64_t due = now();
  for (int32_t i = 0; i < run->count; ++i) {
    if (run->period) sleep_until(due);
    int64_t frame = ((int64_t)run->first + i) % run->n_frames;
    uint64_t *times = kernels ? kernels + (int64_t)i * tsm_calls(stream) : NULL;
    uint64_t start = now();
    int32_t code = tsm_step_profiled(stream, run->frames + frame * floats, logits, times, NULL);
    uint64_t end = now();
    if (code != TSM_OK) return code;
    samples[i] = (tsm_sample){run->period ? due : start, start, end - start};
    due = run->period ? next_due(due, run->period) : end;
  }
  return TSM_OK;
}
