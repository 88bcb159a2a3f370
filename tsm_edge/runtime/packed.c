/* packed.c - the TVM face, so that stock TVM runs the model: tvm.runtime.load_module("model.so")["step"], locally or
 * over RPC. Packed functions, destination passing:
 *
 *     step(frame, shift_0 ..., logits, shift_0_next ...)
 *     stream_step(frame, logits), stream_reset(): tsm_step and tsm_reset, on a stream of its own
 *     stream_output(index, values): tsm_output, of that stream
 *     measure(frames, first, period, reset, samples, logits, kernels): tsm_measure, on that stream, too
 *     yardstick(microseconds): tsm_yardstick, arithmetic and memory
 *     select(program): from now on that stream is of another of the library's programs; returns its kernel calls
 *
 * Needs only TVM's public C interface (tvm/ffi/c_api.h). Its one symbol is weak: without TVM in the process the
 * library loads all the same. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#include "model.h"
#include "tsm_edge.h"

__attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
/* Lives as long as the library. Explicit steps leave no state in it; its own caches are those of
 * `stream_step` and `measure`. */
static tsm_stream *shared_stream;
static int32_t shared_program;

/* For TVM, and for who calls without it, as tsm_last_error. */
static int raise_error(const char *kind, const char *message) {
  if (message != tsm_last_error()) tsm_fail(TSM_ERROR_ARGUMENT, "%s", message);
  if (TVMFFIErrorSetRaisedFromCStr) TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

static const DLTensor *as_tensor(const TVMFFIAny *value) {
  if (value->type_index == kTVMFFIDLTensorPtr) return value->v_ptr;
  if (value->type_index == kTVMFFITensor) return (const DLTensor *)((const char *)value->v_obj + sizeof(TVMFFIObject));
  return NULL;
}

static int describe(char *text, size_t size, const int64_t *shape, int32_t rank) {
  int length = snprintf(text, size, "[");
  for (int32_t i = 0; i < rank && length < (int)size; ++i)
    length += snprintf(text + length, size - (size_t)length, "%s%lld", i ? ", " : "", (long long)shape[i]);
  return length < (int)size ? length + snprintf(text + length, size - (size_t)length, "]") : length;
}

static int contiguous(const DLTensor *tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor->ndim - 1; tensor->strides && i >= 0; --i) {
    if (tensor->shape[i] != 1 && tensor->strides[i] != expected) return 0;
    expected *= tensor->shape[i];
  }
  return 1;
}

/* The data of argument `index` of a function, which must be a contiguous float32 CPU tensor of this shape; null
 * raises. */
static float *data_of(const char *function, const TVMFFIAny *args, int32_t index, const char *name,
                      const int64_t *shape, int32_t rank) {
  char wanted[96], found[96], message[320];
  const DLTensor *tensor = as_tensor(&args[index]);
  describe(wanted, sizeof wanted, shape, rank);
  if (!tensor) {
    snprintf(message, sizeof message, "%s: argument %d (%s) is not a tensor, expected float32 %s", function,
             (int)index, name, wanted);
    raise_error("TypeError", message);
    return NULL;
  }
  int same = tensor->ndim == rank;
  for (int32_t i = 0; same && i < rank; ++i) same = tensor->shape[i] == shape[i];
  int is_float32 = tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32 && tensor->dtype.lanes == 1;
  if (same && is_float32 && tensor->device.device_type == kDLCPU && contiguous(tensor))
    return (float *)(void *)((char *)tensor->data + tensor->byte_offset);
  describe(found, sizeof found, tensor->shape, tensor->ndim);
  snprintf(message, sizeof message, "%s: argument %d (%s) is %s %s%s, expected float32 %s, contiguous, on the CPU",
           function, (int)index, name, is_float32 ? "float32" : "not float32", found,
           tensor->device.device_type != kDLCPU ? " on another device"
           : contiguous(tensor)                 ? ""
                                                : " with gaps",
           wanted);
  raise_error("ValueError", message);
  return NULL;
}

/* Threads: TSM_EDGE_THREADS, else every core this process may use. Not sysconf, whose numbers differ on Android. */
static int32_t thread_count(void) {
  const char *wanted = getenv("TSM_EDGE_THREADS");
  cpu_set_t cores; /* 1024 bits in every C library */
  memset(&cores, 0, sizeof cores);
  long count = wanted ? strtol(wanted, NULL, 10) : 0;
  if (!wanted && sched_getaffinity(0, sizeof cores, &cores) == 0)
    for (size_t i = 0; i < sizeof cores; ++i) count += __builtin_popcount(((const unsigned char *)&cores)[i]);
  return count < 1 ? 1 : count > TSM_MOST_THREADS ? TSM_MOST_THREADS : (int32_t)count;
}

/* The one stream, opened at the first call; null raises. */
static tsm_stream *open_shared_stream(void) {
  if (!shared_stream && !(shared_stream = tsm_open_program(thread_count(), shared_program)))
    raise_error("RuntimeError", tsm_last_error());
  return shared_stream;
}

