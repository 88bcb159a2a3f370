/* work.c - the stand-in driver's memory, streams, launches, events and graphs.
 *
 * As on a device nothing is done before somebody waits for it: copies, fills and launches go into the queue of a stream,
 * and failures of kernels come to light when that is waited for; from then on every call fails. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

typedef struct operation {
  enum { LAUNCH, COPY, FILL, RECORD } kind;
  const standin_kernel *kernel;
  standin_index blocks, threads;
  uint8_t arguments[STANDIN_ARGUMENT_BYTES];
  uint64_t to, from; /* of a copy; a fill has `to` */
  size_t bytes;
  int value;
  void *staged; /* what a copy from memory that is not pinned took with it */
  struct timespec *event;
  struct operation *next;
} operation;

typedef struct {
  operation *first, **end;
} queue;

typedef struct {
  queue waiting;
  queue *captured; /* null: what comes is to be done */
  struct timespec begun; /* what is waiting */
} stream;

typedef struct {
  void *at;
  size_t bytes;
} pinned;

static pinned pinned_blocks[1024];
static uint32_t n_pinned;

/* Queues ----------------------------------------------------------------------------------------------------------- */

static operation *add(void *handle, int kind) {
  stream *to = handle;
  queue *into = to->captured ? to->captured : &to->waiting;
  operation *made = calloc(1, sizeof *made);
  if (!made) abort();
  made->kind = kind;
  if (!to->captured && !to->waiting.first) clock_gettime(CLOCK_MONOTONIC, &to->begun);
  *into->end = made;
  into->end = &made->next;
  return made;
}

static int perform(operation *what) {
  switch (what->kind) {
    case LAUNCH:
      return standin_run(what->kernel, what->blocks, what->threads, what->arguments);
    case COPY:
      memcpy((void *)(uintptr_t)what->to, what->staged ? what->staged : (void *)(uintptr_t)what->from, what->bytes);
      return SUCCESS;
    case FILL:
      memset((void *)(uintptr_t)what->to, what->value, what->bytes);
      return SUCCESS;
    default:
      clock_gettime(CLOCK_MONOTONIC, what->event);
      return SUCCESS;
  }
}

static int drain(stream *of) {
  while (of->waiting.first) {
    operation *done = of->waiting.first;
    if (!standin_sticky) standin_sticky = perform(done);
    of->waiting.first = done->next;
    free(done->staged);
    free(done);
  }
  of->waiting.end = &of->waiting.first;
  return standin_sticky;
}

/* Memory ----------------------------------------------------------------------------------------------------------- */

API cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  BEGIN;
  if (!bytes) return INVALID_VALUE;
  *address = standin_allocate(bytes);
  return *address ? SUCCESS : OUT_OF_MEMORY;
}

API cuMemFree_v2(uint64_t address) {
  ALONE;
  return standin_free(address) ? SUCCESS : INVALID_VALUE;
}

API cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  BEGIN;
  *free_bytes = (size_t)1 << 28;
  *total = (size_t)1 << 32;
  return SUCCESS;
}

API cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
  BEGIN;
  (void)flags;
  if (n_pinned == sizeof pinned_blocks / sizeof pinned_blocks[0] || !(*at = malloc(bytes))) return OUT_OF_MEMORY;
  memset(*at, 0xff, bytes);
  pinned_blocks[n_pinned++] = (pinned){*at, bytes};
  return SUCCESS;
}

API cuMemFreeHost(void *at) {
  ALONE;
  for (uint32_t i = 0; i < n_pinned; ++i)
    if (pinned_blocks[i].at == at) {
      pinned_blocks[i] = pinned_blocks[--n_pinned];
      free(at);
      return SUCCESS;
    }
  return INVALID_VALUE;
}

static int is_pinned(const void *at, size_t bytes) {
  for (uint32_t i = 0; i < n_pinned; ++i) {
    uintptr_t offset = (uintptr_t)at - (uintptr_t)pinned_blocks[i].at;
    if (offset <= pinned_blocks[i].bytes && bytes <= pinned_blocks[i].bytes - offset) return 1;
  }
  return 0;
}

API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *handle) {
  BEGIN;
  if (!standin_is_inside(to, bytes)) return INVALID_VALUE;
  operation *copy = add(handle, COPY);
  copy->to = to, copy->from = (uint64_t)(uintptr_t)from, copy->bytes = bytes;
  if (!is_pinned(from, bytes)) { /* the driver takes it now; pinned memory must stay as it is until the copy is made */
    if (!(copy->staged = malloc(bytes))) abort();
    memcpy(copy->staged, from, bytes);
  }
  return SUCCESS;
}

API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *handle) {
  BEGIN;
  if (!standin_is_inside(from, bytes)) return INVALID_VALUE;
  operation *copy = add(handle, COPY);
  copy->to = (uint64_t)(uintptr_t)to, copy->from = from, copy->bytes = bytes;
  return SUCCESS;
}

