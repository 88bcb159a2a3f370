/* stream.c - the C interface of tsm_edge.h: streams, their caches, and the walk over the program's calls. */
#include "tsm_edge.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#include "caches.h"
#include "caller.h"
#include "input.h"
#include "model.h"
#include "pool.h"

enum { ALIGNMENT = 64 };

struct tsm_stream {
  tsm_caller caller;
  const tsm_model *model; /* one of the library's programs, or the newer one of the first */
  pid_t opener; /* the process that has the pool's threads */
  int32_t threads;
  int32_t stepped;      /* a step has been made: the workspace holds its outputs */
  int32_t newest;       /* which of the two cache sets the next frame reads */
  unsigned char *block; /* as allocated */
  unsigned char *workspace;
  unsigned char *scratch;        /* scratch_bytes for each thread */
  unsigned char *kept;           /* outputs of a step of several clips: the next clip's calls write over the last one's */
  unsigned char *caches[2];      /* read one, write the other: no kernel can see a half-written cache */
  unsigned char *explicit_block; /* the caller's caches in our layout, allocated on first use */
  unsigned char *explicit_caches[2];
  float *input;   /* a frame or clip that came as bytes, allocated on first use */
  tsm_pool *pool; /* null for one thread */
  /* The run in progress. A worker may come late and find the fields of a later run: it has the number of its own,
   * under which nothing is left to do. */
  _Atomic(unsigned char *) frame;
  _Atomic(int32_t) from_bytes; /* the frame is the camera's, and the program takes it as it is */
  _Atomic(unsigned char *) cache;
  _Atomic(unsigned char *) next_cache;
  int32_t clip;          /* of the step; for thread 0 alone, as what follows */
  uint64_t *nanoseconds; /* null: do not time */
  uint64_t *stages;      /* the same, of the stages of fused kernels */
};

int32_t tsm_abi_version(void) { return TSM_ABI_VERSION; }

const char *tsm_manifest(void) { return tsm_the_model.manifest; }

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1); }

