/* bench.c - times frames on the device: load, first frame, golden frames, idle, warm-up, the frames, idle.
 *
 * A signal ends the run early; what was found until then is written all the same, and marked. */
#include "bench/bench.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/clock.h"
#include "bench/environment.h"
#include "bench/run.h"
#include "card.h"

/* So many different frames: together they do not stay in the caches of small boards. HEAD: untimed frames after a
 * look at the machine, to bring weights and code back into the caches. */
enum { DIFFERENT_FRAMES = 16, DIFFERENT_CLIPS = 2, HEAD = 2, MOST_FRAMES = 1000000 };
/* Between chunks of so many seconds the clock is looked at; the machine's speed every PAUSE_S, or every SHORT_S and so
 * many frames while it changes; the rest every GLANCE_S. */
static const double CHUNK_S = 0.1, PAUSE_S = 0.5, SHORT_S = 0.1, GLANCE_S = 1.0;
enum { FEWEST_IN_SHORT = 8 };
/* Readings of one speed differ by no more than these shares. */
static const double ARITHMETIC_BAND = 0.08, MEMORY_BAND = 0.15;

/* Pixels of noise, the same on every machine. */
static float *make_frames(int32_t count) {
  const size_t pixels = runner_step_pixels();
  uint8_t *bytes = runner_allocate(3 * pixels);
  float *frames = runner_allocate(sizeof *frames * 3 * pixels * (size_t)count);
  uint32_t state = 1;
  for (int32_t i = 0; i < count; ++i) {
    for (size_t k = 0; k < 3 * pixels; ++k) {
      state = state * 1664525u + 1013904223u;
      bytes[k] = (uint8_t)(state >> 24);
    }
    runner_normalise(bytes, frames + 3 * pixels * (size_t)i);
  }
  free(bytes);
  return frames;
}

static tsm_note take_note(const char *root, void (*write)(tsm_json *, const char *)) {
  tsm_note note = {tsm_now(), NULL};
  size_t length;
  tsm_json json = {open_memstream(&note.keys, &length), 0};
  if (!json.file) return note;
  write(&json, root);
  fclose(json.file);
  return note;
}

static void glance(tsm_bench_run *run) {
  tsm_note *notes = realloc(run->during, sizeof *notes * (run->n_during + 1));
  if (!notes) return;
  run->during = notes;
  notes[run->n_during++] = take_note(run->options.root, tsm_write_glance);
}

/* Measure the machine's speed. Without memory for it there is one figure less. */
static void measure_speed(tsm_bench_run *run) {
  tsm_pause pause = {tsm_now(), run->count, {0, 0}};
  tsm_pause *pauses = realloc(run->pauses, sizeof *pauses * (run->n_pauses + 1));
  if (!pauses) return;
  run->pauses = pauses;
  if (tsm_yardstick(&pause.speed) == TSM_OK) pauses[run->n_pauses++] = pause;
}

/* Idle for the time the options say; where a sensor needs longer, for that. */
static tsm_span idle(const tsm_bench_run *run) {
  double seconds = run->options.idle_s;
  if (seconds < tsm_shortest_window(&run->sensor)) seconds = tsm_shortest_window(&run->sensor);
  tsm_span span = {tsm_now(), 0};
  tsm_sleep_until(span.start + (uint64_t)(seconds * 1e9));
  span.stop = tsm_now();
  return span;
}

/* The loop ------------------------------------------------------------------------------------------------------- */

typedef struct {
  tsm_bench_run *run;
  tsm_stream *stream;
  float *logits;
  int64_t steps; /* until now, warm-up and all */
  uint64_t period;
} loop;

static int has_room(tsm_bench_run *run, size_t more) {
  if (run->count + more <= run->room) return 1;
  if (run->count + more > MOST_FRAMES) return 0;
  const size_t room = 2 * run->room > run->count + more ? 2 * run->room : run->count + more;
  tsm_sample *samples = realloc(run->samples, room * sizeof *samples);
  if (!samples) return 0;
  run->samples = samples;
  run->room = room;
  return 1;
}

/* Time a few steps into `samples`. A camera's beat goes on from the step before. */
static int time_steps(loop *loop, int32_t count, tsm_sample *samples, const tsm_sample *before) {
  const tsm_run what = {loop->run->frames, loop->run->n_frames, (int32_t)(loop->steps % loop->run->n_frames), count,
                        loop->period};
  if (loop->period && before) {
    uint64_t due = before->due + loop->period, now = tsm_now();
    if (now > due) due += (now - due) / loop->period * loop->period;
    tsm_sleep_until(due);
  }
  loop->steps += count;
  return tsm_measure(loop->stream, &what, samples, loop->logits, NULL) == TSM_OK;
}

