/* count_instructions.c - a QEMU plugin: how many instructions of the guest were executed, on stderr at the end.
 *
 * Blocks are counted when they begin, by their length. The declarations are of QEMU's plugin interface, whose version
 * (API) differs between QEMU's releases; what is used here is in all of them. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb block;

size_t qemu_plugin_tb_n_insns(const block *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, block *));
void qemu_plugin_register_vcpu_tb_exec_cb(block *, void (*)(unsigned cpu, void *data), int flags, void *data);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *data), void *data);

EXPORT int qemu_plugin_version = API;

static uint64_t instructions;

static void executed(unsigned cpu, void *length) {
  (void)cpu;
  __atomic_fetch_add(&instructions, (uintptr_t)length, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, block *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void finished(plugin_id id, void *data) {
  (void)id, (void)data;
  fprintf(stderr, "instructions: %llu\n", (unsigned long long)instructions);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
