/* pool.h - a few threads that run the same function together. Internal. */
#ifndef TSM_POOL_H
#define TSM_POOL_H

#include <stdint.h>

typedef struct tsm_pool tsm_pool;
typedef void (*tsm_task)(void *context, int32_t thread, int32_t threads);

/* threads - 1 workers; null when one cannot be started. */
tsm_pool *tsm_pool_open(int32_t threads);

/* Run task on every thread, the caller being thread 0; returns when all are done. */
void tsm_pool_run(tsm_pool *pool, tsm_task task, void *context);

/* Inside a task: wait until every thread is here. */
void tsm_pool_barrier(tsm_pool *pool);

void tsm_pool_close(tsm_pool *pool);

#endif /* TSM_POOL_H */