API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *handle) {
  BEGIN;
  if (!standin_is_inside(to, bytes)) return INVALID_VALUE;
  operation *fill = add(handle, FILL);
  fill->to = to, fill->value = value, fill->bytes = bytes;
  return SUCCESS;
}

/* Streams, launches, events ---------------------------------------------------------------------------------------- */

API cuStreamCreate(void **handle, unsigned flags) {
  BEGIN;
  (void)flags;
  stream *made = calloc(1, sizeof *made);
  if (!made) return OUT_OF_MEMORY;
  made->waiting.end = &made->waiting.first;
  *handle = made;
  return SUCCESS;
}

API cuStreamDestroy_v2(void *handle) {
  ALONE;
  drain(handle);
  free(handle);
  return SUCCESS;
}

/* Microseconds until a stream's work may be over, at the earliest. */
static long left_us(const stream *of) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  long gone_us = (long)(now.tv_sec - of->begun.tv_sec) * 1000000 + (now.tv_nsec - of->begun.tv_nsec) / 1000;
  return 1000L * standin_number("STANDIN_STREAM_MS", 0) - gone_us;
}

API cuStreamSynchronize(void *handle) {
  stream *of = handle;
  const long left = of->waiting.first && !of->captured ? left_us(of) : 0;
  if (left > 0) usleep((useconds_t)left); /* others go on meanwhile */
  BEGIN;
  return of->captured ? CAPTURING : drain(of);
}

API cuStreamQuery(void *handle) {
  BEGIN;
  stream *of = handle;
  if (of->captured) return CAPTURING;
  return of->waiting.first && left_us(of) > 0 ? NOT_READY : drain(of);
}

API cuLaunchKernel(void *function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z, unsigned threads_x,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void *handle, void **arguments, void **extra) {
  BEGIN;
  const standin_kernel *kernel = function;
  unsigned threads = threads_x * threads_y * threads_z;
  if (!blocks_x || !blocks_y || !blocks_z || !threads || threads > 1024 || shared || extra) return INVALID_VALUE;
  if (blocks_y > 65535 || blocks_z > 65535) return INVALID_VALUE;
  if (kernel->most_threads && threads > kernel->most_threads) return OUT_OF_RESOURCES;
  operation *launch = add(handle, LAUNCH);
  launch->kernel = kernel;
  launch->blocks = (standin_index){blocks_x, blocks_y, blocks_z};
  launch->threads = (standin_index){threads_x, threads_y, threads_z};
  for (uint32_t i = 0; i < kernel->n_arguments; ++i)
    memcpy(launch->arguments + kernel->offsets[i], arguments[i], kernel->sizes[i]);
  return SUCCESS;
}

API cuEventCreate(void **event, unsigned flags) {
  BEGIN;
  (void)flags;
  *event = calloc(1, sizeof(struct timespec));
  return *event ? SUCCESS : OUT_OF_MEMORY;
}

API cuEventDestroy_v2(void *event) {
  free(event);
  return SUCCESS;
}

API cuEventRecord(void *event, void *handle) {
  BEGIN;
  add(handle, RECORD)->event = event;
  return SUCCESS;
}

API cuEventElapsedTime(float *milliseconds, void *from, void *to) {
  BEGIN;
  const struct timespec *begin = from, *end = to;
  *milliseconds = (float)(1e3 * (double)(end->tv_sec - begin->tv_sec) + 1e-6 * (double)(end->tv_nsec - begin->tv_nsec));
  return SUCCESS;
}

/* Graphs: since CUDA 10.1 ------------------------------------------------------------------------------------------ */

#ifndef STANDIN_WITHOUT_GRAPHS
API cuStreamBeginCapture_v2(void *handle, int mode) {
  BEGIN;
  (void)mode;
  queue *made = calloc(1, sizeof *made);
  if (!made) return OUT_OF_MEMORY;
  made->end = &made->first;
  ((stream *)handle)->captured = made;
  return SUCCESS;
}

API cuStreamEndCapture(void *handle, void **graph) {
  *graph = ((stream *)handle)->captured;
  ((stream *)handle)->captured = NULL;
  BEGIN;
  return SUCCESS;
}

/* The graph itself is what is run: cuGraphDestroy leaves it to cuGraphExecDestroy. */
API cuGraphInstantiate(void **instance, void *graph, void *node, char *log, size_t bytes) {
  BEGIN;
  (void)node, (void)log, (void)bytes;
  *instance = graph;
  return SUCCESS;
}

API cuGraphDestroy(void *graph) { return graph ? SUCCESS : INVALID_VALUE; }

API cuGraphExecDestroy(void *instance) {
  queue *graph = instance;
  while (graph->first) {
    operation *done = graph->first;
    graph->first = done->next;
    free(done->staged);
    free(done);
  }
  free(graph);
  return SUCCESS;
}

API cuGraphLaunch(void *instance, void *handle) {
  BEGIN;
  for (const operation *each = ((queue *)instance)->first; each; each = each->next) {
    operation *again = add(handle, each->kind), *next = again->next;
    *again = *each;
    again->next = next;
  }
  return SUCCESS;
}
#endif
