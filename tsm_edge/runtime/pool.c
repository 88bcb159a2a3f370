/* pool.c - threads that stay awake for a moment after each run, then sleep. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Waiting is spinning first: between two kernels it is a microsecond or two. Then the core is given away. */
enum { SPINS_BEFORE_YIELD = 1000, SPINS_BEFORE_SLEEP = 10000, CACHE_LINE = 64 };

/* The next item of one thread's share of one call, under the number of the run: a thread that comes late, with the
 * number of a run that is over, takes nothing. */
typedef struct {
  _Alignas(CACHE_LINE) atomic_uint_least64_t next;
} share;

typedef struct {
  _Alignas(CACHE_LINE) atomic_int done;
  int32_t items;
} call_state;

struct tsm_pool {
  int32_t threads;
  int32_t n_calls;
  tsm_task task;
  void *context;
  share *shares; /* [call][thread] */
  call_state *calls;
  void *block; /* of both, as allocated */
  atomic_uint run;
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

static unsigned current_run(tsm_pool *pool) { return atomic_load_explicit(&pool->run, memory_order_acquire); }

static unsigned await_run(tsm_pool *pool, unsigned seen) {
  for (int i = 0; i < SPINS_BEFORE_SLEEP; ++i) {
    unsigned run = current_run(pool);
    if (run != seen) return run;
    relax();
  }
  pthread_mutex_lock(&pool->lock);
  while (current_run(pool) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
  return current_run(pool);
}

static void *work(void *argument) {
  struct tsm_worker *worker = argument;
  tsm_pool *pool = worker->pool;
  for (unsigned seen = 0;;) {
    seen = await_run(pool, seen);
    if (atomic_load_explicit(&pool->closing, memory_order_acquire)) return NULL;
    pool->task(pool->context, worker->index, seen);
  }
}

static void start_run(tsm_pool *pool, unsigned run) {
  pthread_mutex_lock(&pool->lock);
  atomic_store_explicit(&pool->run, run, memory_order_release);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

static int32_t share_start(const tsm_pool *pool, int32_t call, int32_t thread) {
  return (int32_t)((int64_t)pool->calls[call].items * thread / pool->threads);
}

tsm_pool *tsm_pool_open(int32_t threads, int32_t n_calls, const int32_t *items, tsm_task task, void *context) {
  tsm_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->workers[0]);
  size_t calls = (size_t)n_calls;
  void *block = calloc(1, CACHE_LINE + calls * sizeof(call_state) + calls * (size_t)threads * sizeof(share));
  if (!pool || !block) {
    free(pool);
    free(block);
    return NULL;
  }
  pool->task = task;
  pool->context = context;
  pool->block = block;
  pool->calls = (call_state *)(((uintptr_t)block + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1));
  pool->shares = (share *)(pool->calls + calls);
  pool->n_calls = n_calls;
  for (int32_t i = 0; i < n_calls; ++i) pool->calls[i].items = items[i];
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pool->threads = threads;
  for (int32_t i = 1; i < threads; ++i) {
    struct tsm_worker *worker = &pool->workers[i];
    worker->pool = pool;
    worker->index = i;
    if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
      pool->threads = i; /* those that run */
      tsm_pool_close(pool);
      return NULL;
    }
  }
  return pool;
}

void tsm_pool_run(tsm_pool *pool) {
  /* Nobody is inside a call of the run before: it would not be over. Workers still between calls find new numbers. */
  unsigned run = current_run(pool) + 1;
  for (int32_t call = 0; call < pool->n_calls; ++call) {
    atomic_store_explicit(&pool->calls[call].done, 0, memory_order_relaxed);
    for (int32_t thread = 0; thread < pool->threads; ++thread) {
      uint64_t first = (uint32_t)share_start(pool, call, thread);
      atomic_store_explicit(&pool->shares[call * pool->threads + thread].next, (uint64_t)run << 32 | first,
                            memory_order_relaxed);
    }
  }
  start_run(pool, run);
  pool->task(pool->context, 0, run);
}

int tsm_pool_take(tsm_pool *pool, uint32_t run, int32_t call, int32_t thread, int32_t own, int32_t others,
                  int32_t *begin, int32_t *end) {
  for (int32_t i = 0; i < pool->threads; ++i) {
    int32_t owner = (thread + i) % pool->threads;
    int32_t last = share_start(pool, call, owner + 1);
    atomic_uint_least64_t *next = &pool->shares[call * pool->threads + owner].next;
    uint64_t value = atomic_load_explicit(next, memory_order_acquire);
    while (value >> 32 == run && (int32_t)(uint32_t)value < last) {
      int32_t first = (int32_t)(uint32_t)value;
      int32_t fewest = i == 0 ? own : others, half = (last - first + 1) / 2, some = half > fewest ? half : fewest;
      int32_t stop = last - first > some ? first + some : last;
      if (atomic_compare_exchange_weak_explicit(next, &value, (uint64_t)run << 32 | (uint32_t)stop,
                                                memory_order_acq_rel, memory_order_acquire)) {
        *begin = first;
        *end = stop;
        return 1;
      }
    }
  }
  return 0;
}

void tsm_pool_done(tsm_pool *pool, int32_t call, int32_t items) {
  atomic_fetch_add_explicit(&pool->calls[call].done, items, memory_order_acq_rel);
}

int tsm_pool_await(tsm_pool *pool, uint32_t run, int32_t call) {
  call_state *state = &pool->calls[call];
  for (int spins = 0;; ++spins) {
    int over = atomic_load_explicit(&state->done, memory_order_acquire) == state->items;
    if (current_run(pool) != run) return 0;
    if (over) return 1;
    if (spins < SPINS_BEFORE_YIELD)
      relax();
    else
      sched_yield();
  }
}

void tsm_pool_forget(tsm_pool *pool) {
  if (!pool) return;
  free(pool->block);
  free(pool);
}

void tsm_pool_close(tsm_pool *pool) {
  if (!pool) return;
  atomic_store_explicit(&pool->closing, 1, memory_order_release);
  start_run(pool, current_run(pool) + 1);
  for (int32_t i = 1; i < pool->threads; ++i) pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  tsm_pool_forget(pool);
}
