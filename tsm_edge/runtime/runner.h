/* runner.h - what the commands of tsm-runner share. Internal. */
#ifndef TSM_RUNNER_H
#define TSM_RUNNER_H

#include <stddef.h>
#include <stdint.h>

#include "tsm_edge.h"

/* Bytes of the longest path, its zero included. */
enum { RUNNER_PATH = 4096 };

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

/* The file of that name beside this program: path has RUNNER_PATH bytes. */
void runner_beside(const char *name, char *path);

/* Make the functions of tsm_edge.h ready to be called: they are inside this program (model_inside.c) or in a library
 * beside it (model_beside.c). Not RUNNER_OK: they are not there, and that was said on stderr. */
int runner_find_model(void);

/* How many threads tuning found to be the best (1: it was never asked), and no more than there are cores; this thread and
 * those that it starts from now on then keep to the cores that go with them, if all of them are there. */
int32_t runner_advised_threads(void);

/* Null, and said on stderr, when it cannot be opened. */
tsm_stream *runner_open_stream(const runner_options *given);

/* Logits that a step writes: of all its clips. */
size_t runner_logits(void);

/* Pixels of a frame of the model's input. */
size_t runner_frame_pixels(void);

/* Of all frames that a step takes: 1, or those of its clips. */
size_t runner_step_pixels(void);

/* What a step takes as cameras have it, as the model's input. */
void runner_normalise(const uint8_t *pictures, float *input);

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
