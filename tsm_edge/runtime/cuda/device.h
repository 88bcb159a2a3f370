/* device.h - what all streams of a model share: the context, the kernels, the weights. Internal. */
#ifndef TSM_CUDA_DEVICE_H
#define TSM_CUDA_DEVICE_H

#include "driver.h"

typedef struct {
  CUdevice device;
  CUcontext context;
  CUmodule module, others; /* others: null, or the kernels that only other programs than the first have */
  CUfunction *functions; /* in the order of the program's names */
  CUdeviceptr weights;
} tsm_device;

/* The device, made at the first call; its context is current until tsm_device_leave. TSM_OK, or it could not be made. */
int32_t tsm_device_open(tsm_device **device);

/* Free it, if nobody else has it open; needs no context. */
void tsm_device_close(tsm_device *device);

/* Make its context the thread's. */
int32_t tsm_device_enter(const tsm_device *device);
void tsm_device_leave(void);

#endif /* TSM_CUDA_DEVICE_H */
