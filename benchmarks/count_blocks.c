/* count_blocks.c - a QEMU plugin: which blocks of guest instructions were executed, and how often, into the file that
 * TSM_BLOCKS names: a line for each, its count and its instructions as hexadecimal words. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu_plugin.h"

/* A translation; the same instructions may be translated again. */
typedef struct record {
  struct record *next;
  uint64_t executed;
  size_t length;
  uint32_t words[];
} record;

static record *records;

static void executed(unsigned cpu, void *data) {
  (void)cpu;
  __atomic_fetch_add(&((record *)data)->executed, 1, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, block *block) {
  (void)id;
  size_t length = qemu_plugin_tb_n_insns(block);
  record *made = calloc(1, sizeof *made + length * sizeof made->words[0]);
  if (!made) abort();
  made->length = length;
  for (size_t index = 0; index < length; ++index) {
    const instruction *found = qemu_plugin_tb_get_insn(block, index);
#if API < 3
    memcpy(&made->words[index], qemu_plugin_insn_data(found), sizeof made->words[0]);
#else
    qemu_plugin_insn_data(found, &made->words[index], sizeof made->words[0]);
#endif
  }
  do
    made->next = __atomic_load_n(&records, __ATOMIC_RELAXED);
  while (!__sync_bool_compare_and_swap(&records, made->next, made));
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, made);
}

static void finished(plugin_id id, void *data) {
  (void)id, (void)data;
  const char *path = getenv("TSM_BLOCKS");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) abort();
  for (const record *each = records; each; each = each->next) {
    fprintf(file, "%llu", (unsigned long long)each->executed);
    for (size_t index = 0; index < each->length; ++index) fprintf(file, " %08x", (unsigned)each->words[index]);
    fputc('\n', file);
  }
  if (fclose(file)) abort();
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
