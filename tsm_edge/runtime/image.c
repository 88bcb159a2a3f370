/* image.c - bilinear resize (half pixel centres, no antialiasing), centre crop, scale and normalise, in one pass. */
#include "image.h"

#include <math.h>
#include <stdlib.h>

#include "card.h"
#include "input.h"

/* As in input.c. */
#pragma STDC FP_CONTRACT OFF

/* Where one row or column of the crop reads the frame: between two of its rows or columns. */
typedef struct {
  int32_t first, second;
  float share; /* of the second */
} tap;

struct tsm_resizer {
  int32_t width;
  tap taps[]; /* rows, then columns */
};

static void plan_axis(tap *taps, int32_t source, int64_t resized, int32_t crop) {
  const double start = rint((double)(resized - crop) / 2.0);
  for (int32_t i = 0; i < crop; ++i) {
    float at = (float)(start + i + 0.5) * (float)source / (float)resized - 0.5f;
    at = fminf(fmaxf(at, 0.0f), (float)(source - 1));
    taps[i].first = (int32_t)at;
    taps[i].second = taps[i].first + 1 < source ? taps[i].first + 1 : taps[i].first;
    taps[i].share = at - (float)taps[i].first;
  }
}

tsm_resizer *tsm_resizer_open(int32_t width, int32_t height) {
  const int32_t rows = tsm_the_card.crop_height, columns = tsm_the_card.crop_width;
  tsm_resizer *resizer = calloc(1, sizeof *resizer + (size_t)(rows + columns) * sizeof resizer->taps[0]);
  if (!resizer) return NULL;
  /* As Preprocess.resized in cards/model.py: until the frame covers the crop enlarged by short_side / its shorter side. */
  const int64_t shorter = rows < columns ? rows : columns;
  const int64_t tall = (int64_t)tsm_the_card.short_side * rows, wide = (int64_t)tsm_the_card.short_side * columns;
  const int height_decides = (int64_t)width * rows >= (int64_t)height * columns;
  resizer->width = width;
  plan_axis(resizer->taps, height, height_decides ? tall / shorter : wide * height / (shorter * width), rows);
  plan_axis(resizer->taps + rows, width, height_decides ? tall * width / (shorter * height) : wide / shorter, columns);
  return resizer;
}

void tsm_resizer_close(tsm_resizer *resizer) { free(resizer); }

void tsm_resizer_run(const tsm_resizer *resizer, const uint8_t *frame, float *input) {
  const tsm_card *card = &tsm_the_card;
  const size_t rows = (size_t)card->crop_height, columns = (size_t)card->crop_width;
  const size_t row_bytes = 3 * (size_t)resizer->width;
  for (size_t y = 0; y < rows; ++y) {
    const tap *row = &resizer->taps[y];
    const uint8_t *above = frame + (size_t)row->first * row_bytes, *below = frame + (size_t)row->second * row_bytes;
    for (size_t x = 0; x < columns; ++x) {
      const tap *column = &resizer->taps[rows + x];
      const size_t left = 3 * (size_t)column->first, right = 3 * (size_t)column->second;
      for (size_t c = 0; c < 3; ++c) {
        float top = above[left + c] + column->share * (float)(above[right + c] - above[left + c]);
        float bottom = below[left + c] + column->share * (float)(below[right + c] - below[left + c]);
        /* Rounded to a byte, as a resized picture is. */
        float byte = floorf(top + row->share * (bottom - top) + 0.5f);
        input[(c * rows + y) * columns + x] = byte * card->scale[c] + card->offset[c];
      }
    }
  }
}

void tsm_normalise(const uint8_t *frame, size_t pixels, float *input) {
  tsm_input_from_bytes(frame, pixels, tsm_the_card.scale, tsm_the_card.offset, input);
}
