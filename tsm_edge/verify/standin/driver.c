/* driver.c - a stand-in for libcuda.so.1: the functions of CUDA 10.2 that the device layer calls, on the CPU.
 *
 * Here: the driver, its device, modules, failures; work.c has memory and streams. Variables for tests:
 *   STANDIN_FAIL=cuMemAlloc_v2=2      that function fails with that code; =2@3: only the third call of it and later ones
 *   STANDIN_PTX=6.0                   the newest PTX that is taken, instead of the one that was built in
 *   STANDIN_SLOW_MS=1300              that long a compilation of PTX takes
 *   STANDIN_STREAM_MS=20              that long, at least, what was put into an empty stream takes
 *   STANDIN_VERSION=9020              of the driver */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "driver.h"

#ifndef STANDIN_PTX_VERSION
#define STANDIN_PTX_VERSION 65
#endif
#ifndef STANDIN_CAPABILITY
#define STANDIN_CAPABILITY 53
#endif

int standin_initialised, standin_sticky;

/* Threads ---------------------------------------------------------------------------------------------------------- */

static atomic_flag taken = ATOMIC_FLAG_INIT;

int standin_lock(void) {
  while (atomic_flag_test_and_set_explicit(&taken, memory_order_acquire)) sched_yield();
  return 1;
}

void standin_unlock(const int *locked) {
  (void)locked;
  atomic_flag_clear_explicit(&taken, memory_order_release);
}

/* Failing on demand ------------------------------------------------------------------------------------------------ */

int standin_demanded(const char *function) {
  static const char *counted;
  static long calls;
  const char *wish = getenv("STANDIN_FAIL");
  size_t length = strlen(function);
  if (!wish || strncmp(wish, function, length) != 0 || wish[length] != '=') return SUCCESS;
  char *rest;
  long code = strtol(wish + length + 1, &rest, 10), from = *rest == '@' ? strtol(rest + 1, NULL, 10) : 1;
  if (counted != wish) counted = wish, calls = 0;
  return ++calls >= from ? (int)code : SUCCESS;
}

/* The driver and its device ---------------------------------------------------------------------------------------- */

int standin_number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? (int)strtol(text, NULL, 10) : otherwise;
}

API cuInit(unsigned flags) {
  ALONE;
  int wish = standin_demanded(__func__);
  standin_initialised = !wish && !flags;
  return wish;
}

API cuDriverGetVersion(int *version) {
  *version = standin_number("STANDIN_VERSION", 10020);
  return SUCCESS;
}

API cuDeviceGetCount(int *count) {
  BEGIN;
  *count = 1;
  return SUCCESS;
}

API cuDeviceGet(int *device, int index) {
  BEGIN;
  *device = 0;
  return index ? INVALID_DEVICE : SUCCESS;
}

API cuDeviceGetName(char *name, int size, int device) {
  BEGIN;
  snprintf(name, (size_t)size, "Stand-in for sm_%d", STANDIN_CAPABILITY);
  return device ? INVALID_DEVICE : SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int device) {
  BEGIN;
  /* threads a block, shared bytes, registers a block, MHz * 1000, SMs, integrated, major, minor */
  static const int known[][2] = {{1, 1024}, {8, 49152}, {12, 32768}, {13, 921600}, {16, 1}, {18, 1},
                                 {75, STANDIN_CAPABILITY / 10}, {76, STANDIN_CAPABILITY % 10}};
  *value = 0;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i)
    if (known[i][0] == attribute) *value = known[i][1];
  return device ? INVALID_DEVICE : SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **context, int device) {
  BEGIN;
  *context = &standin_initialised;
  return device ? INVALID_DEVICE : SUCCESS;
}

API cuDevicePrimaryCtxRelease(int device) { return device ? INVALID_DEVICE : SUCCESS; }

API cuDevicePrimaryCtxSetFlags(int device, unsigned flags) {
  BEGIN;
  return device || flags > 31 ? INVALID_VALUE : SUCCESS;
}

API cuCtxPushCurrent_v2(void *context) { return context == &standin_initialised ? SUCCESS : INVALID_VALUE; }

API cuCtxPopCurrent_v2(void **context) {
  *context = &standin_initialised;
  return SUCCESS;
}

/* Modules ---------------------------------------------------------------------------------------------------------- */

static uint64_t hash(const void *bytes, size_t n) {
  uint64_t value = UINT64_C(14695981039346656037);
  for (size_t i = 0; i < n; ++i) value = (value ^ ((const uint8_t *)bytes)[i]) * UINT64_C(1099511628211);
  return value;
}

static void complain(unsigned n, const int *keys, void **values, const char *text) {
  enum { ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };
  char *log = NULL;
  size_t bytes = 0;
  for (unsigned i = 0; i < n; ++i) {
    if (keys[i] == ERROR_LOG) log = values[i];
    if (keys[i] == ERROR_LOG_BYTES) bytes = (size_t)(uintptr_t)values[i];
  }
  if (log && bytes) snprintf(log, bytes, "%s", text);
}

