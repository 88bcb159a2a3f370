/* clock.h - monotonic time, and the wish to end early. Internal. */
#ifndef TSM_BENCH_CLOCK_H
#define TSM_BENCH_CLOCK_H

#include <stdint.h>

/* CLOCK_MONOTONIC, nanoseconds. It neither jumps nor runs backwards. */
uint64_t tsm_now(void);

/* Seconds between two moments. */
double tsm_seconds(uint64_t from, uint64_t to);

/* Sleep until a moment; 0: somebody asked to stop meanwhile. */
int tsm_sleep_until(uint64_t moment);

/* From now on SIGINT, SIGTERM and SIGHUP ask to stop; a second one ends the program. */
void tsm_catch_signals(void);

/* The signal that asked to stop; 0: none did. */
int tsm_stopped_by(void);

#endif /* TSM_BENCH_CLOCK_H */
