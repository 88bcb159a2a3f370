/* program.h - what the generated model.c tells the device layer of a CUDA target: the step as a table of launches.
 * Internal. */
#ifndef TSM_CUDA_PROGRAM_H
#define TSM_CUDA_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "model.h"

typedef struct {
  uint16_t kernel; /* index into the names */
  uint16_t threads, n_buffers;
  uint32_t blocks[3];
  tsm_ref buffers[TSM_MAX_BUFFERS];
} tsm_launch;

typedef struct {
  const char *ptx;       /* of the first n_own_kernels, zero-terminated */
  const char *other_ptx; /* null, or that of the other ones: a driver keeps what it has made of the first text */
  const unsigned char *cubin;
  size_t cubin_bytes; /* 0: there is none */
  const char *arch; /* what both are for: sm_53 */
  const char *const *kernels;
  int32_t n_kernels, n_own_kernels, n_launches, n_byte_launches;
  const tsm_launch *launches;
  const tsm_launch *byte_launches; /* what a step begins with when the frame came as bytes */
  int32_t n_replaced;              /* so many of the launches are left out then */
  size_t weight_bytes;
} tsm_device_program;

extern const tsm_device_program tsm_the_device_program;

/* The launches of each of tsm_programs. All have the kernels and the weights of the first. */
extern const tsm_device_program *const tsm_device_programs[];

#endif /* TSM_CUDA_PROGRAM_H */
