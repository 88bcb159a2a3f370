/* driver.c - a stand-in for libcuda.so.1: the functions of CUDA 10.2 that the device layer calls, on the CPU.
 *
 * As on a device nothing is done before somebody waits for it: copies, fills and launches go into the queue of a stream,
 * and failures of kernels come to light when that is waited for; from then on every call fails. Variables for tests:
 *   STANDIN_FAIL=cuMemAlloc_v2=2      that function fails with that code; =2@3: only the third call of it and later ones
 *   STANDIN_PTX=6.0                   the newest PTX that is taken, instead of the one that was built in
 *   STANDIN_SLOW_MS=1300              that long a compilation of PTX takes
 *   STANDIN_VERSION=9020              of the driver */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "standin.h"

#ifndef STANDIN_PTX_VERSION
#define STANDIN_PTX_VERSION 65
#endif
#ifndef STANDIN_CAPABILITY
#define STANDIN_CAPABILITY 53
#endif

#define API __attribute__((visibility("default"))) int

enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  NO_BINARY_FOR_GPU = 209,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  NOT_FOUND = 500,
  OUT_OF_RESOURCES = 701,
  CAPTURING = 900
};

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
} stream;

typedef struct {
  void *at;
  size_t bytes;
} pinned;

static int initialised, sticky;
static pinned pinned_blocks[1024];
static uint32_t n_pinned;

/* Failing on demand ------------------------------------------------------------------------------------------------ */

static int demanded(const char *function) {
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

#define BEGIN                                    \
  do {                                           \
    int wish_ = demanded(__func__);              \
    if (wish_) return wish_;                     \
    if (sticky) return sticky;                   \
    if (!initialised) return NOT_INITIALIZED;    \
  } while (0)

/* Queues ----------------------------------------------------------------------------------------------------------- */

static operation *add(void *handle, int kind) {
  stream *to = handle;
  queue *into = to->captured ? to->captured : &to->waiting;
  operation *made = calloc(1, sizeof *made);
  if (!made) abort();
  made->kind = kind;
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
    if (!sticky) sticky = perform(done);
    of->waiting.first = done->next;
    free(done->staged);
    free(done);
  }
  of->waiting.end = &of->waiting.first;
  return sticky;
}

/* The driver and its device ---------------------------------------------------------------------------------------- */

static int number_of(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? (int)strtol(text, NULL, 10) : otherwise;
}

API cuInit(unsigned flags) {
  int wish = demanded(__func__);
  initialised = !wish && !flags;
  return wish;
}

API cuDriverGetVersion(int *version) {
  *version = number_of("STANDIN_VERSION", 10020);
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
  *context = &initialised;
  return device ? INVALID_DEVICE : SUCCESS;
}

API cuDevicePrimaryCtxRelease(int device) { return device ? INVALID_DEVICE : SUCCESS; }

API cuDevicePrimaryCtxSetFlags(int device, unsigned flags) {
  BEGIN;
  return device || flags > 31 ? INVALID_VALUE : SUCCESS;
}

API cuCtxPushCurrent_v2(void *context) { return context == &initialised ? SUCCESS : INVALID_VALUE; }

API cuCtxPopCurrent_v2(void **context) {
  *context = &initialised;
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
  usleep((useconds_t)number_of("STANDIN_SLOW_MS", 0) * 1000);
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

/* Memory ----------------------------------------------------------------------------------------------------------- */

API cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  BEGIN;
  if (!bytes) return INVALID_VALUE;
  *address = standin_allocate(bytes);
  return *address ? SUCCESS : OUT_OF_MEMORY;
}

API cuMemFree_v2(uint64_t address) { return standin_free(address) ? SUCCESS : INVALID_VALUE; }

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
  drain(handle);
  free(handle);
  return SUCCESS;
}

API cuStreamSynchronize(void *handle) {
  BEGIN;
  if (((stream *)handle)->captured) return CAPTURING;
  return drain(handle);
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
API standin_revive(void) { return sticky = SUCCESS; }