static int step(const TVMFFIAny *args, int32_t n_args) {
  const tsm_model *model = &tsm_the_model;
  int32_t n = model->n_caches, expected = 2 + 2 * n;
  char message[128];
  if (n_args != expected) {
    snprintf(message, sizeof message, "step: %d arguments, expected %d (frame, %d caches, logits, %d next caches)",
             (int)n_args, (int)expected, (int)n, (int)n);
    return raise_error("TypeError", message);
  }
  float *frame = data_of("step", args, 0, model->frame_name, model->frame_shape, 4);
  float *logits = frame ? data_of("step", args, 1 + n, model->logits_name, model->logits_shape, model->logits_rank) : NULL;
  if (!logits) return -1;
  const float **shift = calloc((size_t)(2 * n + 1), sizeof *shift);
  if (!shift) return raise_error("MemoryError", "step: out of memory");
  float **shift_next = (float **)(void *)(shift + n);
  int failed = 0;
  for (int32_t i = 0; i < n && !failed; ++i) {
    const tsm_cache *cache = &model->caches[i];
    int64_t shape[4] = {1, cache->channels, cache->height, cache->width};
    shift[i] = data_of("step", args, 1 + i, cache->input, shape, 4);
    shift_next[i] = shift[i] ? data_of("step", args, 2 + n + i, cache->output, shape, 4) : NULL;
    failed = !shift_next[i];
  }
  failed = failed || !open_shared_stream();
  if (!failed && tsm_step_explicit(shared_stream, frame, shift, logits, shift_next) != TSM_OK) {
    failed = 1;
    raise_error("RuntimeError", tsm_last_error());
  }
  free((void *)shift);
  return failed ? -1 : 0;
}

int __tvm_ffi_step(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  pthread_mutex_lock(&one_at_a_time);
  int status = step(args, n_args);
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  return status;
}

static int stream_step(const TVMFFIAny *args, int32_t n_args) {
  const tsm_model *model = &tsm_the_model;
  if (n_args != 2) return raise_error("TypeError", "stream_step: expected 2 arguments: frame, logits");
  float *frame = data_of("stream_step", args, 0, model->frame_name, model->frame_shape, 4);
  float *logits =
      frame ? data_of("stream_step", args, 1, model->logits_name, model->logits_shape, model->logits_rank) : NULL;
  if (!logits || !open_shared_stream()) return -1;
  if (tsm_step(shared_stream, frame, logits) == TSM_OK) return 0;
  return raise_error("RuntimeError", tsm_last_error());
}

int __tvm_ffi_stream_step(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  pthread_mutex_lock(&one_at_a_time);
  int status = stream_step(args, n_args);
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  return status;
}

static int stream_output(const TVMFFIAny *args, int32_t n_args) {
  const tsm_model *model = &tsm_the_model;
  if (n_args != 2 || args[0].type_index != kTVMFFIInt || args[0].v_int64 < 0 || args[0].v_int64 >= model->n_outputs)
    return raise_error("TypeError", "stream_output: expected the number of an output, values");
  const tsm_output_info *output = &model->outputs[args[0].v_int64];
  float *values = data_of("stream_output", args, 1, output->name, output->shape, output->rank);
  if (!values || !open_shared_stream()) return -1;
  if (tsm_output(shared_stream, (int32_t)args[0].v_int64, values) == TSM_OK) return 0;
  return raise_error("RuntimeError", tsm_last_error());
}

int __tvm_ffi_stream_output(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  pthread_mutex_lock(&one_at_a_time);
  int status = stream_output(args, n_args);
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  return status;
}

int __tvm_ffi_stream_reset(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self, (void)args;
  pthread_mutex_lock(&one_at_a_time);
  int status = n_args ? raise_error("TypeError", "stream_reset: expected no arguments") : 0;
  if (!status && shared_stream && tsm_reset(shared_stream) != TSM_OK)
    status = raise_error("RuntimeError", tsm_last_error());
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  return status;
}

/* Of a call of `measure`. */
typedef struct {
  tsm_run run;
  float *samples; /* [count, 3] */
  float *logits;
  float *kernels; /* null, or [count, kernels] */
} measurement;

static int64_t length_of(const TVMFFIAny *value, int32_t axis) {
  const DLTensor *tensor = as_tensor(value);
  return tensor && tensor->ndim > axis && tensor->shape[axis] <= INT32_MAX ? tensor->shape[axis] : 1;
}

