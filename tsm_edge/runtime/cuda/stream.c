/* stream.c - the C interface of tsm_edge.h on a GPU: streams, their caches, and the launches of a frame.
 *
 * A frame is one upload from pinned memory, one graph (or its launches one by one) and one download of logits. The shift
 * caches never leave the GPU: two sets, read one, write the other, and a graph for each way round. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "caches.h"
#include "caller.h"
#include "device.h"
#include "input.h"
#include "model.h"
#include "program.h"
#include "tsm_edge.h"
#include "waiting.h"

enum { ALIGNMENT = 256, RELAXED_CAPTURE = 2, NOT_WITH_LEGACY_STREAM = 1 };

/* What a stream has on the device; FRAME_BYTES and the explicit caches only where they are asked for. */
enum area { FRAME, FRAME_BYTES, WORKSPACE, CACHES, EXPLICIT_CACHES, N_AREAS };

struct tsm_stream {
  tsm_caller caller;
  const tsm_model *model;            /* one of the library's programs */
  const tsm_device_program *program; /* its launches */
  pid_t opener;
  tsm_device *device; /* null: it could not be opened */
  CUstream stream;
  CUdeviceptr areas[N_AREAS];
  unsigned char *pinned; /* the frame, then the logits */
  unsigned char *pinned_caches;
  CUgraphExec graphs[2][2]; /* [the frame came as bytes][which set of caches is read] */
  CUevent *events;          /* one more than launches; null until a step is profiled */
  int use_graphs, wait_for_each;
  int stepped; /* the pinned logits are those of a step */
  int newest; /* which set of caches the next frame reads */
  tsm_waiting waiting;
};

/* How one frame is run. */
typedef struct {
  int from_bytes;
  int parity;        /* which set of caches is read */
  enum area caches;  /* the stream's own or the caller's */
  int timed;         /* an event around each launch */
} run;

int32_t tsm_abi_version(void) { return TSM_ABI_VERSION; }

const char *tsm_manifest(void) { return tsm_the_model.manifest; }

int32_t tsm_calls(const tsm_stream *stream) { return stream->model->n_calls; }

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1); }
static size_t pixels(void) { return (size_t)(tsm_the_model.frame_shape[2] * tsm_the_model.frame_shape[3]); }
static size_t frame_bytes(void) { return sizeof(float) * 3 * pixels(); }
static size_t logits_bytes(void) { return sizeof(float) * (size_t)tsm_the_model.classes; }
static size_t cache_set_bytes(void) { return aligned(tsm_the_model.cache_bytes); }

static size_t area_bytes(const tsm_stream *stream, enum area which) {
  switch (which) {
    case FRAME: return frame_bytes();
    case FRAME_BYTES: return 3 * pixels();
    case WORKSPACE: return stream->model->workspace_bytes;
    default: return 2 * cache_set_bytes();
  }
}

/* Device memory, made once: caches begin as zeros. What a kernel has not written in the workspace is no number: planes
 * have gaps, which are read with them, and where a result depended on one it would show. */
static int32_t make_area(tsm_stream *stream, enum area which) {
  static const char *const names[] = {"the frame", "the frame's bytes", "the workspace", "the shift caches",
                                      "the caller's caches"};
  const size_t bytes = area_bytes(stream, which);
  if (stream->areas[which] || !bytes) return TSM_OK;
  char what[80];
  snprintf(what, sizeof what, "%s, %.1f MB", names[which], (double)bytes / 1e6);
  TSM_TRY(tsm_cu.allocate(&stream->areas[which], bytes), "cuMemAlloc", what);
  if (which == CACHES || which == EXPLICIT_CACHES || which == WORKSPACE)
    TSM_TRY(tsm_cu.fill(stream->areas[which], which == WORKSPACE ? 0xFF : 0, bytes, stream->stream), "cuMemsetD8Async",
            names[which]);
  return TSM_OK;
}

/* Launches ----------------------------------------------------------------------------------------------------------- */

