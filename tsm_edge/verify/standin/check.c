/* check.c - every access of a kernel: inside its memory, aligned, and no race.
 *
 * Races are found by what happened, not by what might: each word remembers who wrote and who read it last. Threads of a
 * block are apart between two barriers, blocks of a launch are apart always. That a warp runs in step is not assumed. */
#include <stdio.h>
#include <stdlib.h>

#include "standin.h"

enum { MOST_ALLOCATIONS = 1024, GUARD = 4096, ALIGNMENT = 256, SHARED_LIMIT = 1 << 18 };

/* Who wrote and who read a place in memory last: in which epoch, which thread. */
typedef struct {
  uint32_t write_epoch, read_epoch;
  uint16_t writer, reader;
} record;

/* In place of a thread: several; with it: blocks of this launch that came before have read, too. */
enum { SEVERAL = 0x4000, OTHER_BLOCKS = 0x8000 };

/* A record for each word, and for each half of a word once there is an access of less than a word. */
typedef struct {
  record *words, *halves;
  size_t n_words;
} history;

typedef struct {
  uint8_t *block, *at; /* as allocated; as handed out */
  size_t bytes;
  history touched;
} allocation;

static uint8_t *shared_memory;
static history shared_history;
static allocation allocations[MOST_ALLOCATIONS];
static uint32_t n_allocations, latest;

/* What is wrong with the thread's reading or writing here, in memory whose history begins with epoch `since`; null:
 * nothing. */
static const char *conflict(const record *past, int store, uint32_t since) {
  const standin_state *now = &standin_now;
  if (past->write_epoch >= since) {
    if (past->write_epoch < now->block_epoch) return store ? "two blocks write" : "read of another block's write";
    if (past->write_epoch == now->epoch && past->writer != now->thread)
      return store ? "two threads write" : "read of another thread's write";
  }
  if (store && past->read_epoch >= since) {
    if (past->read_epoch < now->block_epoch || past->reader & OTHER_BLOCKS) return "write where another block reads";
    if (past->read_epoch == now->epoch && past->reader != now->thread) return "write where another thread reads";
  }
  return NULL;
}

static void note(record *past, int store, uint32_t since) {
  const standin_state *now = &standin_now;
  uint16_t self = (uint16_t)now->thread;
  if (store) {
    past->writer = self;
    past->write_epoch = now->epoch;
    return;
  }
  int others = past->read_epoch >= since && (past->reader & OTHER_BLOCKS || past->read_epoch < now->block_epoch);
  int several = past->read_epoch == now->epoch && (past->reader & ~OTHER_BLOCKS) != self;
  past->reader = (uint16_t)((several ? SEVERAL : self) | (others ? OTHER_BLOCKS : 0));
  past->read_epoch = now->epoch;
}

static void touch(history *of, int is_shared, uint64_t offset, uint32_t size, uint32_t line, int store) {
  uint32_t since = is_shared ? standin_now.block_epoch : standin_now.launch_epoch;
  if (size < 4 && !of->halves && !(of->halves = calloc(2 * of->n_words, sizeof *of->halves))) abort();
  const char *wrong = NULL;
  for (uint64_t i = offset / 4; i < (offset + size + 3) / 4 && !wrong; ++i) {
    wrong = conflict(&of->words[i], store, since);
    if (size < 4) {
      record *half = &of->halves[offset / 2];
      if (!wrong) wrong = conflict(half, store, since);
      note(half, store, since);
      continue;
    }
    for (int half = 0; of->halves && half < 2 && !wrong; ++half) wrong = conflict(&of->halves[2 * i + half], store, since);
    note(&of->words[i], store, since);
  }
  if (!wrong) return;
  char what[80];
  snprintf(what, sizeof what, "%s race, %s", is_shared ? "shared" : "global", wrong);
  standin_fault(what, offset, size, line);
}

/* Without words: there is no memory. */
static history new_history(size_t bytes) {
  size_t words = bytes / 4 + 1;
  return (history){calloc(words, sizeof(record)), NULL, words};
}

/* Traces ----------------------------------------------------------------------------------------------------------- */

/* For tests: the accesses of one block, in the order in which each thread made them. */
typedef struct {
  uint64_t address; /* of shared memory: from its start */
  uint32_t thread, line, bytes, is_shared;
} traced;

static traced *trace;
static size_t trace_room, trace_length;
static uint32_t trace_block;

__attribute__((visibility("default"))) void standin_trace(traced *into, size_t room, uint32_t block) {
  trace = into, trace_room = room, trace_length = 0, trace_block = block;
}

/* How many there were; more than there was room for: the rest is not there. */
__attribute__((visibility("default"))) size_t standin_traced(void) { return trace_length; }

static void note_access(uint64_t address, uint32_t size, uint32_t line, int is_shared) {
  if (!trace || standin_now.block != trace_block) return;
  if (trace_length < trace_room)
    trace[trace_length] = (traced){address, standin_now.thread, line, size, (uint32_t)is_shared};
  ++trace_length;
}

/* Shared memory ---------------------------------------------------------------------------------------------------- */

