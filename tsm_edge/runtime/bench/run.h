/* run.h - what a run of `tsm-runner bench` finds. Internal. */
#ifndef TSM_BENCH_RUN_H
#define TSM_BENCH_RUN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "bench/options.h"
#include "bench/power.h"
#include "runner.h"
#include "tsm_edge.h"

/* The machine at a moment: the keys of a table, as JSON. */
typedef struct {
  uint64_t moment;
  char *keys; /* null: no memory */
} tsm_note;

/* The machine's speed at a pause, before which so many frames were timed. */
typedef struct {
  uint64_t moment;
  size_t count;
  tsm_speed speed;
} tsm_pause;

/* Two moments; 0: it did not come to that. */
typedef struct {
  uint64_t start, stop;
} tsm_span;

typedef struct {
  tsm_bench_options options;
  char **arguments; /* of the program, null at their end */
  uint64_t origin;  /* second 0 of the power samples */
  double load_ms, first_frame_ms;
  int32_t n_frames; /* different ones */
  float *frames;
  size_t count, room;
  size_t untimed; /* frames between them */
  tsm_sample *samples;
  int is_full; /* there was no memory for more */
  tsm_note before, after, *during;
  size_t n_during;
  tsm_pause *pauses; /* before the first frame, between frames, and after the last one */
  size_t n_pauses;
  int has_golden;
  runner_verification verification;
  tsm_sensor sensor;
  const tsm_trace *trace; /* null: power was not measured, for this reason */
  tsm_problem no_power;
  tsm_span idle_before, idle_after;
} tsm_bench_run;

/* Write the document (docs/bench.md) of a run that has at least one sample. 0: it cannot be written, as errno says. */
int tsm_write_report(const tsm_bench_run *run, FILE *file);

#endif /* TSM_BENCH_RUN_H */