static CUdeviceptr address(const tsm_stream *stream, tsm_ref ref, const run *how) {
  const CUdeviceptr caches = stream->areas[how->caches];
  switch (ref.space) {
    case TSM_FRAME: return stream->areas[FRAME] + ref.offset;
    case TSM_FRAME_BYTES: return stream->areas[FRAME_BYTES] + ref.offset;
    case TSM_WORKSPACE: return stream->areas[WORKSPACE] + ref.offset;
    case TSM_WEIGHTS: return stream->device->weights + ref.offset;
    case TSM_CACHE: return caches + (size_t)how->parity * cache_set_bytes() + ref.offset;
    default: return caches + (size_t)(1 - how->parity) * cache_set_bytes() + ref.offset;
  }
}

static int32_t launch(tsm_stream *stream, const tsm_launch *what, const run *how) {
  CUdeviceptr values[TSM_MAX_BUFFERS];
  void *pointers[TSM_MAX_BUFFERS];
  for (int i = 0; i < what->n_buffers; ++i) {
    values[i] = address(stream, what->buffers[i], how);
    pointers[i] = &values[i];
  }
  const char *name = stream->program->kernels[what->kernel];
  TSM_TRY(tsm_cu.launch(stream->device->functions[what->kernel], what->blocks[0], what->blocks[1], what->blocks[2],
                        what->threads, 1, 1, 0, stream->stream, pointers, NULL),
          "cuLaunchKernel", name);
  if (stream->wait_for_each) TSM_TRY(tsm_cu.synchronize(stream->stream), "cuStreamSynchronize", name);
  return TSM_OK;
}

static int32_t launch_all(tsm_stream *stream, const run *how) {
  const tsm_device_program *program = stream->program;
  int32_t code = TSM_OK;
  for (int32_t i = 0; how->from_bytes && i < program->n_byte_launches && code == TSM_OK; ++i)
    code = launch(stream, &program->byte_launches[i], how);
  for (int32_t i = how->from_bytes ? program->n_replaced : 0; i < program->n_launches && code == TSM_OK; ++i) {
    if (how->timed) TSM_TRY(tsm_cu.event_record(stream->events[i], stream->stream), "cuEventRecord", NULL);
    code = launch(stream, &program->launches[i], how);
  }
  if (code == TSM_OK && how->timed)
    TSM_TRY(tsm_cu.event_record(stream->events[program->n_launches], stream->stream), "cuEventRecord", NULL);
  return code;
}

/* Graphs ------------------------------------------------------------------------------------------------------------- */

static CUresult instantiate(CUgraphExec *made, CUgraph graph) {
  if (tsm_cu.graph_instantiate_flags) return tsm_cu.graph_instantiate_flags(made, graph, 0);
  return tsm_cu.graph_instantiate(made, graph, NULL, NULL, 0);
}

/* Record the very launches; 0: the driver cannot, and the launches are issued one by one. */
static int record(tsm_stream *stream, const run *how) {
  CUgraph graph = NULL;
  CUgraphExec made = NULL;
  if (tsm_cu.capture_begin(stream->stream, RELAXED_CAPTURE) != CUDA_SUCCESS) return 0;
  int32_t launched = launch_all(stream, how);
  CUresult ended = tsm_cu.capture_end(stream->stream, &graph);
  int recorded = launched == TSM_OK && ended == CUDA_SUCCESS && instantiate(&made, graph) == CUDA_SUCCESS;
  if (graph) tsm_cu.graph_destroy(graph);
  if (recorded) stream->graphs[how->from_bytes][how->parity] = made;
  return recorded;
}

static void record_both(tsm_stream *stream, int from_bytes) {
  for (int parity = 0; parity < 2 && stream->use_graphs; ++parity) {
    const run how = {from_bytes, parity, CACHES, 0};
    stream->use_graphs = record(stream, &how);
  }
}

/* Opening and closing ------------------------------------------------------------------------------------------------ */

static int is_on(const char *name) {
  const char *value = getenv(name);
  return value && *value && strcmp(value, "0") != 0;
}

/* With the device's context current. */
static int32_t fill_stream(tsm_stream *stream) {
  const size_t bytes = aligned(frame_bytes()) + aligned(logits_bytes());
  TSM_TRY(tsm_cu.stream_create(&stream->stream, NOT_WITH_LEGACY_STREAM), "cuStreamCreate", NULL);
  TSM_TRY(tsm_cu.allocate_pinned((void **)&stream->pinned, bytes, 0), "cuMemHostAlloc", "the frame");
  static const enum area needed[] = {FRAME, WORKSPACE, CACHES};
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; ++i) {
    int32_t code = make_area(stream, needed[i]);
    if (code != TSM_OK) return code;
  }
  TSM_TRY(tsm_cu.synchronize(stream->stream), "cuStreamSynchronize", "zeroing the shift caches");
  stream->waiting.wish = tsm_waiting_asked();
  stream->wait_for_each = is_on("TSM_EDGE_SYNC");
  stream->use_graphs = tsm_cu.has_graphs && !is_on("TSM_EDGE_NO_GRAPH") && !stream->wait_for_each;
  record_both(stream, 0);
  return TSM_OK;
}

