/* Multiprocessors of four schedulers, cycle by cycle. Every warp follows the same trace of instructions, in order, with
 * the stall counts, wait masks and barriers of the machine code. One issue a cycle and scheduler (two where the
 * assembler marked it), bank conflicts cost slots; one pipe each for shared memory, textures and L1, L2, and DRAM. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum kind { ARITHMETIC, SHIFT, COMPARE, QUARTER, LOAD_SHARED, STORE_SHARED, LOAD, STORE, BARRIER, BRANCH, OTHER };

typedef struct {
  int32_t kind, stall, write_barrier, read_barrier, wait_mask, conflict, bytes, wavefronts;
  float missed; /* share of its bytes that come from DRAM */
} instruction;

typedef struct {
  double dram_bytes, l2_bytes, l1_bytes; /* a cycle */
  int32_t l2_latency, dram_latency, shared_latency, block_start, multiprocessors;
} machine;

typedef struct {
  int at, block, done, waiting;
  int64_t next, barriers[6];
} warp;
typedef struct {
  int left, arrived;
} block;

typedef struct {
  double shared, l1;
  int64_t issue[4], half[4], quarter[4];
  int last[4];
} multiprocessor;

typedef struct {
  const instruction *code;
  const int32_t *trace;
  int length, warps, resident;
  const machine *m;
  warp *w;
  block *b;
  multiprocessor *s;
  double dram, l2;
  int64_t now, soon;
  int blocks, launched, finished;
} state;

static void earliest(state *x, int64_t when) {
  if (when < x->soon) x->soon = when;
}

static double later(double a, double b) { return a > b ? a : b; }

static void until(warp *w, int barrier, int64_t when) {
  if (barrier >= 0 && w->barriers[barrier] < when) w->barriers[barrier] = when;
}

/* Whether a warp can issue now; else when it might is noted. */
static int ready(state *x, multiprocessor *s, int q, const warp *w) {
  if (w->done || w->waiting) return 0;
  if (w->next > x->now) return earliest(x, w->next), 0;
  const instruction *i = &x->code[x->trace[w->at]];
  int64_t when = 0;
  for (int k = 0; k < 6; ++k)
    if (i->wait_mask >> k & 1 && w->barriers[k] > x->now && w->barriers[k] > when) when = w->barriers[k];
  if (when) return earliest(x, when), 0;
  if ((i->kind == SHIFT || i->kind == COMPARE) && s->half[q] > x->now) return earliest(x, s->half[q]), 0;
  if (i->kind == QUARTER && s->quarter[q] > x->now) return earliest(x, s->quarter[q]), 0;
  if ((i->kind == LOAD_SHARED || i->kind == STORE_SHARED) && s->shared > x->now + 64) {
    int64_t free = (int64_t)s->shared - 64;
    return earliest(x, free <= x->now ? x->now + 1 : free), 0;
  }
  if ((i->kind == LOAD || i->kind == STORE) && (s->l1 > x->now + 256 || x->dram > x->now + 4000))
    return earliest(x, x->now + 8), 0;
  return 1;
}

static void access_memory(state *x, multiprocessor *s, warp *w, const instruction *i) {
  const machine *m = x->m;
  double start = later(s->l1, x->now), work = i->bytes / m->l1_bytes;
  s->l1 = start + work;
  x->l2 = later(x->l2, s->l1) + i->bytes / m->l2_bytes;
  double missed = i->bytes * i->missed;
  int64_t done = (int64_t)x->l2 + m->l2_latency;
  if (missed > 0) {
    x->dram = later(x->dram, x->l2) + missed / m->dram_bytes;
    done = (int64_t)x->dram + (i->missed > 0.3 ? m->dram_latency : m->l2_latency);
  }
  if (i->kind == STORE) done = (int64_t)x->l2 + 30;
  until(w, i->write_barrier, done);
  until(w, i->read_barrier, (int64_t)(start + work) + 20);
}

static void access_shared(state *x, multiprocessor *s, warp *w, const instruction *i) {
  s->shared = later(s->shared, x->now) + i->wavefronts;
  until(w, i->write_barrier, (int64_t)s->shared + x->m->shared_latency);
  until(w, i->read_barrier, (int64_t)s->shared + 8);
}

