/* report.c - a run as a document of the schema that docs/bench.md describes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/clock.h"
#include "bench/environment.h"
#include "bench/run.h"
#include "bench/statistics.h"
#include "bench/summary.h"
#include "card.h"

static const char SCHEMA[] = "tsm-edge-bench/1";

/* Seconds since the first measured frame. */
static double at(const tsm_bench_run *run, uint64_t moment) { return tsm_seconds(run->samples[0].start, moment); }

static double milliseconds(uint64_t nanoseconds) { return (double)nanoseconds / 1e6; }

static double measured_seconds(const tsm_bench_run *run) {
  const tsm_sample *last = &run->samples[run->count - 1];
  return at(run, last->start + last->duration);
}

static uint64_t period_of(const tsm_bench_run *run) {
  return run->options.fps > 0 ? (uint64_t)(1e9 / run->options.fps) : 0;
}

/* Walks over the pauses with the samples: whether there was one right before sample `i`. */
static int paused_before(const tsm_bench_run *run, size_t i, size_t *next) {
  int paused = 0;
  for (; *next < run->n_pauses && run->pauses[*next].count <= i; ++*next) paused |= run->pauses[*next].count == i;
  return paused;
}

/* How long the frames took, the pauses between them left out. */
static double working_seconds(const tsm_bench_run *run) {
  const uint64_t period = period_of(run);
  uint64_t sum = run->samples[run->count - 1].duration;
  size_t next = 0;
  for (size_t i = 1; i < run->count; ++i) {
    const tsm_sample *before = &run->samples[i - 1];
    const uint64_t alone = before->duration > period ? before->duration : period;
    sum += paused_before(run, i, &next) ? alone : before[1].start - before->start;
  }
  return tsm_seconds(0, sum);
}

/* What was measured, and how --------------------------------------------------------------------------------------- */

static void write_command(tsm_json *json, const tsm_bench_run *run) {
  char text[1024] = "";
  for (char **argument = run->arguments; *argument; ++argument) {
    const size_t length = strlen(text);
    snprintf(text + length, sizeof text - length, "%s%s", length ? " " : "", *argument);
  }
  tsm_json_text(json, "command", text);
}

/* When the run began, by the clock on the wall. */
static void write_started(tsm_json *json, const tsm_bench_run *run) {
  char text[32] = "";
  struct tm parts;
  const time_t moment = time(NULL) - (time_t)tsm_seconds(run->origin, tsm_now());
  if (gmtime_r(&moment, &parts)) strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  tsm_json_text(json, "started", text);
}

static void write_model(tsm_json *json, const tsm_bench_run *run) {
  const tsm_card *card = &tsm_the_card;
  tsm_json_open(json, "model", '{');
  tsm_json_text(json, "name", card->model);
  tsm_json_text(json, "target", card->target);
  tsm_json_text(json, "precision", card->precision);
  tsm_json_text(json, "path", run->arguments[0]);
  tsm_json_text(json, "sha256", "");
  tsm_json_open(json, "frame_shape", '[');
  const int64_t shape[] = {card->frames, 3, card->crop_height, card->crop_width};
  for (int i = 0; i < 4; ++i) tsm_json_integer(json, NULL, shape[i]);
  tsm_json_close(json, ']');
  tsm_json_integer(json, "flops", card->flops);
  tsm_json_integer(json, "bytes", card->bytes);
  tsm_json_close(json, '}');
}

static void write_settings(tsm_json *json, const tsm_bench_options *options, int32_t frames) {
  tsm_json_open(json, "settings", '{');
  if (options->frames)
    tsm_json_integer(json, "frames", options->frames);
  else
    tsm_json_null(json, "frames");
  tsm_json_number(json, "duration_s", options->duration_s > 0 ? options->duration_s : NAN);
  tsm_json_number(json, "warmup_s", options->warmup_s);
  tsm_json_integer(json, "warmup_frames", options->warmup_frames);
  tsm_json_integer(json, "threads", options->threads);
  tsm_json_number(json, "fps", options->fps > 0 ? options->fps : NAN);
  tsm_json_integer(json, "different_frames", frames);
  tsm_json_text(json, "power", options->power);
  tsm_json_close(json, '}');
}

