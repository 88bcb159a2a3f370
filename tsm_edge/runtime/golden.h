/* golden.h - golden.bin: frames, and what ONNX Runtime made of them. Little-endian. Internal.
 *
 *   8 bytes   "TSMGOLD1"
 *   uint32    frames
 *   uint32    reset: the caches are zeroed before this frame, too (0: only before the first)
 *   uint32    height, width of a frame, pixels
 *   uint32    logits of a step: of a frame or clip its classes
 *   uint32    caches
 *   uint32    elements of each cache
 *   uint8     [frames, height, width, 3] RGB, of clips [frames, frames of a clip, height, width, 3]; the model's input is byte * scale + offset of the model card
 *   padding   to a multiple of 4 bytes
 *   float32   [frames, logits of a step]
 *   float32   [elements] of each cache after the last frame, NCHW
 *
 * Of clips, `frames` counts steps, and the logits of every frame of the last one stand where a cache would.
 */
#ifndef TSM_GOLDEN_H
#define TSM_GOLDEN_H

#include <stdint.h>

#define TSM_GOLDEN_MAGIC "TSMGOLD1"

typedef struct {
  uint32_t frames, reset, height, width, classes, n_caches;
} tsm_golden_head;

#endif /* TSM_GOLDEN_H */
