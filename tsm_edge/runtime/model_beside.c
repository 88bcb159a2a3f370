/* model_beside.c - tsm-runner without a model inside: the functions of tsm_edge.h are those of the model.so beside it,
 * which is what other programs of the device load, too. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "card.h"
#include "runner.h"
#include "tsm_edge.h"

static struct {
  int32_t (*abi_version)(void);
  const char *(*manifest)(void);
  tsm_stream *(*open)(int32_t threads);
  int32_t (*reset)(tsm_stream *stream);
  int32_t (*step)(tsm_stream *stream, const float *frame, float *logits);
  int32_t (*step_u8)(tsm_stream *stream, const uint8_t *frame, float *logits);
  int32_t (*step_explicit)(tsm_stream *stream, const float *frame, const float *const *shift, float *logits,
                           float *const *shift_next);
  int32_t (*output)(tsm_stream *stream, int32_t index, float *values);
  int32_t (*measure)(tsm_stream *stream, const tsm_run *run, tsm_sample *samples, float *logits, uint64_t *kernels);
  int32_t (*yardstick)(tsm_speed *speed);
  void (*close)(tsm_stream *stream);
  const char *(*last_error)(void);
} model;

static const struct {
  const char *name;
  void *into; /* a pointer to a function, as dlsym's manual writes one */
} functions[] = {
    {"tsm_abi_version", &model.abi_version},     {"tsm_manifest", &model.manifest},     {"tsm_open", &model.open},
    {"tsm_reset", &model.reset},                 {"tsm_step", &model.step},             {"tsm_measure", &model.measure},
    {"tsm_step_explicit", &model.step_explicit}, {"tsm_last_error", &model.last_error}, {"tsm_close", &model.close},
    {"tsm_yardstick", &model.yardstick},
    {"tsm_step_u8", &model.step_u8},             {"tsm_output", &model.output},
};

int32_t tsm_abi_version(void) { return model.abi_version(); }

const char *tsm_manifest(void) { return model.manifest(); }

tsm_stream *tsm_open(int32_t threads) { return model.open(threads); }

int32_t tsm_reset(tsm_stream *stream) { return model.reset(stream); }

int32_t tsm_step(tsm_stream *stream, const float *frame, float *logits) { return model.step(stream, frame, logits); }

int32_t tsm_step_u8(tsm_stream *stream, const uint8_t *frame, float *logits) {
  return model.step_u8(stream, frame, logits);
}

int32_t tsm_step_explicit(tsm_stream *stream, const float *frame, const float *const *shift, float *logits,
                          float *const *shift_next) {
  return model.step_explicit(stream, frame, shift, logits, shift_next);
}

int32_t tsm_output(tsm_stream *stream, int32_t index, float *values) { return model.output(stream, index, values); }

int32_t tsm_measure(tsm_stream *stream, const tsm_run *run, tsm_sample *samples, float *logits, uint64_t *kernels) {
  return model.measure(stream, run, samples, logits, kernels);
}

int32_t tsm_yardstick(tsm_speed *speed) { return model.yardstick(speed); }

void tsm_close(tsm_stream *stream) { model.close(stream); }

const char *tsm_last_error(void) { return model.last_error(); }

int runner_find_model(void) {
  char path[RUNNER_PATH];
  runner_beside("model.so", path);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return runner_fail("model.so, expected beside tsm-runner", dlerror());
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    void *found = dlsym(library, functions[i].name);
    if (!found) return runner_fail(path, dlerror());
    memcpy(functions[i].into, &found, sizeof found);
  }
  if (tsm_abi_version() != TSM_ABI_VERSION || strcmp(tsm_manifest(), tsm_the_card.manifest) != 0)
    return runner_fail(path, "not the model.so that this tsm-runner was made for: copy both from one artifact");
  return RUNNER_OK;
}
