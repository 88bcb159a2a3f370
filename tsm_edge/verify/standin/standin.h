/* standin.h - what the parts of the stand-in driver know of each other. Internal. */
#ifndef STANDIN_H
#define STANDIN_H

#include "kernel.h"

/* What is being run; set by the block runner (fiber.c), read by the checks. */
typedef struct {
  const char *kernel;
  uint32_t block, thread; /* flat */
  /* What lies between two barriers of one block is an epoch; none has the number of another. The first of the launch, of
   * the block, and the one that is. */
  uint32_t launch_epoch, block_epoch, epoch;
  uint32_t shared_bytes;
} standin_state;

extern standin_state standin_now;

/* Run every block of a launch; 0, or what the launch failed with: standin_fault_text says more. */
int standin_run(const standin_kernel *kernel, standin_index blocks, standin_index threads, const uint8_t *arguments);
/* Leave the thread that is running, never to come back to it. */
_Noreturn void standin_leave(void);

/* Note what went wrong, unless something did already, and end the launch. */
_Noreturn void standin_fault(const char *what, uint64_t address, uint32_t size, uint32_t line);
extern char standin_fault_text[512];

/* Shared memory of the block that begins: nothing is in it but NaNs. */
void standin_new_block(uint32_t shared_bytes);

/* Device memory: what is left of a block that is handed out piece by piece and never taken back; null: the heap. */
extern uint8_t *standin_arena, *standin_arena_end;
uint64_t standin_allocate(size_t bytes); /* 0: no memory; full of NaNs */
int standin_free(uint64_t address);
int standin_is_inside(uint64_t address, size_t bytes);

#endif /* STANDIN_H */
