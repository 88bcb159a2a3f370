/* runner.h - what the commands of tsm-runner share. Internal. */
#ifndef TSM_RUNNER_H
#define TSM_RUNNER_H

#include <stddef.h>
#include <stdint.h>

#include "tsm_edge.h"

/* Exit codes. */
enum { RUNNER_OK = 0, RUNNER_DIFFERS = 1, RUNNER_USER_ERROR = 2 };

typedef struct {
  int32_t threads, width, height; /* width 0: frames have the crop's size */
  const char *golden, *outputs;                   /* files; null: beside the program, none */
} runner_options;

/* Say what is wrong, on stderr; returns RUNNER_USER_ERROR. */
int runner_fail(const char *what, const char *why);

/* Zeroed memory; ends the program when there is none. */
void *runner_allocate(size_t bytes);

/* Null, and said on stderr, when it cannot be opened. */
tsm_stream *runner_open_stream(const runner_options *given);

/* The model's input [1, 3, height, width]. */
const int64_t *runner_frame_shape(void);

size_t runner_classes(void);

/* Pixels of the model's input. */
size_t runner_frame_pixels(void);

/* The two texts as one JSON string. */
void runner_print_string(const char *text, const char *suffix);

/* What the golden frames say of this device: error is the largest of all outputs, relative to their magnitude. */
typedef struct {
  int passed;
  uint32_t frames;
  double error;
} runner_verification;

/* Run the golden frames; returns an exit code, RUNNER_OK also where outputs differ. */
int runner_check(const runner_options *given, runner_verification *into);

/* Whether golden frames lie beside this program. */
int runner_has_golden(void);

/* The command `verify` (golden.c). */
int runner_verify(const runner_options *given);

#endif /* TSM_RUNNER_H */