/* The warp's block is done with it; the next block takes the place of a whole one. */
static void end_warp(state *x, int which, warp *w) {
  block *b = &x->b[which];
  w->done = 1;
  if (--b->left) return;
  x->finished++;
  if (x->launched == x->blocks) return;
  x->launched++;
  *b = (block){x->warps, 0};
  for (int k = 0; k < x->warps; ++k)
    x->w[which * x->warps + k] = (warp){.block = which, .next = x->now + x->m->block_start};
}

static void arrive(state *x, warp *w, int stall) {
  block *b = &x->b[w->block];
  w->waiting = 1;
  w->next = x->now + (stall ? stall : 1);
  if (++b->arrived < b->left) return;
  b->arrived = 0;
  for (int k = 0; k < x->warps; ++k) {
    warp *other = &x->w[w->block * x->warps + k];
    other->waiting = 0;
    if (other->next < x->now + 6) other->next = x->now + 6;
  }
}

/* Issue an instruction, and the next with it where the assembler paired them; returns the slots used. */
static int64_t issue(state *x, multiprocessor *s, int q, warp *w) {
  int64_t slots = 1;
  for (int second = 0; second < 2; ++second) {
    const instruction *i = &x->code[x->trace[w->at]];
    int stall = i->stall;
    slots += i->conflict;
    if (i->kind == SHIFT || i->kind == COMPARE) s->half[q] = x->now + 2;
    if (i->kind == QUARTER) s->quarter[q] = x->now + 4, until(w, i->write_barrier, x->now + 20);
    if (i->kind == LOAD_SHARED || i->kind == STORE_SHARED) access_shared(x, s, w, i);
    if (i->kind == LOAD || i->kind == STORE) access_memory(x, s, w, i);
    if (i->kind == OTHER) until(w, i->write_barrier, x->now + 30);
    w->at++;
    if (i->kind == BARRIER) arrive(x, w, stall), stall = 1;
    if (i->kind == BRANCH && stall < 8) stall = 8;
    if (w->at == x->length) return end_warp(x, w->block, w), slots;
    if (stall || second) {
      w->next = w->waiting ? x->now + 1 : w->next > x->now + stall ? w->next : x->now + (stall ? stall : 1);
      break;
    }
  }
  return slots;
}

static int schedule(state *x, int which, int q) {
  multiprocessor *s = &x->s[which];
  if (s->issue[q] > x->now) return earliest(x, s->issue[q]), 0;
  int all = x->warps * x->resident, mine = (all - q + 3) / 4;
  for (int k = 0; k < mine; ++k) {
    int j = (s->last[q] + k) % mine;
    warp *w = &x->w[which * all + j * 4 + q];
    if (!ready(x, s, q, w)) continue;
    s->last[q] = j;
    s->issue[q] = x->now + issue(x, s, q, w);
    return 1;
  }
  return 0;
}

/* Cycles of a launch of ``blocks`` blocks of ``warps`` warps, ``resident`` of them on a multiprocessor at a time. */
int64_t simulate(const instruction *code, const int32_t *trace, int length, int warps, int blocks, int resident,
                 const machine *m) {
  int places = resident * m->multiprocessors;
  state x = {.code = code, .trace = trace, .length = length, .warps = warps, .resident = resident, .m = m, .blocks = blocks};
  x.w = calloc((size_t)places * (size_t)warps, sizeof *x.w);
  x.b = calloc((size_t)places, sizeof *x.b);
  x.s = calloc((size_t)m->multiprocessors, sizeof *x.s);
  for (int k = 0; k < places * warps; ++k) x.w[k].done = 1;
  for (int r = 0; r < resident; ++r)
    for (int s = 0; s < m->multiprocessors && x.launched < blocks; ++s, ++x.launched) {
      int place = s * resident + r;
      x.b[place] = (block){warps, 0};
      for (int k = 0; k < warps; ++k) x.w[place * warps + k] = (warp){.block = place};
    }
  while (x.finished < blocks) {
    int any = 0;
    x.soon = INT64_MAX;
    for (int s = 0; s < m->multiprocessors; ++s)
      for (int q = 0; q < 4; ++q) any |= schedule(&x, s, q);
    x.now = any || x.soon == INT64_MAX || x.soon <= x.now ? x.now + 1 : x.soon;
  }
  int64_t cycles = (int64_t)later(x.dram, (double)x.now);
  free(x.w), free(x.b), free(x.s);
  return cycles;
}
