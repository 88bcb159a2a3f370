/* no_nvidia.c - of a program that opens no library: see nvidia.c. */
#include "nvidia.h"

int tsm_nvidia_now(tsm_nvidia_gpu *gpu) {
  (void)gpu;
  return 0;
}
