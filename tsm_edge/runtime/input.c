/* input.c - the camera's bytes, normalised. */
#include "input.h"

/* Two roundings, on every machine: a model in integers makes levels of the values, and is compared bit for bit. */
#pragma STDC FP_CONTRACT OFF

void tsm_input_from_bytes(const uint8_t *frame, size_t pixels, const float *scale, const float *offset, float *input) {
  const float red = scale[0], green = scale[1], blue = scale[2];
  const float no_red = offset[0], no_green = offset[1], no_blue = offset[2];
  float *restrict r = input, *restrict g = input + pixels, *restrict b = input + 2 * pixels;
  for (size_t i = 0; i < pixels; ++i) {
    r[i] = (float)frame[3 * i] * red + no_red;
    g[i] = (float)frame[3 * i + 1] * green + no_green;
    b[i] = (float)frame[3 * i + 2] * blue + no_blue;
  }
}