static void write_startup(tsm_json *json, const tsm_bench_run *run) {
  tsm_json_open(json, "startup", '{');
  tsm_json_number(json, "load_ms", run->load_ms);
  tsm_json_number(json, "first_frame_ms", run->first_frame_ms);
  tsm_json_number(json, "first_label_ms", run->load_ms + run->first_frame_ms);
  tsm_json_close(json, '}');
}

/* Latency --------------------------------------------------------------------------------------------------------- */

static void write_latency(tsm_json *json, const tsm_bench_run *run) {
  double *sorted = runner_allocate(sizeof *sorted * run->count);
  for (size_t i = 0; i < run->count; ++i) sorted[i] = milliseconds(run->samples[i].duration);
  tsm_sort(sorted, run->count);
  tsm_write_summary(json, "latency_ms", sorted, run->count);
  free(sorted);
}

static void write_samples(tsm_json *json, const tsm_bench_run *run) {
  tsm_json_open(json, "samples", '{');
  tsm_json_open(json, "start_s", '[');
  for (size_t i = 0; i < run->count; ++i) tsm_json_fixed(json, NULL, at(run, run->samples[i].start), 9);
  tsm_json_close(json, ']');
  tsm_json_open(json, "step_ms", '[');
  for (size_t i = 0; i < run->count; ++i) tsm_json_fixed(json, NULL, milliseconds(run->samples[i].duration), 6);
  tsm_json_close(json, ']');
  tsm_json_close(json, '}');
}

/* A frame misses its deadline when it is not done before the next is due, or was lost while a step ran. */
static void write_deadlines(tsm_json *json, const tsm_bench_run *run) {
  if (run->options.fps <= 0) {
    tsm_json_null(json, "deadlines");
    return;
  }
  const uint64_t period = period_of(run);
  uint64_t latest = 0, late = 0, lost = 0;
  size_t next = 0;
  for (size_t i = 0; i < run->count; ++i) {
    const tsm_sample *sample = &run->samples[i];
    late += sample->start + sample->duration > sample->due + period;
    const int paused = paused_before(run, i, &next);
    if (i && !paused) lost += (sample->due - sample[-1].due + period / 2) / period - 1;
    if (sample->start - sample->due > latest) latest = sample->start - sample->due;
  }
  tsm_json_open(json, "deadlines", '{');
  tsm_json_number(json, "period_ms", milliseconds(period));
  tsm_json_integer(json, "frames", (long long)(run->count + lost));
  tsm_json_integer(json, "missed", (long long)(late + lost));
  tsm_json_number(json, "late_start_ms", milliseconds(latest));
  tsm_json_close(json, '}');
}

/* Power ----------------------------------------------------------------------------------------------------------- */

typedef struct {
  tsm_energy before, work, after;
} energies;

/* The energy of the three windows; 0: there is none, as the problem says. */
static int find_energies(const tsm_bench_run *run, energies *into, tsm_problem *problem) {
  *problem = run->no_power;
  if (!run->trace) return 0;
  if (run->trace->failed) {
    *problem = run->trace->failure;
    return 0;
  }
  if (!run->idle_after.stop || tsm_stopped_by())
    return tsm_set_problem(problem, "the run ended before the machine had idled again");
  const double first = tsm_seconds(run->origin, run->samples[0].start);
  const tsm_span before = run->idle_before, after = run->idle_after;
  return tsm_energy_between(run->trace, tsm_seconds(run->origin, before.start), tsm_seconds(run->origin, before.stop),
                            "idling before", &into->before, problem) &&
         tsm_energy_between(run->trace, first, first + measured_seconds(run), "work", &into->work, problem) &&
         tsm_energy_between(run->trace, tsm_seconds(run->origin, after.start), tsm_seconds(run->origin, after.stop),
                            "idling after", &into->after, problem);
}

static void write_rails(tsm_json *json, const tsm_sensor *sensor, const energies *found) {
  tsm_json_open(json, "rails", '[');
  for (int i = 0; i < sensor->n_rails; ++i) {
    const double idle = (found->before.rail_watts[i] + found->after.rail_watts[i]) / 2;
    tsm_json_open(json, NULL, '{');
    tsm_json_text(json, "rail", sensor->rails[i].name);
    tsm_json_truth(json, "in_total", sensor->rails[i].in_total);
    tsm_json_number(json, "gross_w", found->work.rail_watts[i]);
    tsm_json_number(json, "idle_w", idle);
    tsm_json_number(json, "net_w", found->work.rail_watts[i] - idle);
    tsm_json_close(json, '}');
  }
  tsm_json_close(json, ']');
}