static void empty_stream(tsm_stream *stream) {
  if (stream->stream) tsm_cu.synchronize(stream->stream);
  for (int i = 0; i < 4; ++i)
    if (stream->graphs[i / 2][i % 2]) tsm_cu.graph_exec_destroy(stream->graphs[i / 2][i % 2]);
  for (int32_t i = 0; stream->events && i <= stream->program->n_launches; ++i)
    if (stream->events[i]) tsm_cu.event_destroy(stream->events[i]);
  for (int i = 0; i < N_AREAS; ++i)
    if (stream->areas[i]) tsm_cu.release(stream->areas[i]);
  if (stream->pinned) tsm_cu.release_pinned(stream->pinned);
  if (stream->pinned_caches) tsm_cu.release_pinned(stream->pinned_caches);
  if (stream->stream) tsm_cu.stream_destroy(stream->stream);
}

tsm_stream *tsm_open_program(int32_t threads, int32_t program) {
  if (!tsm_can_open(threads, program)) return NULL;
  tsm_stream *stream = calloc(1, sizeof *stream);
  if (!stream) {
    tsm_fail(TSM_ERROR_MEMORY, "tsm_open: out of memory; end other programs");
    return NULL;
  }
  stream->model = tsm_programs[program];
  stream->program = tsm_device_programs[program];
  stream->opener = getpid();
  int32_t code = tsm_device_open(&stream->device);
  if (code != TSM_OK) {
    free(stream);
    return NULL;
  }
  code = fill_stream(stream);
  tsm_device_leave();
  if (code == TSM_OK) return stream;
  char text[400]; /* cleaning up may fail, too: what counts is the first failure */
  snprintf(text, sizeof text, "%s", tsm_last_error());
  tsm_close(stream);
  tsm_fail(code, "%s", text);
  return NULL;
}

void tsm_close(tsm_stream *stream) {
  if (!stream) return;
  while (!tsm_caller_enter(&stream->caller)) sched_yield(); /* another thread's frame ends soon */
  if (stream->opener == getpid()) { /* the child of a fork has nothing on the GPU */
    if (tsm_device_enter(stream->device) == TSM_OK) {
      empty_stream(stream);
      tsm_device_leave();
    }
    tsm_device_close(stream->device);
  }
  free(stream->events);
  free(stream);
}

/* Calls -------------------------------------------------------------------------------------------------------------- */

/* Begin a call; TSM_OK: end it with leave. */
static int32_t enter(tsm_stream *stream, const char *function) {
  if (!stream) return tsm_fail(TSM_ERROR_ARGUMENT, "%s: the stream is null", function);
  if (!tsm_caller_enter(&stream->caller)) return tsm_caller_refused(function);
  int32_t code = TSM_OK;
  if (stream->opener != getpid())
    code = tsm_fail(TSM_ERROR_DEVICE,
                    "%s: the stream was opened before a fork, which no GPU survives; open the first stream after the fork",
                    function);
  if (code == TSM_OK) code = tsm_device_enter(stream->device);
  if (code != TSM_OK) tsm_caller_leave(&stream->caller);
  return code;
}

/* End it; where it failed, nothing is under way any more that uses the stream's memory. */
static int32_t leave(tsm_stream *stream, int32_t code) {
  if (code != TSM_OK) tsm_cu.synchronize(stream->stream);
  tsm_device_leave();
  tsm_caller_leave(&stream->caller);
  return code;
}

int32_t tsm_reset(tsm_stream *stream) {
  int32_t code = enter(stream, "tsm_reset");
  if (code != TSM_OK) return code;
  CUdeviceptr newest = stream->areas[CACHES] + (size_t)stream->newest * cache_set_bytes();
  if (tsm_the_model.cache_bytes)
    code = tsm_cuda_check(tsm_cu.fill(newest, 0, tsm_the_model.cache_bytes, stream->stream), "cuMemsetD8Async",
                          "the shift caches");
  return leave(stream, code);
}

