/* packed.c - the TVM face: the packed function step(frame, shift_0 ..., logits, shift_0_next ...), destination passing,
 * so that stock TVM runs the model: tvm.runtime.load_module("model.so")["step"], locally or over RPC.
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
static tsm_stream *shared_stream; /* lives as long as the library: explicit steps leave no state in it */

static int raise_error(const char *kind, const char *message) {
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

/* The data of argument `index`, which must be a contiguous float32 CPU tensor of this shape; null raises. */
static float *data_of(const TVMFFIAny *args, int32_t index, const char *name, const int64_t *shape, int32_t rank) {
  char wanted[96], found[96], message[320];
  const DLTensor *tensor = as_tensor(&args[index]);
  describe(wanted, sizeof wanted, shape, rank);
  if (!tensor) {
    snprintf(message, sizeof message, "step: argument %d (%s) is not a tensor, expected float32 %s", (int)index, name,
             wanted);
    raise_error("TypeError", message);
    return NULL;
  }
  int same = tensor->ndim == rank;
  for (int32_t i = 0; same && i < rank; ++i) same = tensor->shape[i] == shape[i];
  int is_float32 = tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32 && tensor->dtype.lanes == 1;
  if (same && is_float32 && tensor->device.device_type == kDLCPU && contiguous(tensor))
    return (float *)(void *)((char *)tensor->data + tensor->byte_offset);
  describe(found, sizeof found, tensor->shape, tensor->ndim);
  snprintf(message, sizeof message, "step: argument %d (%s) is %s %s%s, expected float32 %s, contiguous, on the CPU",
           (int)index, name, is_float32 ? "float32" : "not float32", found,
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

static int step(const TVMFFIAny *args, int32_t n_args) {
  const tsm_model *model = &tsm_the_model;
  int32_t n = model->n_caches, expected = 2 + 2 * n;
  char message[128];
  if (n_args != expected) {
    snprintf(message, sizeof message, "step: %d arguments, expected %d (frame, %d caches, logits, %d next caches)",
             (int)n_args, (int)expected, (int)n, (int)n);
    return raise_error("TypeError", message);
  }
  float *frame = data_of(args, 0, model->frame_name, model->frame_shape, 4);
  float *logits = frame ? data_of(args, 1 + n, model->logits_name, model->logits_shape, model->logits_rank) : NULL;
  if (!logits) return -1;
  const float **shift = calloc((size_t)(2 * n + 1), sizeof *shift);
  if (!shift) return raise_error("MemoryError", "step: out of memory");
  float **shift_next = (float **)(void *)(shift + n);
  int failed = 0;
  for (int32_t i = 0; i < n && !failed; ++i) {
    const tsm_cache *cache = &model->caches[i];
    int64_t shape[4] = {1, cache->channels, cache->height, cache->width};
    shift[i] = data_of(args, 1 + i, cache->input, shape, 4);
    shift_next[i] = shift[i] ? data_of(args, 2 + n + i, cache->output, shape, 4) : NULL;
    failed = !shift_next[i];
  }
  if (!failed && !shared_stream && !(shared_stream = tsm_open(thread_count()))) {
    failed = 1;
    raise_error("RuntimeError", tsm_last_error());
  }
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

/* The workers must be gone before their code is: dlclose and exit end here. */
__attribute__((destructor)) static void close_shared_stream(void) {
  tsm_close(shared_stream);
  shared_stream = NULL;
}
