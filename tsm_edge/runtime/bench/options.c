/* options.c - the arguments of `tsm-runner bench`. */
#include "bench/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/device_files.h"
#include "bench/statistics.h"
#include "runner.h"
#include "tsm_edge.h"

enum { MOST_FRAMES = 1000000, DEFAULT_WARMUP_FRAMES = 10 };
static const double DEFAULT_S = 10, DEFAULT_WARMUP_S = 1, DEFAULT_IDLE_S = 3, MOST_S = 86400, MOST_FPS = 10000;

static int between(const char *text, double low, double high, double *into) {
  double value;
  if (!tsm_parse_number(text, &value) || value < low || value > high) return 0;
  *into = value;
  return 1;
}

static int whole(const char *text, double low, double high, double *into) {
  return between(text, low, high, into) && *into == floor(*into);
}

/* Set one option; 0: there is none of that name, or the value is impossible. */
static int set(tsm_bench_options *into, const char *name, const char *value) {
  double number;
  if (!strcmp(name, "--frames")) return whole(value, 1, MOST_FRAMES, &number) && (into->frames = (int64_t)number);
  if (!strcmp(name, "--threads"))
    return whole(value, 1, TSM_MOST_THREADS, &number) && (into->threads = (int32_t)number);
  if (!strcmp(name, "--duration")) return between(value, 0.01, MOST_S, &into->duration_s);
  if (!strcmp(name, "--warmup")) return between(value, 0, MOST_S, &into->warmup_s);
  if (!strcmp(name, "--idle")) return between(value, 0, MOST_S, &into->idle_s);
  if (!strcmp(name, "--fps")) return between(value, 0.01, MOST_FPS, &into->fps);
  if (!strcmp(name, "--power")) return *(into->power = value) != 0;
  if (!strcmp(name, "--json")) return *(into->json = value) != 0;
  if (!strcmp(name, "--golden")) return *(into->golden = value) != 0;
  if (!strcmp(name, "--root")) return *(into->root = value) != 0;
  return 0;
}

int tsm_read_bench_options(int argc, char **argv, tsm_bench_options *into) {
  *into = (tsm_bench_options){.warmup_s = DEFAULT_WARMUP_S, .idle_s = DEFAULT_IDLE_S, .power = "none", .root = ""};
  into->warmup_frames = DEFAULT_WARMUP_FRAMES;
  for (int i = 0; i < argc; i += 2)
    if (i + 1 == argc || !set(into, argv[i], argv[i + 1]))
      return runner_fail(argv[i], i + 1 == argc ? "no such option, or no value" : "no such option, or a wrong value");
  if (!into->threads) into->threads = runner_advised_threads();
  into->least_frames = into->frames ? into->frames : 1;
  if (!into->frames && into->duration_s == 0) {
    into->duration_s = DEFAULT_S;
    into->least_frames = (int64_t)tsm_fewest_samples(0.90);
  }
  return RUNNER_OK;
}