void standin_new_block(uint32_t bytes) {
  if (!shared_memory) {
    shared_memory = aligned_alloc(ALIGNMENT, SHARED_LIMIT);
    shared_history = new_history(SHARED_LIMIT);
    if (!shared_memory || !shared_history.words) abort();
  }
  memset(shared_memory, 0xff, bytes); /* as floats and as halves: not a number */
}

static uint8_t *shared_at(uint64_t address, uint32_t size, uint32_t line, int store) {
  uint64_t offset = address - STANDIN_SHARED;
  if (offset + size > standin_now.shared_bytes || offset >= standin_now.shared_bytes)
    standin_fault(store ? "shared store outside" : "shared load outside", offset, size, line);
  if (offset % size) standin_fault(store ? "shared store not aligned" : "shared load not aligned", offset, size, line);
  touch(&shared_history, 1, offset, size, line, store);
  note_access(offset, size, line, 1);
  return shared_memory + offset;
}

const uint8_t *standin_load_shared(uint64_t address, uint32_t size, uint32_t line) {
  return shared_at(address, size, line, 0);
}

uint8_t *standin_store_shared(uint64_t address, uint32_t size, uint32_t line) {
  return shared_at(address, size, line, 1);
}

uint8_t *standin_local(uint64_t address, uint32_t size, uint32_t line, void *base, uint32_t bytes) {
  uint64_t offset = address - (uint64_t)(uintptr_t)base;
  if (offset + size > bytes || offset >= bytes) standin_fault("local access outside", offset, size, line);
  if (offset % size) standin_fault("local access not aligned", offset, size, line);
  return (uint8_t *)base + offset;
}

/* Global memory ---------------------------------------------------------------------------------------------------- */

uint8_t *standin_arena, *standin_arena_end;

static void *take(size_t bytes) {
  if (!standin_arena) return malloc(bytes);
  if ((size_t)(standin_arena_end - standin_arena) < bytes) return NULL;
  uint8_t *taken = standin_arena;
  standin_arena += bytes;
  return taken;
}

static void give_back(void *block) {
  if (!standin_arena) free(block);
}

uint64_t standin_allocate(size_t bytes) {
  if (n_allocations == MOST_ALLOCATIONS) return 0;
  allocation *made = &allocations[n_allocations];
  made->block = take(bytes + 2 * GUARD + ALIGNMENT);
  made->touched = new_history(bytes);
  if (!made->block || !made->touched.words) {
    give_back(made->block);
    free(made->touched.words);
    return 0;
  }
  uint64_t at = ((uint64_t)(uintptr_t)made->block + GUARD + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
  made->at = (uint8_t *)(uintptr_t)at;
  made->bytes = bytes;
  memset(made->at, 0xff, bytes);
  ++n_allocations;
  return at;
}

static allocation *around(uint64_t address, size_t bytes) {
  for (uint32_t i = 0; i < n_allocations; ++i) {
    allocation *tried = &allocations[(latest + i) % n_allocations];
    uint64_t offset = address - (uint64_t)(uintptr_t)tried->at;
    if (offset <= tried->bytes && bytes <= tried->bytes - offset) {
      latest = (uint32_t)(tried - allocations);
      return tried;
    }
  }
  return NULL;
}

int standin_is_inside(uint64_t address, size_t bytes) { return around(address, bytes) != NULL; }

int standin_free(uint64_t address) {
  allocation *found = around(address, 0);
  if (!found || (uint64_t)(uintptr_t)found->at != address) return 0;
  give_back(found->block);
  free(found->touched.words);
  free(found->touched.halves);
  *found = allocations[--n_allocations];
  latest = 0;
  return 1;
}

static uint8_t *global_at(uint64_t address, uint32_t size, uint32_t line, int store) {
  allocation *found = around(address, size);
  for (uint32_t i = 0; !found && !store && i < standin_n_constants; ++i) {
    uint64_t offset = address - (uint64_t)(uintptr_t)standin_constants[i].at;
    if (offset + size <= standin_constants[i].bytes && offset % size == 0) return (uint8_t *)(uintptr_t)address;
  }
  if (!found) standin_fault(store ? "global store outside" : "global load outside", address, size, line);
  if (address % size) standin_fault(store ? "global store not aligned" : "global load not aligned", address, size, line);
  uint64_t offset = address - (uint64_t)(uintptr_t)found->at;
  touch(&found->touched, 0, offset, size, line, store);
  note_access(address, size, line, 0);
  return (uint8_t *)(uintptr_t)address;
}

const uint8_t *standin_load_global(uint64_t address, uint32_t size, uint32_t line) {
  return global_at(address, size, line, 0);
}

uint8_t *standin_store_global(uint64_t address, uint32_t size, uint32_t line) {
  return global_at(address, size, line, 1);
}

static int is_shared(uint64_t address) {
  return address >= STANDIN_SHARED && address < STANDIN_SHARED + (uint64_t)SHARED_LIMIT;
}

const uint8_t *standin_load_generic(uint64_t address, uint32_t size, uint32_t line) {
  return is_shared(address) ? shared_at(address, size, line, 0) : global_at(address, size, line, 0);
}

uint8_t *standin_store_generic(uint64_t address, uint32_t size, uint32_t line) {
  return is_shared(address) ? shared_at(address, size, line, 1) : global_at(address, size, line, 1);
}
