/* caller.h - one thread at a time is in a call on a stream. Internal. */
#ifndef TSM_CALLER_H
#define TSM_CALLER_H

#include <stdatomic.h>
#include <unistd.h>

#include "model.h"
#include "tsm_edge.h"

/* The process that is in a call; 0: none. After a fork the number of the parent may be left here, by a thread that is
 * not in the child. */
typedef atomic_int tsm_caller;

/* Begin a call; 0: another thread is in one. */
static inline int tsm_caller_enter(tsm_caller *caller) {
  int self = (int)getpid(), found = atomic_load_explicit(caller, memory_order_relaxed);
  return found != self && atomic_compare_exchange_strong_explicit(caller, &found, self, memory_order_acquire,
                                                                  memory_order_relaxed);
}

static inline void tsm_caller_leave(tsm_caller *caller) { atomic_store_explicit(caller, 0, memory_order_release); }

static inline int32_t tsm_caller_refused(const char *function) {
  return tsm_fail(TSM_ERROR_BUSY, "%s: another thread is using the stream", function);
}

#endif /* TSM_CALLER_H */