/* How many steps as long as the last one fit into so many seconds: at least one. */
static int32_t steps_in(double seconds, const loop *loop, const tsm_sample *last) {
  const double step_s = (double)(loop->period > last->duration ? loop->period : last->duration) * 1e-9;
  const double steps = seconds / (step_s > 1e-6 ? step_s : 1e-6);
  return steps < 1 ? 1 : steps > 4096 ? 4096 : (int32_t)steps;
}

/* How many frames are timed before the clock is looked at again; 0: the run is over. */
static int32_t next_chunk(const loop *loop, uint64_t began, const tsm_sample *last) {
  const tsm_bench_options *options = &loop->run->options;
  const int64_t done = (int64_t)loop->run->count, left = options->least_frames - done;
  const double left_s = options->duration_s - tsm_seconds(began, tsm_now());
  if (tsm_stopped_by() || (left <= 0 && left_s <= 0)) return 0;
  const int32_t most = steps_in(CHUNK_S, loop, last), by_time = left_s > 0 ? steps_in(left_s, loop, last) : 0;
  const int64_t wanted = left > by_time ? left : by_time;
  return wanted < most ? (int32_t)wanted : most;
}

/* When the machine was looked at last; 0: long ago. */
typedef struct {
  uint64_t speed, rest;
} looks;

static int alike(uint64_t one, uint64_t other, double band) {
  return fabs((double)one - (double)other) <= band * (double)one;
}

/* Whether it is time to measure the machine's speed. */
static int speed_is_due(const tsm_bench_run *run, uint64_t last) {
  const double since_s = tsm_seconds(last, tsm_now());
  if (since_s >= PAUSE_S) return 1;
  if (since_s < SHORT_S || run->n_pauses < 2) return 0;
  const tsm_pause *before = &run->pauses[run->n_pauses - 2], *newest = before + 1;
  return run->count - newest->count >= FEWEST_IN_SHORT &&
         !(alike(before->speed.arithmetic, newest->speed.arithmetic, ARITHMETIC_BAND) &&
           alike(before->speed.memory, newest->speed.memory, MEMORY_BAND));
}

/* Look at the machine, if the last time is long ago; a camera's frames leave time for it. */
static int look(loop *loop, looks *last_looks, tsm_sample *last) {
  tsm_sample head[HEAD];
  if (!speed_is_due(loop->run, last_looks->speed)) return 1;
  measure_speed(loop->run);
  if (tsm_seconds(last_looks->rest, tsm_now()) >= GLANCE_S) {
    glance(loop->run);
    last_looks->rest = tsm_now();
  }
  last_looks->speed = tsm_now();
  if (loop->period) return 1;
  if (!time_steps(loop, HEAD, head, last)) return 0;
  loop->run->untimed += HEAD;
  *last = head[HEAD - 1];
  return 1;
}

/* Step until both so many frames and so much time are over; `last` is the newest step, and becomes it. */
static int warm_up(loop *loop, tsm_sample *last) {
  const tsm_bench_options *options = &loop->run->options;
  const uint64_t until = tsm_now() + (uint64_t)(options->warmup_s * 1e9);
  int64_t done = 0;
  while (!tsm_stopped_by() && (done < options->warmup_frames || tsm_now() < until)) {
    tsm_sample sample;
    if (!time_steps(loop, 1, &sample, last)) return 0;
    *last = sample;
    ++done;
  }
  return 1;
}

static int time_frames(loop *loop, tsm_sample last) {
  tsm_bench_run *run = loop->run;
  const uint64_t began = tsm_now();
  looks looked = {0, 0};
  int32_t chunk;
  while ((chunk = next_chunk(loop, began, &last)) > 0) {
    run->is_full = !has_room(run, (size_t)chunk);
    if (run->is_full) break;
    if (!look(loop, &looked, &last) || !time_steps(loop, chunk, run->samples + run->count, &last)) return 0;
    run->count += (size_t)chunk;
    last = run->samples[run->count - 1];
  }
  measure_speed(run);
  return 1;
}

/* The parts of a run ---------------------------------------------------------------------------------------------- */

/* Load the model, open the stream and run its first frame, all timed. */
static int start_up(loop *loop, tsm_sample *first) {
  const uint64_t began = tsm_now();
  const int code = runner_find_model();
  if (code != RUNNER_OK) return code;
  const runner_options given = {.threads = loop->run->options.threads};
  loop->stream = runner_open_stream(&given);
  if (!loop->stream) return RUNNER_USER_ERROR;
  loop->run->load_ms = 1e3 * tsm_seconds(began, tsm_now());
  if (!time_steps(loop, 1, first, NULL)) return runner_fail("step", tsm_last_error());
  loop->run->first_frame_ms = (double)first->duration * 1e-6;
  return RUNNER_OK;
}

