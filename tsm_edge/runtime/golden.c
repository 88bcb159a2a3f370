/* golden.c - does this device compute what ONNX Runtime computed? The file is described in golden.h. */
#include "golden.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "card.h"
#include "image.h"
#include "runner.h"
#include "tsm_edge.h"

static size_t cache_elements(int32_t index) { return tsm_the_card.caches[index].elements; }

typedef struct {
  tsm_golden_head head;
  uint8_t *frames;
  float *logits, **caches;
} golden;

/* Largest reference value and largest difference of one output over all frames. */
typedef struct {
  double magnitude, error;
} check;

static void compare(check *into, const float *found, const float *wanted, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    double difference = fabs((double)found[i] - (double)wanted[i]), magnitude = fabs((double)wanted[i]);
    if (isnan(difference) || difference > into->error) into->error = difference; /* once a NaN, always */
    if (magnitude > into->magnitude) into->magnitude = magnitude;
  }
}

static int passes(const check *found, double tolerance) {
  return found->error <= tolerance * found->magnitude || found->error == 0.0;
}

static int read_golden(golden *into, FILE *file) {
  const tsm_card *card = &tsm_the_card;
  tsm_golden_head *head = &into->head;
  char magic[8];
  if (fread(magic, sizeof magic, 1, file) != 1 || memcmp(magic, TSM_GOLDEN_MAGIC, sizeof magic) != 0) return 0;
  if (fread(head, sizeof *head, 1, file) != 1) return 0;
  if (head->height != (uint32_t)card->crop_height || head->width != (uint32_t)card->crop_width ||
      head->classes != (uint32_t)runner_logits() || head->n_caches != (uint32_t)card->n_caches || !head->frames ||
      head->frames > 4096)
    return 0;
  into->caches = runner_allocate(sizeof(float *) * head->n_caches);
  for (uint32_t i = 0; i < head->n_caches; ++i) {
    uint32_t elements;
    if (fread(&elements, sizeof elements, 1, file) != 1 || elements != cache_elements((int32_t)i)) return 0;
    into->caches[i] = runner_allocate(sizeof(float) * elements);
  }
  const size_t bytes = (3 * runner_step_pixels() * head->frames + 3) / 4 * 4;
  const size_t logits = head->frames * (size_t)head->classes;
  into->frames = runner_allocate(bytes);
  into->logits = runner_allocate(sizeof(float) * logits);
  if (fread(into->frames, 1, bytes, file) != bytes) return 0;
  if (fread(into->logits, sizeof(float), logits, file) != logits) return 0;
  for (uint32_t i = 0; i < head->n_caches; ++i)
    if (fread(into->caches[i], sizeof(float), cache_elements((int32_t)i), file) != cache_elements((int32_t)i)) return 0;
  return fgetc(file) == EOF;
}

int runner_has_golden(void) {
  char path[RUNNER_PATH];
  runner_beside("golden.bin", path);
  return access(path, F_OK) == 0;
}

static int load_golden(golden *into, const runner_options *given) {
  char beside[RUNNER_PATH];
  const char *path = given->golden;
  if (!path) {
    runner_beside("golden.bin", beside);
    path = beside;
  }
  FILE *file = fopen(path, "rb");
  if (!file) return runner_fail(path, strerror(errno));
  int good = read_golden(into, file);
  fclose(file);
  return good ? RUNNER_OK : runner_fail(path, "not the golden frames of this model");
}

/* The caches of explicit steps: read one set, write the other. */
typedef struct {
  float **read, **write;
} cache_sets;

static cache_sets new_caches(void) {
  const int32_t n = tsm_the_card.n_caches;
  cache_sets sets = {runner_allocate(sizeof(float *) * (size_t)n), runner_allocate(sizeof(float *) * (size_t)n)};
  for (int32_t i = 0; i < n; ++i) {
    sets.read[i] = runner_allocate(sizeof(float) * cache_elements(i));
    sets.write[i] = runner_allocate(sizeof(float) * cache_elements(i));
  }
  return sets;
}

static void zero_caches(cache_sets sets) {
  for (int32_t i = 0; i < tsm_the_card.n_caches; ++i) memset(sets.read[i], 0, sizeof(float) * cache_elements(i));
}

/* Every output of a frame, float32: the logits, those with explicit caches, every next cache (NCHW). */
static void dump(FILE *file, const float *logits, const float *explicit_logits, cache_sets sets) {
  const tsm_card *card = &tsm_the_card;
  if (!file) return;
  fwrite(logits, sizeof(float), runner_logits(), file);
  fwrite(explicit_logits, sizeof(float), runner_logits(), file);
  for (int32_t i = 0; i < card->n_caches; ++i) fwrite(sets.write[i], sizeof(float), cache_elements(i), file);
}