static void write_remarks(tsm_json *json, const energies *found, double idle, double net) {
  /* Shares of the idle and of the net power, and the fewest changes of a figure that still say something. */
  const double least_net = 0.01, idle_drift = 0.1;
  enum { FEWEST_CHANGES = 5 };
  const double drift = found->after.watts - found->before.watts;
  char text[160];
  tsm_json_open(json, "remarks", '[');
  if (net < least_net * idle) {
    tsm_json_text(json, NULL, "hardly more power than idle: the machine was not idle, or the sensor is too coarse");
  } else if (fabs(drift) > idle_drift * net) {
    snprintf(text, sizeof text, "idle power changed by %+.2f W from before to after: let the machine calm down longer",
             drift);
    tsm_json_text(json, NULL, text);
  }
  if (found->work.changes < FEWEST_CHANGES) {
    snprintf(text, sizeof text, "the sensor's figure changed %zu times during the work: it is slow, too coarse or stuck",
             found->work.changes);
    tsm_json_text(json, NULL, text);
  }
  tsm_json_close(json, ']');
}

static void write_energies(tsm_json *json, const tsm_bench_run *run, const energies *found) {
  const tsm_sensor *sensor = &run->sensor;
  const double idle = (found->before.watts + found->after.watts) / 2, net = found->work.watts - idle;
  const size_t steps = run->count + run->untimed;
  const double seconds = found->work.seconds, frames = (double)steps;
  tsm_json_open(json, "power", '{');
  tsm_json_text(json, "sensor", sensor->name);
  tsm_json_text(json, "boundary", sensor->boundary);
  tsm_json_text(json, "covers", sensor->covers);
  tsm_json_number(json, "gross_w", found->work.watts);
  tsm_json_number(json, "idle_w", idle);
  tsm_json_number(json, "net_w", net);
  tsm_json_number(json, "idle_before_w", found->before.watts);
  tsm_json_number(json, "idle_after_w", found->after.watts);
  tsm_json_number(json, "gross_j", found->work.joules);
  tsm_json_number(json, "net_j", net * seconds);
  tsm_json_number(json, "gross_j_per_frame", found->work.joules / frames);
  tsm_json_number(json, "net_j_per_frame", net * seconds / frames);
  tsm_json_integer(json, "frames", (long long)steps);
  tsm_json_number(json, "duration_s", seconds);
  write_rails(json, sensor, found);
  tsm_json_null(json, "uncertainty_percent");
  tsm_json_text(json, "uncertainty", sensor->uncertainty);
  tsm_json_integer(json, "samples", (long long)found->work.samples);
  tsm_json_number(json, "rate_hz", found->work.rate_hz);
  tsm_json_number(json, "jitter_ms", found->work.jitter_ms);
  tsm_json_number(json, "longest_gap_ms", found->work.longest_gap_ms);
  write_remarks(json, found, idle, net);
  tsm_json_close(json, '}');
}

/* The total over time; of a counter the mean since the sample before. */
static void write_watts(tsm_json *json, const tsm_bench_run *run) {
  const tsm_trace *trace = run->trace;
  tsm_json_open(json, "watts", '[');
  for (size_t i = trace && run->sensor.counts ? 1 : 0; trace && i < trace->count; ++i) {
    const double *values = trace->values + i * (size_t)run->sensor.n_rails;
    double watts = tsm_sensor_total(&run->sensor, values);
    if (run->sensor.counts) {
      watts -= tsm_sensor_total(&run->sensor, values - run->sensor.n_rails);
      watts /= trace->seconds[i] - trace->seconds[i - 1];
    }
    tsm_json_open(json, NULL, '{');
    tsm_json_fixed(json, "at_s", trace->seconds[i] + at(run, run->origin), 6);
    tsm_json_number(json, "power_w", watts);
    tsm_json_close(json, '}');
  }
  tsm_json_close(json, ']');
}

/* The machine's speed at the pauses. */
static void write_yardstick(tsm_json *json, const tsm_bench_run *run) {
  tsm_json_open(json, "yardstick", '[');
  for (size_t i = 0; i < run->n_pauses; ++i) {
    const tsm_pause *pause = &run->pauses[i];
    tsm_json_open(json, NULL, '{');
    tsm_json_fixed(json, "at_s", at(run, pause->moment), 6);
    tsm_json_fixed(json, "arithmetic_ms", milliseconds(pause->speed.arithmetic), 6);
    tsm_json_fixed(json, "memory_ms", milliseconds(pause->speed.memory), 6);
    tsm_json_close(json, '}');
  }
  tsm_json_close(json, ']');
}

