/* pool.h - a few threads that walk the same list of calls together. Internal.
 *
 * Each call is a number of work items. Every thread begins with its own share, which its caches know from the call
 * before, and helps the others when it is done. A call is over when its items are, not when all threads have come by:
 * a thread the system has put aside holds nobody up, unless in the middle of items it has taken. */
#ifndef TSM_POOL_H
#define TSM_POOL_H

#include <stdint.h>

typedef struct tsm_pool tsm_pool;

/* Walks the calls as `thread`, in run number `run`. */
typedef void (*tsm_task)(void *context, int32_t thread, uint32_t run);

/* threads - 1 workers for lists of n_calls calls, call i having items[i]; null when one cannot be started. The context,
 * handed to task, must live as long as the pool. */
tsm_pool *tsm_pool_open(int32_t threads, int32_t n_calls, const int32_t *items, tsm_task task, void *context);

/* Run the task on the calling thread as thread 0 and on those workers that come in time; returns when the caller has
 * walked to the end. */
void tsm_pool_run(tsm_pool *pool);

/* Take items of a call that nobody has taken: half of what is left of a share, so that threads end together, but at
 * least `own` of one's own or `others` of another's; 0: none is left. */
int tsm_pool_take(tsm_pool *pool, uint32_t run, int32_t call, int32_t thread, int32_t own, int32_t others,
                  int32_t *begin, int32_t *end);

/* Say that items taken are done. */
void tsm_pool_done(tsm_pool *pool, int32_t call, int32_t items);

/* Wait until a call is over; 0: so is the whole run. */
int tsm_pool_await(tsm_pool *pool, uint32_t run, int32_t call);

/* End the workers and free the pool; null is allowed. */
void tsm_pool_close(tsm_pool *pool);

/* Free a pool whose workers are in the process this one was forked from: nothing is waited for; null is allowed. */
void tsm_pool_forget(tsm_pool *pool);

#endif /* TSM_POOL_H */