/* The size that an ELF file says of itself: one of its two tables of headers is the last thing in it. */
static size_t elf_bytes(const uint8_t *file) {
  uint64_t starts[2]; /* of the program's headers and of the sections' */
  uint16_t sizes[4];  /* of one, and how many, of each */
  memcpy(starts, file + 32, sizeof starts);
  memcpy(sizes, file + 54, sizeof sizes);
  size_t programs = (size_t)starts[0] + (size_t)sizes[0] * sizes[1];
  size_t sections = (size_t)starts[1] + (size_t)sizes[2] * sizes[3];
  return programs > sections ? programs : sections;
}

static int newest_ptx(void) {
  const char *text = getenv("STANDIN_PTX");
  int major = 0, minor = 0;
  return text && sscanf(text, "%d.%d", &major, &minor) == 2 ? 10 * major + minor : STANDIN_PTX_VERSION;
}

static int load_ptx(void **module, const char *text, unsigned n, const int *keys, void **values) {
  const char *at = strstr(text, ".version ");
  int major, minor, newest = newest_ptx();
  char message[160];
  if (!at || sscanf(at, ".version %d.%d", &major, &minor) != 2) return INVALID_PTX;
  if (10 * major + minor > newest) {
    snprintf(message, sizeof message, "ptxas fatal   : Unsupported .version %d.%d; current version is '%d.%d'", major,
             minor, newest / 10, newest % 10);
    complain(n, keys, values, message);
    return UNSUPPORTED_PTX_VERSION;
  }
  size_t bytes = strlen(text);
  uint64_t found = hash(text, bytes);
  for (uint32_t i = 0; i < standin_n_modules; ++i)
    if (standin_modules[i].ptx.bytes == bytes && standin_modules[i].ptx.hash == found) {
      *module = (void *)(uintptr_t)&standin_modules[i];
      return SUCCESS;
    }
  complain(n, keys, values, "this stand-in was made of another PTX");
  return INVALID_PTX;
}

static int load_cubin(void **module, const uint8_t *file) {
  size_t bytes = elf_bytes(file);
  for (uint32_t i = 0; i < standin_n_modules; ++i)
    if (bytes && standin_modules[i].cubin.bytes == bytes && standin_modules[i].cubin.hash == hash(file, bytes)) {
      *module = (void *)(uintptr_t)&standin_modules[i];
      return SUCCESS;
    }
  return NO_BINARY_FOR_GPU;
}

API cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *keys, void **values) {
  BEGIN;
  if (memcmp(image, "\177ELF", 4) == 0) return load_cubin(module, image);
  usleep((useconds_t)standin_number("STANDIN_SLOW_MS", 0) * 1000);
  return load_ptx(module, image, n, keys, values);
}

API cuModuleUnload(void *module) { return module ? SUCCESS : INVALID_VALUE; }

API cuModuleGetFunction(void **function, void *handle, const char *name) {
  BEGIN;
  const standin_module *module = handle;
  for (uint32_t i = 0; i < module->n_kernels; ++i)
    if (strcmp(module->kernels[i].name, name) == 0) {
      *function = (void *)(uintptr_t)&module->kernels[i];
      return SUCCESS;
    }
  return NOT_FOUND;
}

/* Failures --------------------------------------------------------------------------------------------------------- */

API cuGetErrorName(int code, const char **name) {
  static const struct {
    int code;
    const char *name;
  } names[] = {{1, "INVALID_VALUE"},       {2, "OUT_OF_MEMORY"},     {3, "NOT_INITIALIZED"},
               {100, "NO_DEVICE"},         {101, "INVALID_DEVICE"},  {200, "INVALID_IMAGE"},
               {209, "NO_BINARY_FOR_GPU"}, {218, "INVALID_PTX"},     {222, "UNSUPPORTED_PTX_VERSION"},
               {500, "NOT_FOUND"},         {700, "ILLEGAL_ADDRESS"}, {701, "LAUNCH_OUT_OF_RESOURCES"},
               {702, "LAUNCH_TIMEOUT"},    {719, "LAUNCH_FAILED"},   {900, "STREAM_CAPTURE_UNSUPPORTED"},
               {999, "UNKNOWN"}};
  static char text[48];
  *name = NULL;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i)
    if (names[i].code == code) {
      snprintf(text, sizeof text, "CUDA_ERROR_%s", names[i].name);
      *name = text;
    }
  return *name ? SUCCESS : INVALID_VALUE;
}

/* For tests: why the launch failed, and a device that works again. */
__attribute__((visibility("default"))) const char *standin_reason(void) { return standin_fault_text; }
API standin_revive(void) { return standin_sticky = SUCCESS; }
