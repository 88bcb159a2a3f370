/* qemu_plugin.h - the part of QEMU's plugin interface that is used here. Its version (API) differs between QEMU's releases. */
#ifndef TSM_QEMU_PLUGIN_H
#define TSM_QEMU_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb block;
typedef struct qemu_plugin_insn instruction;

size_t qemu_plugin_tb_n_insns(const block *);
instruction *qemu_plugin_tb_get_insn(const block *, size_t index);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, block *));
void qemu_plugin_register_vcpu_tb_exec_cb(block *, void (*)(unsigned cpu, void *data), int flags, void *data);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *data), void *data);
#if API < 3
const void *qemu_plugin_insn_data(const instruction *);
#else
size_t qemu_plugin_insn_data(const instruction *, void *to, size_t size);
#endif

EXPORT int qemu_plugin_version = API;

#endif /* TSM_QEMU_PLUGIN_H */