/* Read the arguments; 0: one is wrong, which is raised. */
static int read_measurement(const TVMFFIAny *args, int32_t n_args, measurement *into) {
  const tsm_model *model = &tsm_the_model;
  const int64_t *one = model->frame_shape;
  if (n_args != 7 || args[1].type_index != kTVMFFIInt || args[1].v_int64 < 0 || args[1].v_int64 > INT32_MAX ||
      args[2].type_index != kTVMFFIInt || args[2].v_int64 < 0)
    return raise_error("TypeError", "measure: expected frames, first, period, reset, samples, logits, kernels") == 0;
  int64_t frames[] = {length_of(&args[0], 0), one[1], one[2], one[3]};
  if (frames[0] % one[0]) return raise_error("ValueError", "measure: frames are no whole number of clips") == 0;
  int64_t samples[] = {length_of(&args[4], 0), 3}, kernels[] = {samples[0], tsm_calls(shared_stream)};
  into->run = (tsm_run){data_of("measure", args, 0, "frames", frames, 4), (int32_t)(frames[0] / one[0]),
                        (int32_t)args[1].v_int64, (int32_t)samples[0], (uint64_t)args[2].v_int64};
  into->samples = into->run.frames ? data_of("measure", args, 4, "samples", samples, 2) : NULL;
  into->logits =
      into->samples ? data_of("measure", args, 5, "logits", model->logits_shape, model->logits_rank) : NULL;
  const int no_kernels = args[6].type_index == kTVMFFINone;
  into->kernels = into->logits && !no_kernels ? data_of("measure", args, 6, "kernels", kernels, 2) : NULL;
  return into->logits && (no_kernels || into->kernels);
}

/* As float32 tensors hold it: all that every client of TVM's RPC can make on a device. */
static float microseconds(uint64_t nanoseconds) { return (float)((double)nanoseconds / 1e3); }

/* Returns when the first frame was due, or -1: failed, which is raised. */
static int64_t measure(const measurement *what, tsm_sample *samples, uint64_t *kernels) {
  if (!samples || (what->kernels && !kernels)) return raise_error("MemoryError", "measure: out of memory");
  if (tsm_measure(shared_stream, &what->run, samples, what->logits, kernels) != TSM_OK)
    return raise_error("RuntimeError", tsm_last_error());
  const size_t count = (size_t)what->run.count;
  for (size_t i = 0; i < count; ++i) {
    what->samples[3 * i] = microseconds(samples[i].due - samples[0].due);
    what->samples[3 * i + 1] = microseconds(samples[i].start - samples[0].due);
    what->samples[3 * i + 2] = microseconds(samples[i].duration);
  }
  for (size_t i = 0; what->kernels && i < count * (size_t)tsm_calls(shared_stream); ++i)
    what->kernels[i] = microseconds(kernels[i]);
  return (int64_t)samples[0].due;
}

/* Samples: microseconds since the first frame was due of its due and its start, and the duration. Returns when that
 * was: nanoseconds of CLOCK_MONOTONIC. */
int __tvm_ffi_measure(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  measurement what = {0};
  int64_t began = -1;
  pthread_mutex_lock(&one_at_a_time);
  if (open_shared_stream() && read_measurement(args, n_args, &what)) {
    size_t count = (size_t)what.run.count, calls = (size_t)tsm_calls(shared_stream);
    tsm_sample *samples = calloc(count, sizeof *samples);
    uint64_t *kernels = what.kernels ? calloc(count * calls, sizeof *kernels) : NULL;
    if (args[3].v_int64) tsm_reset(shared_stream);
    began = measure(&what, samples, kernels);
    free(kernels);
    free(samples);
  }
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFIInt;
  result->v_int64 = began;
  return began < 0 ? -1 : 0;
}

int __tvm_ffi_yardstick(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  const int64_t shape[] = {2};
  tsm_speed speed;
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  if (n_args != 1) return raise_error("TypeError", "yardstick: expected 1 argument: microseconds");
  float *into = data_of("yardstick", args, 0, "microseconds", shape, 1);
  if (!into) return -1;
  if (tsm_yardstick(&speed) != TSM_OK) return raise_error("RuntimeError", tsm_last_error());
  into[0] = microseconds(speed.arithmetic);
  into[1] = microseconds(speed.memory);
  return 0;
}

/* The new stream is opened before the old one is closed: with a GPU's last stream go its kernels and weights. */
int __tvm_ffi_select(void *self, const TVMFFIAny *args, int32_t n_args, TVMFFIAny *result) {
  (void)self;
  int32_t calls = -1;
  pthread_mutex_lock(&one_at_a_time);
  if (n_args != 1 || args[0].type_index != kTVMFFIInt || args[0].v_int64 < 0 || args[0].v_int64 > INT32_MAX) {
    raise_error("TypeError", "select: expected the number of a program");
  } else {
    tsm_stream *before = shared_stream;
    shared_stream = NULL;
    shared_program = (int32_t)args[0].v_int64;
    if (open_shared_stream()) calls = tsm_calls(shared_stream);
    tsm_close(before);
  }
  pthread_mutex_unlock(&one_at_a_time);
  result->type_index = kTVMFFIInt;
  result->v_int64 = calls;
  return calls < 0 ? -1 : 0;
}

/* The workers must be gone before their code is: dlclose and exit end here. */
__attribute__((destructor)) static void close_shared_stream(void) {
  tsm_close(shared_stream);
  shared_stream = NULL;
}