static int check_golden(tsm_bench_run *run) {
  const runner_options given = {.threads = run->options.threads, .golden = run->options.golden};
  run->has_golden = given.golden || runner_has_golden();
  return run->has_golden ? runner_check(&given, &run->verification) : RUNNER_OK;
}

static int measure(tsm_bench_run *run, loop *loop, tsm_sample last) {
  const int powered = run->trace != NULL;
  if (powered) run->idle_before = idle(run);
  run->before = take_note(run->options.root, tsm_write_environment);
  if (!warm_up(loop, &last) || !time_frames(loop, last)) return runner_fail("step", tsm_last_error());
  run->after = take_note(run->options.root, tsm_write_environment);
  if (powered && !tsm_stopped_by()) run->idle_after = idle(run);
  return RUNNER_OK;
}

static int run_all(tsm_bench_run *run) {
  loop loop = {.run = run, .logits = runner_allocate(sizeof(float) * runner_logits())};
  tsm_sample last;
  run->frames = make_frames(run->n_frames);
  int code = start_up(&loop, &last);
  if (code == RUNNER_OK && run->options.fps > 0) loop.period = (uint64_t)(1e9 / run->options.fps);
  if (code == RUNNER_OK) code = check_golden(run);
  if (code == RUNNER_OK) code = measure(run, &loop, last);
  if (loop.stream) tsm_close(loop.stream);
  free(loop.logits);
  return code;
}

/* Find the sensor that is asked for; 0: it is not there, which is said. */
static int find_sensor(tsm_bench_run *run) {
  const char *power = run->options.power;
  if (!strcmp(power, "none")) {
    tsm_set_problem(&run->no_power, "no sensor was asked for");
    return 1;
  }
  if (tsm_sensor_open(&run->sensor, run->options.root, power, &run->no_power)) return 1;
  if (!strcmp(power, "auto")) return 1;
  runner_fail("--power", run->no_power.text);
  return 0;
}

static int measured(tsm_bench_run *run) {
  if (!run->sensor.n_rails) return run_all(run);
  tsm_sampler *sampler = tsm_sampler_start(&run->sensor, run->origin, &run->no_power);
  if (!sampler) return runner_fail("--power", run->no_power.text);
  run->trace = tsm_sampler_trace(sampler);
  const int code = run_all(run);
  tsm_sampler_stop(sampler);
  return code;
}

/* The report ------------------------------------------------------------------------------------------------------ */

/* Written beside and renamed: the file is whole or not there. Where it cannot be, stdout gets what was measured. */
static int write_file(const tsm_bench_run *run, const char *path) {
  char part[4096];
  if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) return runner_fail(path, "the name is too long");
  FILE *file = fopen(part, "wb");
  const int written = file && tsm_write_report(run, file);
  int error = errno;
  const int closed = file && fclose(file) == 0;
  if (written && !closed) error = errno;
  if (written && closed && rename(part, path) == 0) return RUNNER_OK;
  const int code = runner_fail(path, strerror(written && closed ? errno : error));
  if (file) remove(part);
  tsm_write_report(run, stdout);
  return code;
}

static int write_stdout(const tsm_bench_run *run) {
  if (tsm_write_report(run, stdout)) return RUNNER_OK;
  return runner_fail("standard output", strerror(errno));
}

int tsm_bench(int argc, char **argv) {
  static tsm_bench_run run;
  run = (tsm_bench_run){.arguments = argv, .origin = tsm_now(), .n_frames = tsm_the_card.frames > 1 ? DIFFERENT_CLIPS : DIFFERENT_FRAMES};
  int code = tsm_read_bench_options(argc - 2, argv + 2, &run.options);
  if (code != RUNNER_OK) return code;
  if (!find_sensor(&run)) return RUNNER_USER_ERROR;
  tsm_catch_signals();
  code = measured(&run);
  if (code != RUNNER_OK) return code;
  if (!run.count) runner_fail("bench", "stopped before the first frame was measured");
  if (!run.count) return 128 + tsm_stopped_by();
  code = run.options.json ? write_file(&run, run.options.json) : write_stdout(&run);
  if (code != RUNNER_OK) return code;
  if (tsm_stopped_by()) return 128 + tsm_stopped_by();
  return run.has_golden && !run.verification.passed ? RUNNER_DIFFERS : RUNNER_OK;
}