/* The rest -------------------------------------------------------------------------------------------------------- */

static void write_note(tsm_json *json, const char *key, const tsm_bench_run *run, const tsm_note *note) {
  if (!note->keys) {
    tsm_json_null(json, key);
    return;
  }
  tsm_json_open(json, key, '{');
  tsm_json_fixed(json, "at_s", at(run, note->moment), 6);
  fprintf(json->file, ", %s", note->keys);
  tsm_json_close(json, '}');
}

static void write_environments(tsm_json *json, const tsm_bench_run *run) {
  write_note(json, "environment_before", run, &run->before);
  write_note(json, "environment_after", run, &run->after);
  tsm_json_open(json, "environment_during", '[');
  for (size_t i = 0; i < run->n_during; ++i)
    if (run->during[i].keys) write_note(json, NULL, run, &run->during[i]);
  tsm_json_close(json, ']');
}

static void write_verification(tsm_json *json, const tsm_bench_run *run) {
  if (!run->has_golden) {
    tsm_json_null(json, "verification");
    return;
  }
  tsm_json_open(json, "verification", '{');
  tsm_json_truth(json, "passed", run->verification.passed);
  tsm_json_integer(json, "frames", run->verification.frames);
  tsm_json_text(json, "against", "golden frames of ONNX Runtime");
  tsm_json_number(json, "relative_error", run->verification.error);
  tsm_json_number(json, "tolerance", tsm_the_card.cache_tolerance);
  tsm_json_close(json, '}');
}

static void write_unavailable(tsm_json *json, const tsm_bench_run *run, const char *no_power) {
  tsm_json_open(json, "unavailable", '[');
  if (no_power) tsm_json_refused(json, "power", no_power);
  if (!run->has_golden) tsm_json_refused(json, "verification", "there is no golden.bin beside the program");
  tsm_json_refused(json, "kernels", "tsm-runner times whole steps; tsm-edge bench times kernels, too");
  tsm_json_refused(json, "verdicts", "tsm-runner gives none; tsm-edge bench makes them from the samples");
  tsm_json_close(json, ']');
}

static void write_partial(tsm_json *json, const tsm_bench_run *run) {
  char text[96];
  if (tsm_stopped_by())
    snprintf(text, sizeof text, "stopped by signal %d after %zu frames", tsm_stopped_by(), run->count);
  else
    snprintf(text, sizeof text, "no room for more than %zu frames", run->count);
  tsm_json_text(json, "partial", tsm_stopped_by() || run->is_full ? text : NULL);
}

static void write_result(tsm_json *json, const tsm_bench_run *run) {
  energies found;
  tsm_problem no_power;
  const int powered = find_energies(run, &found, &no_power);
  tsm_json_open(json, NULL, '{');
  tsm_json_text(json, "name", tsm_the_card.model);
  tsm_json_text(json, "route", "local");
  tsm_json_null(json, "address");
  tsm_json_null(json, "server");
  write_started(json, run);
  write_command(json, run);
  tsm_json_text(json, "clock", "CLOCK_MONOTONIC of the device");
  write_model(json, run);
  write_settings(json, &run->options, run->n_frames);
  write_startup(json, run);
  write_latency(json, run);
  tsm_json_number(json, "fps", (double)run->count / working_seconds(run));
  write_deadlines(json, run);
  if (powered) write_energies(json, run, &found);
  write_environments(json, run);
  write_verification(json, run);
  write_unavailable(json, run, powered ? NULL : no_power.text);
  write_partial(json, run);
  write_watts(json, run);
  write_yardstick(json, run);
  write_samples(json, run);
  tsm_json_close(json, '}');
}

int tsm_write_report(const tsm_bench_run *run, FILE *file) {
  tsm_json json = {file, 0};
  tsm_json_open(&json, NULL, '{');
  tsm_json_text(&json, "schema", SCHEMA);
  tsm_json_text(&json, "tsm_edge", tsm_the_card.version);
  tsm_json_open(&json, "results", '[');
  write_result(&json, run);
  tsm_json_close(&json, ']');
  tsm_json_close(&json, '}');
  putc('\n', file);
  return fflush(file) == 0 && !ferror(file);
}
