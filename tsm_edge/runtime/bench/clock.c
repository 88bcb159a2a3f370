/* clock.c - monotonic time, and signals that ask to stop. */
#include "bench/clock.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

static volatile sig_atomic_t stopped_by;

static void note_signal(int number) { stopped_by = number; }

uint64_t tsm_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

double tsm_seconds(uint64_t from, uint64_t to) { return ((double)to - (double)from) * 1e-9; }

int tsm_sleep_until(uint64_t moment) {
  const struct timespec until = {(time_t)(moment / 1000000000u), (long)(moment % 1000000000u)};
  while (!stopped_by && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
  }
  return !stopped_by;
}

void tsm_catch_signals(void) {
  /* The second one finds the default action again. */
  const struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGHUP, &action, NULL);
}

int tsm_stopped_by(void) { return stopped_by; }
