/* driver.h - the CUDA driver's functions that are used, found in libcuda.so.1 when they are first needed. Internal.
 *
 * Nothing of NVIDIA's is needed to build this. The names are the ABI that CUDA 10.2 exports (_v2 where it has one), and
 * newer drivers still do. */
#ifndef TSM_CUDA_DRIVER_H
#define TSM_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

/* Name in the library, name here, arguments. */
#define TSM_CUDA_NEEDED(X)                                                                                           \
  X(cuInit, init, (unsigned))                                                                                        \
  X(cuDriverGetVersion, version, (int *))                                                                            \
  X(cuDeviceGet, device_get, (CUdevice *, int))                                                                      \
  X(cuDeviceGetName, device_name, (char *, int, CUdevice))                                                           \
  X(cuDeviceGetAttribute, device_attribute, (int *, int, CUdevice))                                                  \
  X(cuDevicePrimaryCtxRetain, context_retain, (CUcontext *, CUdevice))                                               \
  X(cuDevicePrimaryCtxRelease, context_release, (CUdevice))                                                          \
  X(cuDevicePrimaryCtxSetFlags, context_flags, (CUdevice, unsigned))                                                 \
  X(cuCtxPushCurrent_v2, context_push, (CUcontext))                                                                  \
  X(cuCtxPopCurrent_v2, context_pop, (CUcontext *))                                                                  \
  X(cuModuleLoadDataEx, module_load, (CUmodule *, const void *, unsigned, int *, void **))                           \
  X(cuModuleUnload, module_unload, (CUmodule))                                                                       \
  X(cuModuleGetFunction, module_function, (CUfunction *, CUmodule, const char *))                                    \
  X(cuMemAlloc_v2, allocate, (CUdeviceptr *, size_t))                                                                \
  X(cuMemFree_v2, release, (CUdeviceptr))                                                                            \
  X(cuMemGetInfo_v2, memory_info, (size_t *, size_t *))                                                              \
  X(cuMemHostAlloc, allocate_pinned, (void **, size_t, unsigned))                                                    \
  X(cuMemFreeHost, release_pinned, (void *))                                                                         \
  X(cuMemcpyHtoDAsync_v2, upload, (CUdeviceptr, const void *, size_t, CUstream))                                     \
  X(cuMemcpyDtoHAsync_v2, download, (void *, CUdeviceptr, size_t, CUstream))                                         \
  X(cuMemsetD8Async, fill, (CUdeviceptr, unsigned char, size_t, CUstream))                                           \
  X(cuStreamCreate, stream_create, (CUstream *, unsigned))                                                           \
  X(cuStreamDestroy_v2, stream_destroy, (CUstream))                                                                  \
  X(cuStreamSynchronize, synchronize, (CUstream))                                                                    \
  X(cuStreamQuery, query, (CUstream))                                                                                \
  X(cuLaunchKernel, launch,                                                                                          \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **)) \
  X(cuEventCreate, event_create, (CUevent *, unsigned))                                                              \
  X(cuEventDestroy_v2, event_destroy, (CUevent))                                                                     \
  X(cuEventRecord, event_record, (CUevent, CUstream))                                                                \
  X(cuEventElapsedTime, event_elapsed, (float *, CUevent, CUevent))                                                  \
  X(cuGetErrorName, error_name, (CUresult, const char **))

/* Since CUDA 10.1; without them every launch is issued by itself. */
#define TSM_CUDA_GRAPHS(X)                                                                       \
  X(cuStreamBeginCapture_v2, capture_begin, (CUstream, int))                                     \
  X(cuStreamEndCapture, capture_end, (CUstream, CUgraph *))                                      \
  X(cuGraphLaunch, graph_launch, (CUgraphExec, CUstream))                                        \
  X(cuGraphDestroy, graph_destroy, (CUgraph))                                                    \
  X(cuGraphExecDestroy, graph_exec_destroy, (CUgraphExec))

/* One of the two; the former since CUDA 11.4. */
#define TSM_CUDA_INSTANTIATE(X)                                                                       \
  X(cuGraphInstantiateWithFlags, graph_instantiate_flags, (CUgraphExec *, CUgraph, unsigned long long)) \
  X(cuGraphInstantiate, graph_instantiate, (CUgraphExec *, CUgraph, void *, char *, size_t))

typedef struct {
#define TSM_FIELD(symbol, name, arguments) CUresult(*name) arguments;
  TSM_CUDA_NEEDED(TSM_FIELD) TSM_CUDA_GRAPHS(TSM_FIELD) TSM_CUDA_INSTANTIATE(TSM_FIELD)
#undef TSM_FIELD
  int has_graphs;
} tsm_cuda;

extern tsm_cuda tsm_cu;

/* Results that are looked at. */
enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_STUB_LIBRARY = 34,
  CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
  CUDA_ERROR_OPERATING_SYSTEM = 304,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_LAUNCH_TIMEOUT = 702,
  CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
  CUDA_ERROR_MISALIGNED_ADDRESS = 716,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_SYSTEM_NOT_READY = 802,
  CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
  CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE = 804,
  CUDA_ERROR_UNKNOWN = 999
};

/* Load the library and call cuInit, once in a process. TSM_OK, or tsm_last_error says what to do. */
int32_t tsm_cuda_load(void);

/* Whether this process may use what it has of the GPU: not after a fork. */
int tsm_cuda_is_ours(void);

/* TSM_OK, or a failure whose text names the function, the code, what it was for, and what to do. what: null or text. */
int32_t tsm_cuda_check(CUresult result, const char *function, const char *what);

/* Return from the calling function where a call of the driver fails. */
#define TSM_TRY(call, function, what)                                \
  do {                                                               \
    int32_t code_ = tsm_cuda_check(call, function, what);            \
    if (code_ != TSM_OK) return code_;                               \
  } while (0)

#endif /* TSM_CUDA_DRIVER_H */
