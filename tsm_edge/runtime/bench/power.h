/* power.h - a power sensor sampled beside what is measured, and the energy of a window of time. Internal. */
#ifndef TSM_POWER_H
#define TSM_POWER_H

#include <stddef.h>
#include <stdint.h>

#include "bench/sensor.h"

/* All samples of one recording, by rising time. */
typedef struct {
  const tsm_sensor *sensor;
  size_t count;
  double *seconds; /* since the recording began, midway through the reading */
  double *values;  /* [count, rails] W, or J since some moment */
  int failed;
  tsm_problem failure; /* why sampling ended early */
} tsm_trace;

typedef struct tsm_sampler tsm_sampler;

/* Sample a sensor in a thread of its own; `origin` is second 0. Null: no thread, no memory, or it cannot be read. */
tsm_sampler *tsm_sampler_start(tsm_sensor *sensor, uint64_t origin, tsm_problem *problem);

/* Its samples, which live as long as it. To be read when it has stopped. */
const tsm_trace *tsm_sampler_trace(const tsm_sampler *sampler);

/* End the thread. */
void tsm_sampler_stop(tsm_sampler *sampler);

void tsm_sampler_free(tsm_sampler *sampler);

/* What was used within a window. */
typedef struct {
  double seconds, joules, watts;
  double rail_watts[TSM_MOST_RAILS];
  size_t samples, changes; /* changes: samples that differ from the one before */
  double rate_hz, jitter_ms, longest_gap_ms;
} tsm_energy;

/* Add up the energy from second `start` to `stop`; `what` was done then. 0: the samples are too few, have a hole or do
 * not measure, as the problem says. */
int tsm_energy_between(const tsm_trace *trace, double start, double stop, const char *what, tsm_energy *into,
                       tsm_problem *problem);

/* The length of the shortest window for which a sensor gives enough samples, seconds. */
double tsm_shortest_window(const tsm_sensor *sensor);

#endif /* TSM_POWER_H */
