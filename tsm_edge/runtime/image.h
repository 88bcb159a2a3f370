/* image.h - from an RGB24 frame to the model's input, as the model card says. Internal. */
#ifndef TSM_IMAGE_H
#define TSM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

typedef struct tsm_resizer tsm_resizer;

/* For frames of this size; null: out of memory. */
tsm_resizer *tsm_resizer_open(int32_t width, int32_t height);

/* frame: [height, width, 3] bytes; input: float32 [3, crop height, crop width], written. */
void tsm_resizer_run(const tsm_resizer *resizer, const uint8_t *frame, float *input);

void tsm_resizer_close(tsm_resizer *resizer);

/* Only scale and normalise: frame [pixels, 3] bytes, input float32 [3, pixels]. */
void tsm_normalise(const uint8_t *frame, size_t pixels, float *input);

#endif /* TSM_IMAGE_H */