/* Upload what is in the pinned memory, run, bring the logits back, wait. */
static int32_t run_frame(tsm_stream *stream, float *logits, const run *how) {
  unsigned char *pinned_logits = stream->pinned + aligned(frame_bytes());
  enum area frame = how->from_bytes ? FRAME_BYTES : FRAME;
  TSM_TRY(tsm_cu.upload(stream->areas[frame], stream->pinned, area_bytes(stream, frame), stream->stream),
          "cuMemcpyHtoDAsync", "the frame");
  CUgraphExec graph = how->caches == CACHES && !how->timed ? stream->graphs[how->from_bytes][how->parity] : NULL;
  if (graph && stream->use_graphs) {
    TSM_TRY(tsm_cu.graph_launch(graph, stream->stream), "cuGraphLaunch", NULL);
  } else {
    int32_t code = launch_all(stream, how);
    if (code != TSM_OK) return code;
  }
  TSM_TRY(tsm_cu.download(pinned_logits, stream->areas[WORKSPACE] + stream->model->logits_offset, logits_bytes(),
                          stream->stream),
          "cuMemcpyDtoHAsync", "the logits");
  int32_t code = tsm_wait(&stream->waiting, stream->stream);
  if (code != TSM_OK) return code;
  memcpy(logits, pinned_logits, logits_bytes());
  stream->stepped = 1;
  return TSM_OK;
}

int32_t tsm_output(tsm_stream *stream, int32_t index, float *values) {
  if (!stream || !values) return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: %s is null", stream ? "values" : "stream");
  if (index) return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: output is %d, the model has 1", (int)index);
  int32_t code = enter(stream, "tsm_output");
  if (code != TSM_OK) return code;
  if (stream->stepped) memcpy(values, stream->pinned + aligned(frame_bytes()), logits_bytes());
  else code = tsm_fail(TSM_ERROR_ARGUMENT, "tsm_output: there was no step yet");
  return leave(stream, code);
}

/* One frame of the stream's own: after a failure the next one reads the same caches again. */
static int32_t next_frame(tsm_stream *stream, float *logits, int from_bytes, int timed) {
  const run how = {from_bytes, stream->newest, CACHES, timed};
  int32_t code = run_frame(stream, logits, &how);
  if (code == TSM_OK) stream->newest = 1 - stream->newest;
  return code;
}

static int32_t check_arguments(const char *function, const void *frame, const float *logits) {
  if (frame && logits) return TSM_OK;
  return tsm_fail(TSM_ERROR_ARGUMENT, "%s: %s is null", function, !frame ? "frame" : "logits");
}

int32_t tsm_step(tsm_stream *stream, const float *frame, float *logits) {
  return tsm_step_profiled(stream, frame, logits, NULL, NULL);
}

int32_t tsm_step_u8(tsm_stream *stream, const uint8_t *frame, float *logits) {
  int32_t code = stream ? check_arguments("tsm_step_u8", frame, logits) : TSM_OK;
  if (code != TSM_OK || (code = enter(stream, "tsm_step_u8")) != TSM_OK) return code;
  const int on_device = stream->program->n_byte_launches > 0;
  if (on_device && !stream->areas[FRAME_BYTES]) {
    code = make_area(stream, FRAME_BYTES);
    if (code == TSM_OK) record_both(stream, 1);
  }
  if (code == TSM_OK) {
    if (on_device)
      memcpy(stream->pinned, frame, 3 * pixels());
    else
      tsm_input_from_bytes(frame, pixels(), tsm_the_model.scale, tsm_the_model.offset, (float *)(void *)stream->pinned);
    code = next_frame(stream, logits, on_device, 0);
  }
  return leave(stream, code);
}

/* Profiling ---------------------------------------------------------------------------------------------------------- */

static int32_t make_events(tsm_stream *stream) {
  const size_t n = (size_t)stream->program->n_launches + 1;
  if (!stream->events && !(stream->events = calloc(n, sizeof *stream->events)))
    return tsm_fail(TSM_ERROR_MEMORY, "tsm_step_profiled: out of memory; end other programs");
  for (size_t i = 0; i < n; ++i)
    if (!stream->events[i]) TSM_TRY(tsm_cu.event_create(&stream->events[i], 0), "cuEventCreate", NULL);
  return TSM_OK;
}

