/* power.c - samples a sensor in a thread, and integrates windows of the samples. */
#include "bench/power.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bench/clock.h"

enum { FEWEST_SAMPLES = 10, GAP_PERIODS = 3 };
/* Seconds without a sample that a window can bear: this share of it, or GAP_PERIODS of the sensor's periods. */
static const double LONGEST_GAP = 0.1;
/* How far a counter may move: no machine draws as much. */
static const double MOST_W = 1e5, SHORTEST_S = 0.01;

struct tsm_sampler {
  tsm_trace trace;
  tsm_sensor *sensor;
  uint64_t origin;
  size_t room;
  pthread_t thread;
  atomic_int stop;
};

static int make_room(tsm_sampler *sampler) {
  tsm_trace *trace = &sampler->trace;
  if (trace->count < sampler->room) return 1;
  const size_t room = sampler->room ? 2 * sampler->room : 1024, rails = (size_t)sampler->sensor->n_rails;
  double *seconds = realloc(trace->seconds, room * sizeof *seconds);
  if (seconds) trace->seconds = seconds;
  double *values = realloc(trace->values, room * rails * sizeof *values);
  if (values) trace->values = values;
  if (!seconds || !values) return tsm_set_problem(&trace->failure, "no memory for the samples of the power sensor");
  sampler->room = room;
  return 1;
}

/* Refuse a counter that went backwards or jumped. */
static int check_counter(tsm_trace *trace, const double *now, double seconds) {
  if (!trace->sensor->counts || !trace->count) return 1;
  const double *before = trace->values + (trace->count - 1) * (size_t)trace->sensor->n_rails;
  const double passed = seconds - trace->seconds[trace->count - 1];
  for (int i = 0; i < trace->sensor->n_rails; ++i) {
    const double joules = now[i] - before[i];
    if (!(joules >= 0 && joules <= MOST_W * (passed > SHORTEST_S ? passed : SHORTEST_S)))
      return tsm_set_problem(&trace->failure, "power sensor %s: the counter of rail %s jumped by %g J",
                             trace->sensor->name, trace->sensor->rails[i].name, joules);
  }
  return 1;
}

static int take(tsm_sampler *sampler) {
  tsm_trace *trace = &sampler->trace;
  double values[TSM_MOST_RAILS];
  const double before = tsm_seconds(sampler->origin, tsm_now());
  const int read = make_room(sampler) && tsm_sensor_read(sampler->sensor, values, &trace->failure);
  const double seconds = (before + tsm_seconds(sampler->origin, tsm_now())) / 2;
  if (!read || !check_counter(trace, values, seconds)) {
    trace->failed = 1;
    return 0;
  }
  const size_t rails = (size_t)sampler->sensor->n_rails;
  trace->seconds[trace->count] = seconds;
  memcpy(trace->values + trace->count * rails, values, rails * sizeof *values);
  ++trace->count;
  return 1;
}

static void *sample(void *argument) {
  tsm_sampler *sampler = argument;
  const uint64_t period = (uint64_t)(sampler->sensor->period_s * 1e9);
  uint64_t due = tsm_now() + period;
  while (tsm_sleep_until(due) && !atomic_load(&sampler->stop) && take(sampler)) {
    /* Beats that were missed are left out, not made up for: two samples at once say no more than one. */
    const uint64_t now = tsm_now();
    due += period * (now > due ? 1 + (now - due) / period : 1);
  }
  return NULL;
}

/* Signals are for the main thread, which sleeps or steps. */
static int start_thread(tsm_sampler *sampler) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(&sampler->thread, NULL, sample, sampler);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !failed;
}

tsm_sampler *tsm_sampler_start(tsm_sensor *sensor, uint64_t origin, tsm_problem *problem) {
  tsm_sampler *sampler = calloc(1, sizeof *sampler);
  if (!sampler) {
    tsm_set_problem(problem, "no memory for the power sensor");
    return NULL;
  }
  *sampler = (tsm_sampler){.trace = {.sensor = sensor}, .sensor = sensor, .origin = origin};
  const int taken = take(sampler);
  if (taken && start_thread(sampler)) return sampler;
  if (taken)
    tsm_set_problem(problem, "no thread for the power sensor");
  else
    *problem = sampler->trace.failure;
  tsm_sampler_free(sampler);
  return NULL;
}

const tsm_trace *tsm_sampler_trace(const tsm_sampler *sampler) { return &sampler->trace; }

