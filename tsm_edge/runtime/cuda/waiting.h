/* waiting.h - how a stream is waited for: short frames are asked for again and again, long ones slept through. Internal.
 *
 * A thread that sleeps is woken tens of microseconds late. Where the last frame took less than a millisecond the stream
 * is polled, for twice as long as that at most, and only then slept for. */
#ifndef TSM_CUDA_WAITING_H
#define TSM_CUDA_WAITING_H

#include "driver.h"

/* TSM_EDGE_SPIN unset, 0, anything else. */
typedef enum { WAIT_BOUNDED, WAIT_ASLEEP, WAIT_SPINNING } tsm_waiting_wish;

typedef struct {
  tsm_waiting_wish wish;
  uint64_t last_ns; /* that the last frame was waited for; 0: unknown */
} tsm_waiting;

/* What the environment asks for. */
tsm_waiting_wish tsm_waiting_asked(void);

/* Wait for a frame. TSM_OK, or what a kernel did wrong. */
int32_t tsm_wait(tsm_waiting *waiting, CUstream stream);

#endif /* TSM_CUDA_WAITING_H */
