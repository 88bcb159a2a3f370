/* runner.c - tsm-runner: a program that needs no Python, for a device. It has the model inside or beside it.
 *
 * Exit codes: 0 success, 1 a comparison failed, 2 a wrong argument or file. Results are JSON on stdout. */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "card.h"
#include "image.h"
#include "runner.h"
#include "tsm_edge.h"

static const char usage[] =
    "usage: tsm-runner info\n"
    "       tsm-runner verify [--golden FILE] [--threads N] [--outputs FILE]\n"
    "       tsm-runner bench [--frames N] [--duration S] [--warmup S] [--threads N] [--fps F]\n"
    "                        [--power SENSOR] [--idle S] [--json FILE] [--golden FILE]\n"
    "       tsm-runner stream [--size WIDTHxHEIGHT] [--threads N] < RGB24 frames\n"
    "With --size frames are resized and cropped as the model card says; without, they are cropped already.\n"
    "Of a model of clips, a clip's frames follow each other, and a line is a clip's.\n";

int runner_fail(const char *what, const char *why) {
  fprintf(stderr, "tsm-runner: error: %s: %s\n", what, why);
  return RUNNER_USER_ERROR;
}

void *runner_allocate(size_t bytes) {
  void *memory = calloc(1, bytes ? bytes : 1);
  if (!memory) exit(runner_fail("memory", "not enough for the model"));
  return memory;
}