void tsm_sampler_stop(tsm_sampler *sampler) {
  atomic_store(&sampler->stop, 1);
  pthread_join(sampler->thread, NULL);
}

void tsm_sampler_free(tsm_sampler *sampler) {
  if (!sampler) return;
  free(sampler->trace.seconds);
  free(sampler->trace.values);
  free(sampler);
}

double tsm_shortest_window(const tsm_sensor *sensor) { return (FEWEST_SAMPLES + 1) * sensor->period_s; }

/* Samples first ... last - 1 are within the window. */
typedef struct {
  size_t first, last;
  double start, stop;
} window;

static window find_window(const tsm_trace *trace, double start, double stop) {
  window found = {0, trace->count, start, stop};
  while (found.first < trace->count && trace->seconds[found.first] < start) ++found.first;
  while (found.last > found.first && trace->seconds[found.last - 1] > stop) --found.last;
  return found;
}

/* The longest time without a sample. */
static double longest_gap(const tsm_trace *trace, window window) {
  double before = window.start, longest = 0;
  for (size_t i = window.first; i < window.last; ++i) {
    if (trace->seconds[i] - before > longest) longest = trace->seconds[i] - before;
    before = trace->seconds[i];
  }
  return window.stop - before > longest ? window.stop - before : longest;
}

/* The mean power between the first and the last sample of a window.
 *
 * Samples outside are left out: the load changes at the ends of a window, which is why it is one. */
static double mean_watts(const tsm_trace *trace, window window, int rail) {
  const size_t rails = (size_t)trace->sensor->n_rails;
  const double *values = trace->values + rail, *seconds = trace->seconds;
  const double passed = seconds[window.last - 1] - seconds[window.first];
  if (trace->sensor->counts) return (values[(window.last - 1) * rails] - values[window.first * rails]) / passed;
  double joules = 0;
  for (size_t i = window.first; i + 1 < window.last; ++i)
    joules += (seconds[i + 1] - seconds[i]) * (values[i * rails] + values[(i + 1) * rails]) / 2;
  return joules / passed;
}

/* How the samples came. */
static void describe_beat(const tsm_trace *trace, window window, tsm_energy *into) {
  const size_t rails = (size_t)trace->sensor->n_rails, steps = window.last - window.first - 1;
  const double mean = (trace->seconds[window.last - 1] - trace->seconds[window.first]) / (double)steps;
  double squares = 0;
  for (size_t i = window.first; i + 1 < window.last; ++i) {
    const double step = trace->seconds[i + 1] - trace->seconds[i];
    squares += (step - mean) * (step - mean);
    into->changes += memcmp(trace->values + i * rails, trace->values + (i + 1) * rails, rails * sizeof(double)) != 0;
  }
  into->samples = steps + 1;
  into->rate_hz = 1 / mean;
  into->jitter_ms = 1e3 * sqrt(squares / (double)steps);
}

int tsm_energy_between(const tsm_trace *trace, double start, double stop, const char *what, tsm_energy *into,
                       tsm_problem *problem) {
  const tsm_sensor *sensor = trace->sensor;
  const window window = find_window(trace, start, stop);
  const double seconds = stop - start;
  *into = (tsm_energy){.seconds = seconds};
  if (window.last - window.first < FEWEST_SAMPLES)
    return tsm_set_problem(problem, "power sensor %s gave %zu samples in %.1f s of %s, expected at least %d: measure for "
                           "%.1f s or longer", sensor->name, window.last - window.first, seconds, what, FEWEST_SAMPLES,
                           tsm_shortest_window(sensor));
  const double gap = longest_gap(trace, window), periods = GAP_PERIODS * sensor->period_s;
  if (gap > (LONGEST_GAP * seconds > periods ? LONGEST_GAP * seconds : periods))
    return tsm_set_problem(problem, "power sensor %s gave no sample for %.3g s within %.1f s of %s", sensor->name, gap,
                           seconds, what);
  for (int i = 0; i < sensor->n_rails; ++i) into->rail_watts[i] = mean_watts(trace, window, i);
  into->watts = tsm_sensor_total(sensor, into->rail_watts);
  if (!(into->watts > 0))
    return tsm_set_problem(problem, "power sensor %s counted no energy within %.1f s of %s: it does not measure",
                           sensor->name, seconds, what);
  into->joules = into->watts * seconds;
  into->longest_gap_ms = 1e3 * gap;
  describe_beat(trace, window, into);
  return 1;
}
