/* input.h - from the bytes of a picture to the network's input. Internal. */
#ifndef TSM_INPUT_H
#define TSM_INPUT_H

#include <stddef.h>
#include <stdint.h>

/* Scale and normalise: frame [pixels, 3] bytes of R, G, B; input float32 [3, pixels] = byte * scale + offset, written. */
void tsm_input_from_bytes(const uint8_t *frame, size_t pixels, const float *scale, const float *offset, float *input);

#endif /* TSM_INPUT_H */
