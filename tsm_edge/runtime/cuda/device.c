/* device.c - the GPU of a process: its context, the model's kernels and weights, made once however many streams. */
#include "device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jit.h"
#include "model.h"
#include "program.h"
#include "tsm_edge.h"
#include "waiting.h"

enum {
  SCHEDULE_SPIN = 1,
  SCHEDULE_BLOCKING = 4,
  CAPABILITY_MAJOR = 75,
  CAPABILITY_MINOR = 76,
  ERROR_LOG = 5,
  ERROR_LOG_BYTES = 6
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static tsm_device the_device;
static int users;

int32_t tsm_device_enter(const tsm_device *device) {
  return tsm_cuda_check(tsm_cu.context_push(device->context), "cuCtxPushCurrent", NULL);
}

void tsm_device_leave(void) {
  CUcontext context;
  tsm_cu.context_pop(&context);
}

/* The GPU must be of the architecture that the kernels are compiled for, or newer. */
static int32_t check_capability(CUdevice device) {
  int major = 0, minor = 0, wanted = (int)strtol(tsm_the_device_program.arch + 3, NULL, 10);
  char name[64] = "this GPU";
  TSM_TRY(tsm_cu.device_attribute(&major, CAPABILITY_MAJOR, device), "cuDeviceGetAttribute", NULL);
  TSM_TRY(tsm_cu.device_attribute(&minor, CAPABILITY_MINOR, device), "cuDeviceGetAttribute", NULL);
  tsm_cu.device_name(name, sizeof name, device);
  if (10 * major + minor >= wanted) return TSM_OK;
  return tsm_fail(TSM_ERROR_DEVICE,
                  "%s is sm_%d%d, the model is compiled for %s or newer; compile for this GPU, see: tsm-edge targets", name,
                  major, minor, tsm_the_device_program.arch);
}

/* Kernels ------------------------------------------------------------------------------------------------------------ */

/* The driver's compiler tells in its log what it does not like: the first line of it. */
static int32_t refuse(CUresult result, char *log) {
  char text[400];
  tsm_cuda_check(result, "cuModuleLoadDataEx", "the model's PTX");
  snprintf(text, sizeof text, "%s", tsm_last_error());
  log[strcspn(log, "\r\n")] = 0;
  for (char *at = log; (at = strchr(at, ';'));) *at = ','; /* what follows a semicolon is what to do */
  char *hint = strstr(text, "; ");
  if (!log[0] || !hint) return TSM_ERROR_DEVICE;
  *hint = 0;
  return tsm_fail(TSM_ERROR_DEVICE, "%s: %.120s; %s", text, log, hint + 2);
}

static int32_t load_ptx(CUmodule *module, const char *ptx, int32_t kernels) {
  char log[1024] = "";
  int keys[] = {ERROR_LOG, ERROR_LOG_BYTES};
  void *values[] = {log, (void *)(uintptr_t)(sizeof log - 1)};
  tsm_jit *announced = tsm_jit_begin(kernels);
  CUresult result = tsm_cu.module_load(module, ptx, 2, keys, values);
  tsm_jit_end(announced, result == CUDA_SUCCESS);
  return result == CUDA_SUCCESS ? TSM_OK : refuse(result, log);
}

/* The driver compiles PTX; binaries need no compiler, but NVIDIA does not promise that a driver takes those of another
 * release. */
static int32_t load_module(CUmodule *module) {
  const tsm_device_program *program = &tsm_the_device_program;
  const char *wish = getenv("TSM_EDGE_CUBIN");
  if (wish && *wish && strcmp(wish, "0") != 0 && program->cubin_bytes) {
    CUresult result = tsm_cu.module_load(module, program->cubin, 0, NULL, NULL);
    if (result == CUDA_SUCCESS) return TSM_OK;
    tsm_cuda_check(result, "cuModuleLoadDataEx", "TSM_EDGE_CUBIN");
    fprintf(stderr, "tsm-edge: %.*s: taking the PTX instead\n", (int)strcspn(tsm_last_error(), ";"), tsm_last_error());
  }
  return load_ptx(module, program->ptx, program->n_own_kernels);
}

static int32_t load_kernels(tsm_device *device) {
  const tsm_device_program *program = &tsm_the_device_program;
  const int32_t own = program->n_own_kernels;
  int32_t code = load_module(&device->module);
  if (code == TSM_OK && program->other_ptx)
    code = load_ptx(&device->others, program->other_ptx, program->n_kernels - own);
  if (code != TSM_OK) return code;
  device->functions = calloc((size_t)program->n_kernels, sizeof *device->functions);
  if (!device->functions) return tsm_fail(TSM_ERROR_MEMORY, "tsm_open: out of memory; end other programs");
  for (int32_t i = 0; i < program->n_kernels; ++i)
    TSM_TRY(tsm_cu.module_function(&device->functions[i], i < own ? device->module : device->others, program->kernels[i]),
            "cuModuleGetFunction", program->kernels[i]);
  return TSM_OK;
}

/* Weights ------------------------------------------------------------------------------------------------------------ */

/* They are pageable memory: the copy is over when the stream is. */
static int32_t upload_weights(tsm_device *device) {
  const size_t bytes = tsm_the_device_program.weight_bytes;
  CUstream stream;
  if (!bytes) return TSM_OK;
  char what[64];
  snprintf(what, sizeof what, "%.1f MB of weights", (double)bytes / 1e6);
  TSM_TRY(tsm_cu.allocate(&device->weights, bytes), "cuMemAlloc", what);
  TSM_TRY(tsm_cu.stream_create(&stream, 1), "cuStreamCreate", NULL);
  int32_t code = tsm_cuda_check(tsm_cu.upload(device->weights, tsm_the_model.weights, bytes, stream),
                                "cuMemcpyHtoDAsync", what);
  if (code == TSM_OK) code = tsm_cuda_check(tsm_cu.synchronize(stream), "cuStreamSynchronize", what);
  tsm_cu.stream_destroy(stream);
  return code;
}

/* The device --------------------------------------------------------------------------------------------------------- */

static int32_t make(tsm_device *device) {
  TSM_TRY(tsm_cu.device_get(&device->device, 0), "cuDeviceGet", NULL);
  int32_t code = check_capability(device->device);
  if (code != TSM_OK) return code;
  /* Another library of this process may have made its choice already. */
  tsm_cu.context_flags(device->device, tsm_waiting_asked() == WAIT_SPINNING ? SCHEDULE_SPIN : SCHEDULE_BLOCKING);
  TSM_TRY(tsm_cu.context_retain(&device->context, device->device), "cuDevicePrimaryCtxRetain", NULL);
  code = tsm_device_enter(device);
  if (code != TSM_OK) return code;
  code = load_kernels(device);
  if (code == TSM_OK) code = upload_weights(device);
  if (code != TSM_OK) tsm_device_leave();
  return code;
}

static void unmake(tsm_device *device) {
  if (device->context && tsm_device_enter(device) == TSM_OK) {
    if (device->weights) tsm_cu.release(device->weights);
    if (device->others) tsm_cu.module_unload(device->others);
    if (device->module) tsm_cu.module_unload(device->module);
    tsm_device_leave();
    tsm_cu.context_release(device->device);
  }
  free(device->functions);
  memset(device, 0, sizeof *device);
}

int32_t tsm_device_open(tsm_device **device) {
  int32_t code = tsm_cuda_load();
  if (code != TSM_OK) return code;
  pthread_mutex_lock(&one_at_a_time);
  if (users) {
    code = tsm_device_enter(&the_device);
  } else if ((code = make(&the_device)) != TSM_OK) {
    char text[400]; /* cleaning up may fail, too: what counts is the first failure */
    snprintf(text, sizeof text, "%s", tsm_last_error());
    unmake(&the_device);
    tsm_fail(code, "%s", text);
  }
  if (code == TSM_OK) ++users;
  pthread_mutex_unlock(&one_at_a_time);
  *device = &the_device;
  return code;
}

void tsm_device_close(tsm_device *device) {
  pthread_mutex_lock(&one_at_a_time);
  if (users && --users == 0) unmake(device);
  pthread_mutex_unlock(&one_at_a_time);
}
