/* nvidia.c - asks the driver's management library (NVML), where it is. A Jetson has files of the kernel instead. */
#include "nvidia.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>

typedef struct nvml_device_of_the_driver *nvml_device;

enum { SUCCESS = 0, CLOCK_SM = 1, TEMPERATURE_GPU = 0 };

/* Name in the library, name here, arguments. */
#define FUNCTIONS(X)                                                          \
  X(nvmlInit_v2, init, (void))                                                \
  X(nvmlDeviceGetCount_v2, count, (unsigned *))                               \
  X(nvmlDeviceGetHandleByIndex_v2, handle, (unsigned, nvml_device *))         \
  X(nvmlDeviceGetName, name, (nvml_device, char *, unsigned))                 \
  X(nvmlDeviceGetClockInfo, clock, (nvml_device, int, unsigned *))            \
  X(nvmlDeviceGetMaxClockInfo, most, (nvml_device, int, unsigned *))          \
  X(nvmlDeviceGetTemperature, temperature, (nvml_device, int, unsigned *))

static struct {
#define FIELD(symbol, name, arguments) int(*name) arguments;
  FUNCTIONS(FIELD)
#undef FIELD
} nvml;

/* The one GPU; null: none, or one of several. The library is looked for once, and never closed. */
static nvml_device the_gpu(void) {
  static nvml_device found;
  static int looked;
  unsigned count = 0;
  if (looked++) return found;
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return NULL;
#define FIND(symbol, name, arguments) \
  if (!(*(void **)(void *)&nvml.name = dlsym(library, #symbol))) return NULL;
  FUNCTIONS(FIND)
#undef FIND
  if (nvml.init() != SUCCESS || nvml.count(&count) != SUCCESS || count != 1) return NULL;
  if (nvml.handle(0, &found) != SUCCESS) found = NULL;
  return found;
}

int tsm_nvidia_now(tsm_nvidia_gpu *gpu) {
  nvml_device device = the_gpu();
  unsigned value = 0;
  if (!device) return 0;
  if (nvml.name(device, gpu->name, sizeof gpu->name) != SUCCESS) strcpy(gpu->name, "an NVIDIA GPU");
  gpu->current_mhz = nvml.clock(device, CLOCK_SM, &value) == SUCCESS ? value : NAN;
  gpu->limit_mhz = nvml.most(device, CLOCK_SM, &value) == SUCCESS ? value : NAN;
  gpu->temperature_c = nvml.temperature(device, TEMPERATURE_GPU, &value) == SUCCESS ? value : NAN;
  return 1;
}