void runner_beside(const char *name, char *path) {
  ssize_t length = readlink("/proc/self/exe", path, RUNNER_PATH - 1);
  while (length > 0 && path[length - 1] != '/') --length;
  length = length > 0 ? length : 0;
  snprintf(path + length, RUNNER_PATH - (size_t)length, "%s", name);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

enum { CPU_SET_BYTES = 128 }; /* of 1024 CPUs, as every C library has it */

int32_t runner_advised_threads(void) {
  union {
    cpu_set_t as_set;
    unsigned char bytes[CPU_SET_BYTES];
  } allowed = {.bytes = {0}}, wanted = {.bytes = {0}};
  const tsm_card *card = &tsm_the_card;
  int32_t there = 0, kept = 0;
  if (!card->threads) return 1;
  if (sched_getaffinity(0, sizeof allowed.as_set, &allowed.as_set) != 0) return card->threads;
  for (size_t i = 0; i < CPU_SET_BYTES; ++i) there += __builtin_popcount(allowed.bytes[i]);
  for (int32_t i = 0; i < card->n_cores; ++i) {
    const int32_t core = card->cores[i];
    kept += allowed.bytes[core / 8] >> core % 8 & 1;
    wanted.bytes[core / 8] |= (unsigned char)(1 << core % 8);
  }
  if (kept && kept == card->n_cores) sched_setaffinity(0, sizeof wanted.as_set, &wanted.as_set);
  return card->threads < there ? card->threads : there;
}

tsm_stream *runner_open_stream(const runner_options *given) {
  tsm_stream *stream = tsm_open(given->threads);
  if (!stream) runner_fail("the model", tsm_last_error());
  return stream;
}

size_t runner_logits(void) { return (size_t)tsm_the_card.clips * (size_t)tsm_the_card.classes; }

size_t runner_frame_pixels(void) { return (size_t)tsm_the_card.crop_height * (size_t)tsm_the_card.crop_width; }

size_t runner_step_pixels(void) { return (size_t)tsm_the_card.frames * runner_frame_pixels(); }

void runner_normalise(const uint8_t *pictures, float *input) {
  const size_t pixels = runner_frame_pixels(), all = runner_step_pixels();
  for (size_t at = 0; at < all; at += pixels) tsm_normalise(pictures + 3 * at, pixels, input + 3 * at);
}

static void print_escaped(const char *text) {
  for (const unsigned char *at = (const unsigned char *)text; *at; ++at) {
    if (*at < 0x20)
      printf("\\u%04x", *at);
    else
      printf(*at == '"' || *at == '\\' ? "\\%c" : "%c", *at);
  }
}

void runner_print_string(const char *text, const char *suffix) {
  putchar('"');
  print_escaped(text);
  print_escaped(suffix);
  putchar('"');
}

/* info ------------------------------------------------------------------------------------------------------------ */

static int info(const runner_options *given) {
  (void)given;
  puts(tsm_manifest());
  return RUNNER_OK;
}

/* stream ---------------------------------------------------------------------------------------------------------- */

/* The softmax probability of one class, unless the model has applied such a function itself. */
static double probability(const float *logits, int32_t index) {
  if (tsm_the_card.probabilities) return logits[index];
  double sum = 0;
  for (int32_t i = 0; i < tsm_the_card.classes; ++i) sum += exp((double)logits[i] - (double)logits[index]);
  return 1.0 / sum;
}

/* One line of JSON: the likeliest class, its probability, and the times. */
static void print_prediction(size_t frame, const float *logits, uint64_t preprocess, uint64_t step) {
  int32_t best = 0;
  for (int32_t i = 1; i < tsm_the_card.classes; ++i)
    if (logits[i] > logits[best]) best = i;
  printf("{\"frame\": %zu, \"index\": %d, \"label\": ", frame, (int)best);
  if (best < tsm_the_card.n_labels)
    runner_print_string(tsm_the_card.labels[best], "");
  else
    fputs("null", stdout);
  const double likely = probability(logits, best);
  if (isfinite(likely))
    printf(", \"probability\": %.4f", likely);
  else
    fputs(", \"probability\": null", stdout); /* JSON has no NaN */
  printf(", \"preprocess_ms\": %.3f, \"step_ms\": %.3f}\n", (double)preprocess / 1e6, (double)step / 1e6);
  fflush(stdout);
}

static int stream_frames(const runner_options *given) {
  const tsm_card *card = &tsm_the_card;
  const size_t pixels = runner_frame_pixels(), frames = (size_t)card->frames;
  const size_t each = 3 * (given->width ? (size_t)given->width * (size_t)given->height : pixels), bytes = frames * each;
  uint8_t *frame = runner_allocate(bytes);
  float *input = runner_allocate(sizeof(float) * 3 * pixels * frames);
  float *logits = runner_allocate(sizeof(float) * runner_logits());
  tsm_resizer *resizer = given->width ? tsm_resizer_open(given->width, given->height) : NULL;
  tsm_stream *stream = runner_open_stream(given);
  if (given->width && !resizer) return runner_fail("memory", "not enough for the frames");
  if (!stream) return RUNNER_USER_ERROR;
  if (tsm_the_card.warning) fprintf(stderr, "tsm-runner: warning: %s\n", tsm_the_card.warning);
  const size_t one = bytes / (size_t)card->clips; /* of a frame, or a clip */
  size_t count = 0, got = bytes;
  while (got == bytes && !ferror(stdout)) {
    got = fread(frame, 1, bytes, stdin);
    const size_t whole = got / one;
    if (!whole) break;
    memset(frame + whole * one, 0, bytes - whole * one); /* of a step that the last clips do not fill */
    uint64_t started = now();
    for (size_t i = 0; resizer && i < frames; ++i)
      tsm_resizer_run(resizer, frame + each * i, input + 3 * pixels * i);
    uint64_t prepared = now();
    const int32_t code = resizer ? tsm_step(stream, input, logits) : tsm_step_u8(stream, frame, logits);
    if (code != TSM_OK) return runner_fail("step", tsm_last_error());
    const uint64_t stepped = now();
    for (size_t clip = 0; clip < whole; ++clip)
      print_prediction(count++, logits + clip * (size_t)card->classes, (prepared - started) / whole,
                       (stepped - prepared) / whole);
  }
  tsm_close(stream);
  tsm_resizer_close(resizer);
  if (ferror(stdin)) return runner_fail("standard input", strerror(errno));
  if (got % one)
    fprintf(stderr, "tsm-runner: warning: the last %zu bytes are not a whole %s of %zu\n", got % one,
            card->frames > 1 ? "clip" : "frame", one);
  if (!count) return runner_fail("standard input", "no frame, expected raw RGB24");
  return RUNNER_OK;
}

/* Arguments ------------------------------------------------------------------------------------------------------- */

static int number(const char *text, int32_t low, int32_t high, int32_t *into) {
  char *end;
  long value = strtol(text, &end, 10);
  if (end == text || *end || value < low || value > high) return 0;
  *into = (int32_t)value;
  return 1;
}

static int size(const char *text, runner_options *into) {
  char width[16];
  const char *sign = strchr(text, 'x');
  if (!sign || (size_t)(sign - text) >= sizeof width) return 0;
  memcpy(width, text, (size_t)(sign - text));
  width[sign - text] = 0;
  return number(width, 1, 16384, &into->width) && number(sign + 1, 1, 16384, &into->height);
}

/* Set one option; 0 if the command has none of that name, or the value is impossible. */
static int set(runner_options *into, const char *command, const char *name, const char *value) {
  const int verifies = !strcmp(command, "verify");
  if (strcmp(command, "info") && !strcmp(name, "--threads")) return number(value, 1, TSM_MOST_THREADS, &into->threads);
  if (verifies && !strcmp(name, "--golden")) return (into->golden = value) != NULL;
  if (verifies && !strcmp(name, "--outputs")) return (into->outputs = value) != NULL;
  if (!strcmp(command, "stream") && !strcmp(name, "--size")) return size(value, into);
  return 0;
}

typedef int (*runner_command)(const runner_options *);

static runner_command find(const char *name) {
  if (!strcmp(name, "info")) return info;
  if (!strcmp(name, "verify")) return runner_verify;
  return strcmp(name, "stream") ? NULL : stream_frames;
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "bench")) return tsm_bench(argc, argv);
  runner_options given = {.threads = 0};
  runner_command run = argc > 1 ? find(argv[1]) : NULL;
  if (!run) {
    fputs(usage, stderr);
    return RUNNER_USER_ERROR;
  }
  for (int i = 2; i < argc; i += 2)
    if (i + 1 == argc || !set(&given, argv[1], argv[i], argv[i + 1]))
      return runner_fail(argv[i], i + 1 == argc ? "no such option, or no value" : "no such option, or a wrong value");
  if (!given.threads) given.threads = runner_advised_threads();
  int code = runner_find_model();
  if (code == RUNNER_OK) code = run(&given);
  if (fflush(stdout) != 0 || ferror(stdout)) return runner_fail("standard output", strerror(errno));
  return code;
}
