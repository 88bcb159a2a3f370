/* pool.c - threads that stay awake for a moment after each run, then sleep; barriers that spin for a moment. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Waiting is spinning first: between two kernels it is a microsecond or two. Then the core is given away. */
enum { SPINS_BEFORE_YIELD = 2000, SPINS_BEFORE_SLEEP = 20000 };

struct tsm_pool {
  int32_t threads;
  tsm_task task;
  void *context;
  atomic_uint run;    /* counts runs: a worker starts when it changes */
  atomic_int waiting; /* threads still to come to the barrier */
  atomic_uint phase;  /* counts barriers */
  atomic_int closing;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  struct tsm_worker {
    tsm_pool *pool;
    int32_t index;
    pthread_t thread;
  } workers[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void await_run(tsm_pool *pool, unsigned seen) {
  for (int i = 0; i < SPINS_BEFORE_SLEEP; ++i) {
    if (atomic_load_explicit(&pool->run, memory_order_acquire) != seen) return;
    relax();
  }
  pthread_mutex_lock(&pool->lock);
  while (atomic_load_explicit(&pool->run, memory_order_acquire) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument) {
  struct tsm_worker *worker = argument;
  tsm_pool *pool = worker->pool;
  for (unsigned seen = 0;;) {
    await_run(pool, seen);
    seen = atomic_load_explicit(&pool->run, memory_order_acquire);
    if (atomic_load_explicit(&pool->closing, memory_order_acquire)) return NULL;
    pool->task(pool->context, worker->index, pool->threads);
    tsm_pool_barrier(pool);
  }
}

static void start_run(tsm_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add_explicit(&pool->run, 1, memory_order_release);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

tsm_pool *tsm_pool_open(int32_t threads) {
  tsm_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->workers[0]);
  if (!pool) return NULL;
  atomic_init(&pool->waiting, threads);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  for (pool->threads = 1; pool->threads < threads; ++pool->threads) {
    struct tsm_worker *worker = &pool->workers[pool->threads];
    worker->pool = pool;
    worker->index = pool->threads;
    if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
      tsm_pool_close(pool);
      return NULL;
    }
  }
  return pool;
}

void tsm_pool_run(tsm_pool *pool, tsm_task task, void *context) {
  pool->task = task;
  pool->context = context;
  start_run(pool);
  task(context, 0, pool->threads);
  tsm_pool_barrier(pool);
}

void tsm_pool_barrier(tsm_pool *pool) {
  unsigned phase = atomic_load_explicit(&pool->phase, memory_order_acquire);
  if (atomic_fetch_sub_explicit(&pool->waiting, 1, memory_order_acq_rel) == 1) {
    atomic_store_explicit(&pool->waiting, pool->threads, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->phase, 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&pool->phase, memory_order_acquire) == phase; ++spins) {
    if (spins < SPINS_BEFORE_YIELD)
      relax();
    else
      sched_yield();
  }
}

void tsm_pool_close(tsm_pool *pool) {
  if (!pool) return;
  atomic_store_explicit(&pool->closing, 1, memory_order_release);
  start_run(pool);
  for (int32_t i = 1; i < pool->threads; ++i) pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}
