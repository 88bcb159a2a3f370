/* step.c - a compiled model on float32 frames from standard input; prints the logits of each frame on a line.
 *
 *     cc -I DIR step.c -L DIR -l:model.so -Wl,-rpath,'$ORIGIN/DIR' -o step    (DIR: the model's folder, from here)
 *     ./step < frames.f32                                                    (NCHW, normalised RGB)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tsm_edge.h"

/* How many values a tensor has, from the first shape after its key in the model's manifest. */
static size_t elements(const char *key) {
  const char *at = strchr(strstr(strstr(tsm_manifest(), key), "\"shape\""), '[');
  size_t count = 1;
  do {
    count *= strtoul(at + 1, (char **)&at, 10);
    at += strspn(at, " \n");
  } while (*at == ',');
  return count;
}

int main(void) {
  size_t inputs = elements("\"frame\""), outputs = elements("\"outputs\"");
  float *frame = malloc(inputs * sizeof *frame), *logits = malloc(outputs * sizeof *logits);
  tsm_stream *stream = tsm_open(1);
  if (tsm_abi_version() != TSM_ABI_VERSION || !frame || !logits || !stream) {
    fprintf(stderr, "cannot start: %s\n", tsm_last_error());
    return 1;
  }
  while (fread(frame, sizeof *frame, inputs, stdin) == inputs) {
    if (tsm_step(stream, frame, logits) != TSM_OK) {
      fprintf(stderr, "%s\n", tsm_last_error());
      return 1;
    }
    for (size_t i = 0; i < outputs; ++i) printf("%.9g%c", logits[i], i + 1 < outputs ? ' ' : '\n');
  }
  tsm_close(stream);
  return 0;
}
