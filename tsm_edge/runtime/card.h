/* card.h - what the generated card.c tells tsm-runner of the model. Internal. */
#ifndef TSM_CARD_H
#define TSM_CARD_H

#include <stdint.h>

typedef struct {
  const char *name; /* of the output, UTF-8; of a model of clips, in the caches' place: the logits of every frame */
  uint32_t elements;
} tsm_card_cache;

typedef struct {
  const char *manifest; /* what the model says of itself */
  const char *logits;   /* their name, UTF-8 */
  int32_t classes, n_caches;
  const tsm_card_cache *caches;
  const char *model, *target, *precision; /* their names */
  const char *version;                    /* of tsm-edge */
  int64_t flops, bytes;                   /* of a frame: arithmetic, and what kernels move */
  int32_t frames;                  /* of a step: more than 1 of a model of clips */
  int32_t clips;                   /* of a step */
  int32_t short_side;              /* pixels: to what a frame is resized where the crop's shorter side is cut from it */
  int32_t crop_height, crop_width; /* pixels: what is cut from the centre of the resized frame */
  float scale[3], offset[3];       /* of R, G, B: input = byte * scale + offset */
  int32_t probabilities;           /* the model ends in a softmax or sigmoid: its outputs are no logits */
  double tolerance;                /* of verify: largest error, relative to the largest magnitude of an output */
  double cache_tolerance;          /* the same of a shift cache; not smaller */
  const char *warning;             /* on the predictions, UTF-8; null: none */
  int32_t n_labels;                /* 0: unknown */
  const char *const *labels;       /* UTF-8 */
  int32_t threads;                 /* what a step is fastest with; 0: not known */
  int32_t n_cores;                 /* 0: on any */
  const int32_t *cores;            /* logical CPUs, below 1024 */
} tsm_card;

extern const tsm_card tsm_the_card;

#endif /* TSM_CARD_H */
