/* nvidia.h - an NVIDIA GPU of its own, of which no file of the kernel tells. Internal. */
#ifndef TSM_NVIDIA_H
#define TSM_NVIDIA_H

typedef struct {
  char name[96];
  double current_mhz, limit_mhz, temperature_c; /* NaN: the driver does not tell */
} tsm_nvidia_gpu;

/* How the machine's GPU is at this moment. 0: nobody tells, or there are several, and which one is used is not known. */
int tsm_nvidia_now(tsm_nvidia_gpu *gpu);

#endif /* TSM_NVIDIA_H */