static unsigned char *align_up(unsigned char *pointer) {
  return (unsigned char *)(((uintptr_t)pointer + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* A set of caches, and what kernels may read behind it (see model.h). */
static size_t cache_set_bytes(void) { return aligned(tsm_the_model.cache_bytes + TSM_READ_BEHIND); }

static size_t floats_of(const tsm_output_info *output) {
  size_t floats = 1;
  for (int32_t i = 0; i < output->rank; ++i) floats *= (size_t)output->shape[i];
  return floats;
}

/* Bytes of a stream's kept outputs. */
static size_t kept_bytes(const tsm_model *model) {
  size_t floats = 0;
  for (int32_t i = 0; model->clips > 1 && i < model->n_outputs; ++i) floats += floats_of(&model->outputs[i]);
  return sizeof(float) * floats;
}

int32_t tsm_calls(const tsm_stream *stream) { return stream->model->n_calls; }

static void walk(void *context, int32_t thread, uint32_t run);

/* The step for this CPU. */
static const tsm_model *fitting(void) {
  const tsm_model *newer = tsm_the_model.newer;
#ifdef __linux__
  if (newer && (getauxval(AT_HWCAP) & newer->needs) == newer->needs) return newer;
#endif
  (void)newer;
  return &tsm_the_model;
}

static tsm_pool *open_pool(tsm_stream *stream) {
  const tsm_model *model = stream->model;
  const int32_t n_calls = model->n_calls + model->n_byte_calls;
  int32_t *items = malloc(sizeof *items * (size_t)n_calls);
  if (!items) return NULL;
  for (int32_t i = 0; i < n_calls; ++i) items[i] = model->calls[i].items;
  tsm_pool *pool = tsm_pool_open(stream->threads, n_calls, items, walk, stream);
  free(items);
  return pool;
}

tsm_stream *tsm_open_program(int32_t threads, int32_t program) {
  if (!tsm_can_open(threads, program)) return NULL;
  const tsm_model *model = program ? tsm_programs[program] : fitting();
  tsm_stream *stream = calloc(1, sizeof *stream);
  size_t cache = cache_set_bytes(), workspace = aligned(model->workspace_bytes);
  size_t scratch = aligned(model->scratch_bytes) * (size_t)threads;
  size_t bytes = ALIGNMENT + 2 * cache + workspace + scratch + kept_bytes(model);
  if (stream) stream->block = calloc(1, bytes);
  if (!stream || !stream->block) {
    free(stream);
    tsm_fail(TSM_ERROR_MEMORY, "tsm_open: %lu bytes cannot be allocated", (unsigned long)bytes);
    return NULL;
  }
  stream->model = model;
  stream->caches[0] = align_up(stream->block);
  stream->caches[1] = stream->caches[0] + cache;
  stream->workspace = stream->caches[1] + cache;
  stream->scratch = stream->workspace + workspace;
  stream->kept = stream->scratch + scratch;
  tsm_caches_reset(stream->caches[0]);
  stream->threads = threads;
  stream->opener = getpid();
  if (threads > 1 && !(stream->pool = open_pool(stream))) {
    tsm_close(stream);
    tsm_fail(TSM_ERROR_THREAD, "tsm_open: %d threads cannot be started", (int)threads);
    return NULL;
  }
  return stream;
}

/* Begin a call on a stream; 0: another thread is in one. */
static int enter(tsm_stream *stream) {
  if (!tsm_caller_enter(&stream->caller)) return 0;
  if (stream->opener != getpid()) { /* a fork has left the pool's threads behind: go on without */
    tsm_pool_forget(stream->pool);
    stream->pool = NULL;
    stream->opener = getpid();
  }
  return 1;
}

static void leave(tsm_stream *stream) { tsm_caller_leave(&stream->caller); }

void tsm_close(tsm_stream *stream) {
  if (!stream) return;
  while (!enter(stream)) sched_yield(); /* another thread's frame ends soon */
  tsm_pool_close(stream->pool);
  free(stream->input);
  free(stream->explicit_block);
  free(stream->block);
  free(stream);
}

int32_t tsm_reset(tsm_stream *stream) {
  if (!stream) return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_reset: the stream is null");
  if (!enter(stream)) return tsm_caller_refused("tsm_reset");
  tsm_caches_reset(stream->caches[stream->newest]);
  leave(stream);
  return TSM_OK;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

struct tsm_clock {
  uint64_t last; /* when the stage before ended */
  uint64_t *nanoseconds;
};

void tsm_stage_done(tsm_clock *clock, int32_t stage) {
  uint64_t time = now();
  clock->nanoseconds[stage] += time - clock->last;
  clock->last = time;
}

/* stages: null, or where to add the time of each of the call's. */
static void do_items(const tsm_call *call, unsigned char *const *spaces, int32_t begin, int32_t end, int32_t resumed,
                     uint64_t *stages) {
  void *buffers[TSM_MAX_BUFFERS];
  for (int32_t k = 0; k < call->n_buffers; ++k) buffers[k] = spaces[call->buffers[k].space] + call->buffers[k].offset;
  tsm_clock clock = {stages ? now() : 0, stages};
  call->run(buffers, begin, end, resumed, stages ? &clock : NULL);
}

/* Take items of one call until none is left, and wait until those the others took are done; 0: the run is over. */
static int do_call(const tsm_stream *stream, int32_t index, unsigned char *const *spaces, int32_t thread, uint32_t run,
                   uint64_t *stages) {
  const tsm_call *call = &stream->model->calls[index];
  int32_t own = call->resumes ? 1 : call->grain, begin, end, before = -1;
  while (tsm_pool_take(stream->pool, run, index, thread, own, call->grain, &begin, &end)) {
    do_items(call, spaces, begin, end, begin == before, stages);
    before = end;
    tsm_pool_done(stream->pool, index, end - begin);
  }
  return tsm_pool_await(stream->pool, run, index);
}

/* Every thread walks all calls in order. */
static void walk(void *context, int32_t thread, uint32_t run) {
  tsm_stream *stream = context;
  const tsm_model *model = stream->model;
  unsigned char *const spaces[] = {
      [TSM_FRAME] = atomic_load_explicit(&stream->frame, memory_order_relaxed),
      [TSM_WORKSPACE] = stream->workspace,
      [TSM_WEIGHTS] = (unsigned char *)(uintptr_t)model->weights,
      [TSM_CACHE] = atomic_load_explicit(&stream->cache, memory_order_relaxed),
      [TSM_NEXT_CACHE] = atomic_load_explicit(&stream->next_cache, memory_order_relaxed),
      [TSM_SCRATCH] = stream->scratch + (size_t)thread * aligned(model->scratch_bytes),
  };
  uint64_t *nanoseconds = thread == 0 ? stream->nanoseconds : NULL;
  uint64_t *stages = thread == 0 ? stream->stages : NULL;
  const int32_t from_bytes = atomic_load_explicit(&stream->from_bytes, memory_order_relaxed);
  const int32_t before = from_bytes ? model->n_byte_calls : 0, skipped = from_bytes ? model->replaced_calls : 0;
  for (int32_t step = skipped - before; step < model->n_calls; ++step) {
    const int32_t i = step < skipped ? model->n_calls + step - (skipped - before) : step;
    const tsm_call *call = &model->calls[i];
    uint64_t started = nanoseconds ? now() : 0;
    if (stages && call->n_stages && !stream->clip) memset(stages, 0, sizeof *stages * (size_t)call->n_stages);
    uint64_t *own = call->n_stages ? stages : NULL;
    if (!stream->pool)
      do_items(call, spaces, 0, call->items, 0, own);
    else if (!do_call(stream, i, spaces, thread, run, own))
      return;
    if (nanoseconds) nanoseconds[i] = (stream->clip ? nanoseconds[i] : 0) + now() - started;
    if (stages) stages += call->n_stages;
  }
}

/* Copy what a clip's calls have made to its place among the outputs of the step. */
static void keep_outputs(const tsm_stream *stream, int32_t clip) {
  const tsm_model *model = stream->model;
  unsigned char *into = stream->kept;
  for (int32_t i = 0; i < model->n_outputs; ++i) {
    const size_t bytes = sizeof(float) * floats_of(&model->outputs[i]) / (size_t)model->clips;
    memcpy(into + (size_t)clip * bytes, stream->workspace + model->outputs[i].offset, bytes);
    into += (size_t)model->clips * bytes;
  }
}

/* Where an output of the latest step is. */
static const unsigned char *output_of(const tsm_stream *stream, int32_t index) {
  const tsm_model *model = stream->model;
  if (model->clips == 1) return stream->workspace + model->outputs[index].offset;
  const unsigned char *from = stream->kept;
  for (int32_t i = 0; i < index; ++i) from += sizeof(float) * floats_of(&model->outputs[i]);
  return from;
}

/* A frame, or one of a step's clips; logits: of the step. */
static void run_clip(tsm_stream *stream, int32_t clip, const void *frame, int from_bytes, unsigned char *cache,
                     unsigned char *next_cache, float *logits, uint64_t *nanoseconds, uint64_t *stages) {
  const tsm_model *model = stream->model;
  const size_t classes = (size_t)model->classes;
  atomic_store_explicit(&stream->from_bytes, from_bytes, memory_order_relaxed);
  atomic_store_explicit(&stream->frame, (unsigned char *)(uintptr_t)frame, memory_order_relaxed);
  atomic_store_explicit(&stream->cache, cache, memory_order_relaxed);
  atomic_store_explicit(&stream->next_cache, next_cache, memory_order_relaxed);
  stream->clip = clip;
  stream->nanoseconds = nanoseconds;
  stream->stages = stages;
  if (stream->pool)
    tsm_pool_run(stream->pool);
  else
    walk(stream, 0, 0);
  memcpy(logits + (size_t)clip * classes, stream->workspace + model->logits_offset, sizeof(float) * classes);
  if (model->clips > 1) keep_outputs(stream, clip);
  stream->stepped = 1;
}

/* Floats of a frame, or of one clip. */
static size_t clip_floats(const tsm_model *model) {
  const int64_t *shape = model->frame_shape;
  return (size_t)(shape[0] / model->clips * shape[1] * shape[2] * shape[3]);
}

static void run_step(tsm_stream *stream, const void *frame, int from_bytes, unsigned char *cache,
                     unsigned char *next_cache, float *logits, uint64_t *nanoseconds, uint64_t *stages) {
  const tsm_model *model = stream->model;
  for (int32_t clip = 0; clip < model->clips; ++clip)
    run_clip(stream, clip, (const float *)frame + (size_t)clip * clip_floats(model), from_bytes, cache, next_cache,
             logits, nanoseconds, stages);
}

/* A step on the stream's own caches. */
static void next_frame(tsm_stream *stream, const void *frame, int from_bytes, float *logits, uint64_t *nanoseconds,
                       uint64_t *stages) {
  unsigned char *newest = stream->caches[stream->newest], *next = stream->caches[1 - stream->newest];
  run_step(stream, frame, from_bytes, newest, next, logits, nanoseconds, stages);
  stream->newest = 1 - stream->newest;
}

static int32_t null_argument(const char *function, const void *stream, const void *frame) {
  return tsm_fail(TSM_ERROR_ARGUMENT, "%s: %s is null", function, !stream ? "stream" : !frame ? "frame" : "logits");
}

int32_t tsm_step_profiled(tsm_stream *stream, const float *frame, float *logits, uint64_t *nanoseconds,
                          uint64_t *stages) {
  if (!stream || !frame || !logits) return null_argument("tsm_step", stream, frame);
  if ((nanoseconds || stages) && stream->model == tsm_the_model.newer)
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_profiled: the manifest names the kernels of older CPUs, not this one's");
  if (!enter(stream)) return tsm_caller_refused("tsm_step");
  next_frame(stream, frame, 0, logits, nanoseconds, stages);
  leave(stream);
  return TSM_OK;
}

int32_t tsm_output(tsm_stream *stream, int32_t index, float *values) {
  if (!stream || !values) return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: %s is null", stream ? "values" : "stream");
  const tsm_model *model = stream->model;
  if (index < 0 || index >= model->n_outputs)
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: output is %d, the model has %d", (int)index, (int)model->n_outputs);
  if (!enter(stream)) return tsm_caller_refused("tsm_output");
  const int32_t stepped = stream->stepped;
  if (stepped) memcpy(values, output_of(stream, index), sizeof(float) * floats_of(&model->outputs[index]));
  leave(stream);
  return stepped ? TSM_OK : tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: there was no step yet");
}

int32_t tsm_step_u8(tsm_stream *stream, const uint8_t *frame, float *logits) {
  const tsm_model *model = &tsm_the_model;
  const size_t pixels = (size_t)(model->frame_shape[2] * model->frame_shape[3]);
  if (!stream || !frame || !logits) return null_argument("tsm_step_u8", stream, frame);
  if (model->frame_shape[1] != 3)
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_u8: the input has %d channels, pictures have 3",
                    (int)model->frame_shape[1]);
  if (!enter(stream)) return tsm_caller_refused("tsm_step_u8");
  if (stream->model->n_byte_calls) {
    next_frame(stream, frame, 1, logits, NULL, NULL);
    leave(stream);
    return TSM_OK;
  }
  if (!stream->input && !(stream->input = malloc(sizeof(float) * clip_floats(model)))) {
    leave(stream);
    return tsm_fail(TSM_ERROR_MEMORY, "tsm_step_u8: the frame cannot be allocated");
  }
  unsigned char *newest = stream->caches[stream->newest], *next = stream->caches[1 - stream->newest];
  const size_t frames = clip_floats(model) / (3 * pixels);
  for (int32_t clip = 0; clip < model->clips; ++clip) {
    for (size_t i = 0; i < frames; ++i, frame += 3 * pixels)
      tsm_input_from_bytes(frame, pixels, model->scale, model->offset, stream->input + 3 * pixels * i);
    run_clip(stream, clip, stream->input, 0, newest, next, logits, NULL, NULL);
  }
  stream->newest = 1 - stream->newest;
  leave(stream);
  return TSM_OK;
}

int32_t tsm_step(tsm_stream *stream, const float *frame, float *logits) {
  return tsm_step_profiled(stream, frame, logits, NULL, NULL);
}

/* Room for the caller's caches in our layout; 0: no memory. */
static int make_explicit_caches(tsm_stream *stream) {
  if (stream->explicit_block) return 1;
  size_t bytes = cache_set_bytes();
  stream->explicit_block = calloc(1, ALIGNMENT + 2 * bytes);
  if (!stream->explicit_block) return 0;
  stream->explicit_caches[0] = align_up(stream->explicit_block);
  stream->explicit_caches[1] = stream->explicit_caches[0] + bytes;
  return 1;
}

int32_t tsm_step_explicit(tsm_stream *stream, const float *frame, const float *const *shift, float *logits,
                          float *const *shift_next) {
  const tsm_model *model = &tsm_the_model;
  if (!stream || !frame || !logits || (model->n_caches && (!shift || !shift_next)))
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_explicit: an argument is null");
  for (int32_t i = 0; i < model->n_caches; ++i)
    if (!shift[i] || !shift_next[i])
      return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_explicit: cache %d (%s) is null", (int)i, model->caches[i].input);
  if (!enter(stream)) return tsm_caller_refused("tsm_step_explicit");
  if (!make_explicit_caches(stream)) {
    leave(stream);
    return tsm_fail(TSM_ERROR_MEMORY, "tsm_step_explicit: the caches cannot be allocated");
  }
  unsigned char *const *sets = stream->explicit_caches;
  for (int32_t i = 0; i < model->n_caches; ++i)
    tsm_cache_import(&model->caches[i], shift[i], sets[0]);
  run_step(stream, frame, 0, sets[0], sets[1], logits, NULL, NULL);
  for (int32_t i = 0; i < model->n_caches; ++i)
    tsm_cache_export(&model->caches[i], sets[1], shift_next[i]);
  leave(stream);
  return TSM_OK;
}
