/* options.h - what `tsm-runner bench` is asked for. Internal. */
#ifndef TSM_BENCH_OPTIONS_H
#define TSM_BENCH_OPTIONS_H

#include <stdint.h>

typedef struct {
  int64_t frames, least_frames; /* asked for (0: not), and how many there must be */
  double duration_s;            /* 0: as long as the frames take; with frames, both are reached */
  double warmup_s, idle_s;
  int32_t warmup_frames, threads;
  double fps;         /* 0: each frame follows the last at once */
  const char *power;  /* sensor; "auto", "none" */
  const char *json;   /* file; null: to stdout */
  const char *golden; /* file; null: beside the program, if one is there */
  const char *root;   /* the folder that stands for "/" where sensors and clocks are read */
} tsm_bench_options;

/* Read the arguments behind `bench`; returns an exit code, 0: fine. What is wrong has been said on stderr. */
int tsm_read_bench_options(int argc, char **argv, tsm_bench_options *into);

#endif /* TSM_BENCH_OPTIONS_H */