/* Run all golden frames; checks: logits, logits with explicit caches, every cache after the last frame. */
static int run_golden(const golden *golden, tsm_stream *stream, check *checks, FILE *outputs) {
  const tsm_card *card = &tsm_the_card;
  const size_t count = runner_logits(), pixels = runner_step_pixels();
  float *input = runner_allocate(sizeof(float) * 3 * pixels), *logits = runner_allocate(sizeof(float) * 2 * count);
  cache_sets sets = new_caches();
  for (uint32_t i = 0; i < golden->head.frames; ++i) {
    if (i && i == golden->head.reset) {
      if (tsm_reset(stream) != TSM_OK) return 0;
      zero_caches(sets);
    }
    runner_normalise(golden->frames + 3 * pixels * i, input);
    const float *const *read = (const float *const *)sets.read;
    if (tsm_step(stream, input, logits) != TSM_OK) return 0;
    if (tsm_step_explicit(stream, input, read, logits + count, sets.write) != TSM_OK) return 0;
    if (card->frames > 1 && tsm_output(stream, 1, sets.write[0]) != TSM_OK) return 0;
    compare(&checks[0], logits, golden->logits + i * count, count);
    compare(&checks[1], logits + count, golden->logits + i * count, count);
    dump(outputs, logits, logits + count, sets);
    sets = (cache_sets){sets.write, sets.read};
  }
  for (int32_t i = 0; i < card->n_caches; ++i)
    compare(&checks[2 + i], sets.read[i], golden->caches[i], cache_elements(i));
  return 1;
}

/* Relative to the largest value, where that is not 0. */
static double relative_error(const check *found) {
  return found->magnitude > 0 ? found->error / found->magnitude : found->error;
}

/* Of a check: the first two are of logits. */
static double tolerance_of(int32_t index) {
  return index < 2 ? tsm_the_card.tolerance : tsm_the_card.cache_tolerance;
}

static void print_check(const char *name, const char *suffix, const check *checks, int32_t index, int last) {
  const check *found = &checks[index];
  double error = relative_error(found);
  fputs("{\"name\": ", stdout);
  runner_print_string(name, suffix);
  printf(", \"magnitude\": %.6g, \"error\": ", found->magnitude);
  if (isfinite(error))
    printf("%.3g", error);
  else
    printf("null");
  printf(", \"passed\": %s}%s", passes(found, tolerance_of(index)) ? "true" : "false", last ? "]}\n" : ", ");
}

static int32_t count_checks(void) { return 2 + tsm_the_card.n_caches; }

/* Make all checks, which are the caller's to free; returns an exit code. */
static int make_checks(const runner_options *given, check **checks, runner_verification *into) {
  golden golden;
  if (load_golden(&golden, given) != RUNNER_OK) return RUNNER_USER_ERROR;
  FILE *outputs = given->outputs ? fopen(given->outputs, "wb") : NULL;
  if (given->outputs && !outputs) return runner_fail(given->outputs, strerror(errno));
  tsm_stream *stream = runner_open_stream(given);
  if (!stream) return RUNNER_USER_ERROR;
  *checks = runner_allocate(sizeof **checks * (size_t)count_checks());
  if (!run_golden(&golden, stream, *checks, outputs)) return runner_fail("step", tsm_last_error());
  tsm_close(stream);
  if (outputs && fclose(outputs) != 0) return runner_fail(given->outputs, strerror(errno));
  *into = (runner_verification){.passed = 1, .frames = golden.head.frames};
  for (int32_t i = 0; i < count_checks(); ++i) {
    const double error = relative_error(&(*checks)[i]);
    into->passed &= passes(&(*checks)[i], tolerance_of(i));
    if (isnan(error) || error > into->error) into->error = error; /* once a NaN, always */
  }
  return RUNNER_OK;
}

int runner_check(const runner_options *given, runner_verification *into) {
  check *checks = NULL;
  const int code = make_checks(given, &checks, into);
  free(checks);
  return code;
}

int runner_verify(const runner_options *given) {
  const tsm_card *card = &tsm_the_card;
  check *checks = NULL;
  runner_verification found;
  const int code = make_checks(given, &checks, &found);
  if (code != RUNNER_OK) return code;
  const int32_t n_checks = count_checks();
  printf("{\"passed\": %s, \"frames\": %u, \"threads\": %d, \"tolerance\": %g, \"checks\": [",
         found.passed ? "true" : "false", (unsigned)found.frames, (int)given->threads, tsm_the_card.tolerance);
  print_check(card->logits, "", checks, 0, 0);
  print_check(card->logits, " (explicit caches)", checks, 1, n_checks == 2);
  for (int32_t i = 0; i < card->n_caches; ++i)
    print_check(card->caches[i].name, "", checks, 2 + i, i + 1 == card->n_caches);
  free(checks);
  return found.passed ? RUNNER_OK : RUNNER_DIFFERS;
}
