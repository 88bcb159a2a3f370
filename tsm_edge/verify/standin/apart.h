/* apart.h - what a driver under an emulator and the GPU that is a process of this machine say to each other. Internal.
 *
 * The GPU's memory is a file that both have at the same address: addresses mean the same to both, and a copy to the
 * device is a copy. All else is a question and its answer, each of fixed size, through two pipes. */
#ifndef STANDIN_APART_H
#define STANDIN_APART_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "standin.h"

enum { APART_RUN, APART_ALLOCATE, APART_FREE, APART_IS_INSIDE, APART_PATH = 4096 };

#define APART_MEMORY ((uint8_t *)(uintptr_t)UINT64_C(0x200000000000))
#define APART_BYTES ((size_t)1 << 32)

typedef struct {
  uint32_t what, module, kernel;
  standin_index blocks, threads;
  uint64_t address, bytes;
  uint8_t arguments[STANDIN_ARGUMENT_BYTES];
} apart_question;

typedef struct {
  uint64_t value;
  char fault[512]; /* of a launch that failed */
} apart_answer;

/* Files of the folder that both know. */
static inline int apart_open(const char *folder, const char *name, int flags) {
  char path[APART_PATH];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int file;
  while ((file = open(path, flags)) < 0 && errno == EINTR) continue;
  return file;
}

/* 0: it cannot be had at that address. */
static inline int apart_map(const char *folder) {
  int file = apart_open(folder, "memory", O_RDWR);
  if (file < 0) return 0;
  void *at = mmap(APART_MEMORY, APART_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  close(file);
  return at == APART_MEMORY;
}

/* Everything or nothing: 0 where the other side has ended. */
static inline int apart_transfer(int file, void *bytes, size_t count, int out) {
  for (uint8_t *at = bytes; count;) {
    ssize_t done = out ? write(file, at, count) : read(file, at, count);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return 0;
    at += done, count -= (size_t)done;
  }
  return 1;
}

#endif /* STANDIN_APART_H */
