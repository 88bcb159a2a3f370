/* fiber.c - runs the blocks of a launch: a fiber a thread, each going on to its next barrier in turn. */
#include <stdio.h>
#include <stdlib.h>

#include "standin.h"

enum { STACK_BYTES = 1 << 17, MOST_THREADS = 1024, LAUNCH_FAILED = 700 };
enum { RUNNING, AT_BARRIER, DONE };

standin_state standin_now;
char standin_fault_text[512];

static uint8_t *stacks;
static void *scheduler, *fibers[MOST_THREADS];
static uint8_t states[MOST_THREADS];
static int failed;
static const standin_kernel *kernel;
static standin_place place;
static const uint8_t *kernel_arguments;

/* Save what a function must not lose and the stack pointer, take those of another fiber. */
void standin_switch(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl standin_switch\n.hidden standin_switch\nstandin_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
enum { SAVED_WORDS = 7 };
#elif defined(__aarch64__)
__asm__(".text\n.globl standin_switch\n.hidden standin_switch\nstandin_switch:\n"
        "sub sp,sp,#160\n"
        "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
        "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
        "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
        "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
        "add sp,sp,#160\nret\n");
enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
#else
#error "the stand-in driver runs on x86-64 and 64-bit Arm"
#endif

static void leave_as(int state) {
  uint32_t self = standin_now.thread;
  states[self] = (uint8_t)state;
  standin_switch(&fibers[self], scheduler);
}

static void fiber(void) {
  standin_place own = place;
  uint32_t flat = standin_now.thread;
  own.thread.x = flat % own.threads.x;
  own.thread.y = flat / own.threads.x % own.threads.y;
  own.thread.z = flat / own.threads.x / own.threads.y;
  kernel->body(&own, kernel_arguments);
  leave_as(DONE);
}

static void prepare(uint32_t thread) {
  uint64_t *top = (uint64_t *)(void *)(stacks + (size_t)(thread + 1) * STACK_BYTES);
#if defined(__x86_64__)
  *--top = 0; /* the stack of a function that was called is 8 off 16 */
  *--top = (uint64_t)(uintptr_t)fiber;
  top -= SAVED_WORDS - 1;
#else
  top -= SAVED_WORDS;
  top[RETURN_WORD] = (uint64_t)(uintptr_t)fiber;
#endif
  fibers[thread] = top;
  states[thread] = RUNNING;
}

/* For tests: the barrier in this line of the PTX is not there. */
static uint32_t missing_barrier;
__attribute__((visibility("default"))) void standin_remove_barrier(uint32_t line) { missing_barrier = line; }

void standin_barrier(uint32_t line) {
  if (line != missing_barrier) leave_as(AT_BARRIER);
}

_Noreturn void standin_leave(void) {
  leave_as(DONE);
  abort(); /* nobody comes back */
}

_Noreturn void standin_fault(const char *what, uint64_t address, uint32_t size, uint32_t line) {
  if (!failed) {
    failed = 1;
    snprintf(standin_fault_text, sizeof standin_fault_text,
             "%s: %s (%u bytes at 0x%llx, line %u of the PTX, block %u, thread %u)", standin_now.kernel, what, size,
             (unsigned long long)address, line, standin_now.block, standin_now.thread);
    fprintf(stderr, "standin: %s\n", standin_fault_text);
  }
  standin_leave();
}

/* Every thread to its next barrier, or to its end, until all have ended. */
static void run_block(uint32_t threads) {
  standin_now.shared_bytes = kernel->shared_bytes;
  standin_now.block_epoch = standin_now.epoch + 1;
  standin_new_block(kernel->shared_bytes);
  for (uint32_t i = 0; i < threads; ++i) prepare(i);
  for (uint32_t left = threads, waiting; left && !failed;) {
    ++standin_now.epoch;
    waiting = 0;
    for (uint32_t i = 0; i < threads && !failed; ++i) {
      if (states[i] == DONE) continue;
      standin_now.thread = i;
      standin_switch(&scheduler, fibers[i]);
      if (states[i] == DONE)
        --left;
      else
        ++waiting;
    }
    if (!failed && waiting && waiting != threads) {
      failed = 1;
      snprintf(standin_fault_text, sizeof standin_fault_text,
               "%s: %u of %u threads wait at a barrier that the others never reach (block %u)", kernel->name, waiting,
               threads, standin_now.block);
      fprintf(stderr, "standin: %s\n", standin_fault_text);
    }
  }
}

int standin_run(const standin_kernel *chosen, standin_index blocks, standin_index threads, const uint8_t *arguments) {
  if (!stacks && !(stacks = aligned_alloc(64, (size_t)STACK_BYTES * MOST_THREADS))) return 2;
  kernel = chosen;
  kernel_arguments = arguments;
  failed = 0;
  standin_now.kernel = chosen->name;
  standin_now.launch_epoch = standin_now.epoch + 1;
  uint32_t flat = 0;
  for (uint32_t z = 0; z < blocks.z; ++z)
    for (uint32_t y = 0; y < blocks.y; ++y)
      for (uint32_t x = 0; x < blocks.x && !failed; ++x) {
        standin_now.block = flat++;
        place = (standin_place){{0, 0, 0}, threads, {x, y, z}, blocks};
        run_block(threads.x * threads.y * threads.z);
      }
  return failed ? LAUNCH_FAILED : 0;
}
