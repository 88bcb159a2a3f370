/* card.h - what the generated card.c tells tsm-runner of the model card. Internal. */
#ifndef TSM_CARD_H
#define TSM_CARD_H

#include <stdint.h>

typedef struct {
  int32_t short_side, crop;  /* pixels: the shorter side is resized to the first, a square of the second is cut out */
  float scale[3], offset[3]; /* of R, G, B: input = byte * scale + offset */
  int32_t random_weights;    /* predictions mean nothing */
  int32_t n_labels;          /* 0: unknown */
  const char *const *labels; /* UTF-8 */
} tsm_card;

extern const tsm_card tsm_the_card;

#endif /* TSM_CARD_H */
