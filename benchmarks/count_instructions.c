/* count_instructions.c - a QEMU plugin: how many instructions of the guest were executed, and how many of them were
 * multiply-adds of vectors, on stderr at the end: FMLA of floats of any size, SDOT and UDOT of bytes, and the widening
 * multiplications (SMULL, SMLAL, UMULL, UMLAL) that integers take where there are no dot products.
 *
 * Blocks are counted when they begin, by their length. */
#include <stdio.h>
#include <string.h>

#include "qemu_plugin.h"

static uint64_t instructions, multiply_adds;

/* A block's two lengths in one word. */
static const int HALF = 32;

/* Encodings, from the Arm Architecture Reference Manual: of vectors, and of a vector by an element. */
static const struct {
  uint32_t mask, value;
} multiplications[] = {
    {0xBFA0FC00, 0x0E20CC00}, {0xBF80F400, 0x0F801000}, /* FMLA, single and double precision */
    {0xBFE0FC00, 0x0E400C00}, {0xBFC0F400, 0x0F001000}, /* FMLA, half precision */
    {0x9FE0FC00, 0x0E809400}, {0x9FC0F400, 0x0F80E000}, /* SDOT, UDOT */
    {0x9F20FC00, 0x0E20C000}, {0x9F00F400, 0x0F00A000}, /* SMULL, UMULL */
    {0x9F20FC00, 0x0E208000}, {0x9F00F400, 0x0F002000}, /* SMLAL, UMLAL */
};

static int is_multiply_add(const instruction *found) {
  uint32_t word = 0;
#if API < 3
  memcpy(&word, qemu_plugin_insn_data(found), sizeof word);
#else
  qemu_plugin_insn_data(found, &word, sizeof word);
#endif
  for (size_t index = 0; index < sizeof multiplications / sizeof *multiplications; ++index)
    if ((word & multiplications[index].mask) == multiplications[index].value)
      return 1;
  return 0;
}

static void executed(unsigned cpu, void *lengths) {
  (void)cpu;
  __atomic_fetch_add(&instructions, (uint32_t)(uintptr_t)lengths, __ATOMIC_RELAXED);
  __atomic_fetch_add(&multiply_adds, (uintptr_t)lengths >> HALF, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, block *block) {
  (void)id;
  uintptr_t count = qemu_plugin_tb_n_insns(block), lengths = count;
  for (size_t index = 0; index < count; ++index)
    lengths += (uintptr_t)is_multiply_add(qemu_plugin_tb_get_insn(block, index)) << HALF;
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)lengths);
}

static void finished(plugin_id id, void *data) {
  (void)id, (void)data;
  fprintf(stderr, "instructions: %llu\nmultiply-adds: %llu\n", (unsigned long long)instructions,
          (unsigned long long)multiply_adds);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
