/* driver.c - finding the driver's functions, and saying what its failures mean. */
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jit.h"
#include "model.h"
#include "tsm_edge.h"

tsm_cuda tsm_cu;

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static int loaded;
static pid_t user; /* the process that called cuInit */

/* What to do --------------------------------------------------------------------------------------------------------- */

/* On a Jetson the GPU belongs to the group video. */
static const char *why_no_device(void) {
  static const char *const files[] = {"/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu", "/dev/nvidiactl", "/dev/nvidia0"};
  for (size_t i = 0; i < sizeof files / sizeof files[0]; ++i)
    if (access(files[i], R_OK | W_OK) != 0 && errno == EACCES)
      return "this user may not use the GPU: join its group with: sudo usermod -aG video $USER, then log in again";
  if (getenv("CUDA_VISIBLE_DEVICES"))
    return "no GPU can be used: CUDA_VISIBLE_DEVICES is set, and hides those that it does not name; unset it, or name one "
           "that nvidia-smi -L lists";
  return "no GPU can be used: look with nvidia-smi, or on a Jetson with: ls -l /dev/nvhost-gpu; in a container start it "
         "with the NVIDIA runtime";
}

static const char *what_to_do(CUresult result) {
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return "end other programs that use the GPU (a Jetson's memory is the CPU's, too), or open fewer streams";
    case CUDA_ERROR_NOT_INITIALIZED:
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_UNKNOWN:
      return why_no_device();
    case CUDA_ERROR_STUB_LIBRARY:
      return "libcuda.so.1 is the CUDA toolkit's stand-in for linking: leave its folder stubs out of LD_LIBRARY_PATH";
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
      return "another program has the GPU for itself: end it, or set the compute mode to default with nvidia-smi -c 0";
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
      return "the driver is too old for this model: update it (on a Jetson: JetPack), or compile for an older card";
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
      return "the driver refuses the kernels: compile for this GPU, see: tsm-edge targets";
    case CUDA_ERROR_NOT_FOUND:
      return "the artifact is damaged: compile and deploy it again";
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
      return "the kernel needs more registers or shared memory than this GPU has: compile for this GPU, see: tsm-edge "
             "targets";
    case CUDA_ERROR_LAUNCH_TIMEOUT:
      return "the GPU is too slow at its present clock, or draws a display: raise its clock with: sudo jetson_clocks";
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_LAUNCH_FAILED:
      return "a kernel failed, and this process can use the GPU no more: run it again with TSM_EDGE_SYNC=1, which names "
             "the kernel";
    case CUDA_ERROR_SYSTEM_NOT_READY:
      return "the GPUs of this machine wait for their switch: start it with: sudo systemctl start nvidia-fabricmanager";
    case CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
      return "the container has a newer libcuda.so.1 than this GPU's driver takes: leave /usr/local/cuda/compat out of "
             "LD_LIBRARY_PATH, or update the driver";
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
      return "the driver library and the kernel's driver are of different versions: restart the machine";
    default:
      return "look for it in the kernel's log with: dmesg | tail";
  }
}

int32_t tsm_cuda_check(CUresult result, const char *function, const char *what) {
  if (result == CUDA_SUCCESS) return TSM_OK;
  const char *name = NULL;
  char memory[64] = "";
  if (tsm_cu.error_name) tsm_cu.error_name(result, &name);
  size_t available, total;
  if (result == CUDA_ERROR_OUT_OF_MEMORY && tsm_cu.memory_info(&available, &total) == CUDA_SUCCESS)
    snprintf(memory, sizeof memory, ", %zu of %zu MB are free", available >> 20, total >> 20);
  return tsm_fail(result == CUDA_ERROR_OUT_OF_MEMORY ? TSM_ERROR_MEMORY : TSM_ERROR_DEVICE,
                  "%s%s%s%s failed: %s (%d)%s; %s", function, what ? " (" : "", what ? what : "", what ? ")" : "",
                  name ? name : "unknown error", result, memory, what_to_do(result));
}

/* Loading ------------------------------------------------------------------------------------------------------------ */

static int32_t too_old(const char *symbol) {
  return tsm_fail(TSM_ERROR_DEVICE,
                  "libcuda.so.1 has no %s, expected a driver of CUDA 10 or later; update the driver (on a Jetson: "
                  "JetPack 4.2 or later)",
                  symbol);
}

static int32_t find_functions(void *library) {
#define FIND(symbol, name, arguments)               \
  *(void **)(void *)&tsm_cu.name = dlsym(library, #symbol); \
  if (!tsm_cu.name) return too_old(#symbol);
  TSM_CUDA_NEEDED(FIND)
#undef FIND
  tsm_cu.has_graphs = 1;
#define FIND(symbol, name, arguments)               \
  *(void **)(void *)&tsm_cu.name = dlsym(library, #symbol); \
  if (!tsm_cu.name) tsm_cu.has_graphs = 0;
  TSM_CUDA_GRAPHS(FIND)
#undef FIND
#define FIND(symbol, name, arguments) *(void **)(void *)&tsm_cu.name = dlsym(library, #symbol);
  TSM_CUDA_INSTANTIATE(FIND)
#undef FIND
  if (!tsm_cu.graph_instantiate_flags && !tsm_cu.graph_instantiate) tsm_cu.has_graphs = 0;
  return TSM_OK;
}

static int32_t load(void) {
  tsm_jit_place_cache();
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return tsm_fail(TSM_ERROR_DEVICE,
                    "the NVIDIA driver cannot be loaded (%s); run this on a machine with an NVIDIA GPU and its driver, "
                    "in a container with the NVIDIA runtime",
                    dlerror());
  int32_t code = find_functions(library);
  if (code != TSM_OK) {
    dlclose(library);
    return code;
  }
  TSM_TRY(tsm_cu.init(0), "cuInit", NULL);
  user = getpid();
  loaded = 1; /* and never closed: drivers do not like that */
  return TSM_OK;
}

int32_t tsm_cuda_load(void) {
  pthread_mutex_lock(&loading);
  int32_t code = loaded ? TSM_OK : load();
  pthread_mutex_unlock(&loading);
  if (code == TSM_OK && !tsm_cuda_is_ours())
    return tsm_fail(TSM_ERROR_DEVICE,
                    "this process was forked from one that had used the GPU, which no driver allows; open the first "
                    "stream after the fork");
  return code;
}

int tsm_cuda_is_ours(void) { return !loaded || user == getpid(); }