static int32_t read_events(tsm_stream *stream, uint64_t *nanoseconds) {
  for (int32_t i = 0; i < stream->program->n_launches; ++i) {
    float milliseconds = 0;
    TSM_TRY(tsm_cu.event_elapsed(&milliseconds, stream->events[i], stream->events[i + 1]), "cuEventElapsedTime", NULL);
    nanoseconds[i] = (uint64_t)((double)milliseconds * 1e6);
  }
  return TSM_OK;
}

/* No kernel of a GPU has stages. */
int32_t tsm_step_profiled(tsm_stream *stream, const float *frame, float *logits, uint64_t *nanoseconds,
                          uint64_t *stages) {
  (void)stages;
  int32_t code = stream ? check_arguments("tsm_step", frame, logits) : TSM_OK;
  if (code != TSM_OK || (code = enter(stream, "tsm_step")) != TSM_OK) return code;
  if (nanoseconds) code = make_events(stream);
  if (code == TSM_OK) {
    memcpy(stream->pinned, frame, frame_bytes());
    code = next_frame(stream, logits, 0, nanoseconds != NULL);
  }
  if (code == TSM_OK && nanoseconds) code = read_events(stream, nanoseconds);
  return leave(stream, code);
}

/* Explicit caches ---------------------------------------------------------------------------------------------------- */

static int32_t make_explicit_caches(tsm_stream *stream) {
  const size_t bytes = tsm_the_model.cache_bytes;
  if (!bytes) return TSM_OK;
  int32_t code = make_area(stream, EXPLICIT_CACHES);
  if (code != TSM_OK || stream->pinned_caches) return code;
  TSM_TRY(tsm_cu.allocate_pinned((void **)&stream->pinned_caches, bytes, 0), "cuMemHostAlloc", "the caller's caches");
  memset(stream->pinned_caches, 0, bytes);
  return TSM_OK;
}

static int32_t run_explicit(tsm_stream *stream, const float *const *shift, float *logits, float *const *shift_next) {
  const tsm_model *model = &tsm_the_model;
  const run how = {0, 0, EXPLICIT_CACHES, 0};
  int32_t code = make_explicit_caches(stream);
  if (code != TSM_OK) return code;
  const CUdeviceptr read = stream->areas[EXPLICIT_CACHES], written = read + cache_set_bytes();
  for (int32_t i = 0; i < model->n_caches; ++i) tsm_cache_import(&model->caches[i], shift[i], stream->pinned_caches);
  if (model->cache_bytes)
    TSM_TRY(tsm_cu.upload(read, stream->pinned_caches, model->cache_bytes, stream->stream), "cuMemcpyHtoDAsync",
            "the caller's caches");
  code = run_frame(stream, logits, &how);
  if (code != TSM_OK || !model->cache_bytes) return code;
  TSM_TRY(tsm_cu.download(stream->pinned_caches, written, model->cache_bytes, stream->stream), "cuMemcpyDtoHAsync",
          "the caller's caches");
  TSM_TRY(tsm_cu.synchronize(stream->stream), "cuStreamSynchronize", "the caller's caches");
  for (int32_t i = 0; i < model->n_caches; ++i)
    tsm_cache_export(&model->caches[i], stream->pinned_caches, shift_next[i]);
  return TSM_OK;
}

int32_t tsm_step_explicit(tsm_stream *stream, const float *frame, const float *const *shift, float *logits,
                          float *const *shift_next) {
  const tsm_model *model = &tsm_the_model;
  if (!stream || !frame || !logits || (model->n_caches && (!shift || !shift_next)))
    return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_explicit: an argument is null");
  for (int32_t i = 0; i < model->n_caches; ++i)
    if (!shift[i] || !shift_next[i])
      return tsm_fail(TSM_ERROR_ARGUMENT, "tsm_step_explicit: cache %d (%s) is null", (int)i, model->caches[i].input);
  int32_t code = enter(stream, "tsm_step_explicit");
  if (code != TSM_OK) return code;
  memcpy(stream->pinned, frame, frame_bytes());
  return leave(stream, run_explicit(stream, shift, logits, shift_next));
}
