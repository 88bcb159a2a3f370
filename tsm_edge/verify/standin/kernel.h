/* kernel.h - what the kernels of a stand-in driver are, and what they call. Internal.
 *
 * kernels.c is generated from the PTX that is shipped: a C function for one thread of each kernel. Registers are raw
 * bits; every access to memory goes through a check. */
#ifndef STANDIN_KERNEL_H
#define STANDIN_KERNEL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
  uint32_t x, y, z;
} standin_index;

typedef struct {
  standin_index thread, threads, block, blocks;
} standin_place;

typedef void (*standin_body)(const standin_place *at, const uint8_t *arguments);

enum { STANDIN_MOST_ARGUMENTS = 32, STANDIN_ARGUMENT_BYTES = 8 * STANDIN_MOST_ARGUMENTS };

typedef struct {
  const char *name;
  standin_body body;
  uint32_t n_arguments;
  uint8_t sizes[STANDIN_MOST_ARGUMENTS];     /* of the arguments, bytes */
  uint16_t offsets[STANDIN_MOST_ARGUMENTS];  /* and where each begins */
  uint32_t most_threads; /* .maxntid; 0: any number */
  uint32_t shared_bytes;
} standin_kernel;

/* Where the GPU is another process only that has the bodies. */
#ifdef STANDIN_ASKING
#define STANDIN_BODY(name) NULL
#else
#define STANDIN_BODY(name) name
#endif

/* A text or binary that the driver may be given to load. */
typedef struct {
  size_t bytes;
  uint64_t hash; /* FNV-1a */
} standin_image;

typedef struct {
  const standin_kernel *kernels;
  uint32_t n_kernels;
  int32_t version; /* of the PTX: 64 for 6.4 */
  standin_image ptx, cubin; /* cubin.bytes 0: there is none */
} standin_module;

extern const standin_module standin_modules[];
extern const uint32_t standin_n_modules;

/* The arrays that modules bring with them: kernels read them like any other memory. */
typedef struct {
  const uint8_t *at;
  size_t bytes;
} standin_constant;

extern const standin_constant standin_constants[];
extern const uint32_t standin_n_constants;

/* Addresses of shared memory, as a kernel sees them: a window of the address space. */
#define STANDIN_SHARED 0x10000000u

/* Bytes for an access of `size` bytes in `line` of the PTX; checked. */
const uint8_t *standin_load_shared(uint64_t address, uint32_t size, uint32_t line);
const uint8_t *standin_load_global(uint64_t address, uint32_t size, uint32_t line);
const uint8_t *standin_load_generic(uint64_t address, uint32_t size, uint32_t line);
uint8_t *standin_store_shared(uint64_t address, uint32_t size, uint32_t line);
uint8_t *standin_store_global(uint64_t address, uint32_t size, uint32_t line);
uint8_t *standin_store_generic(uint64_t address, uint32_t size, uint32_t line);
/* A thread's own array: `bytes` from `base`. */
uint8_t *standin_local(uint64_t address, uint32_t size, uint32_t line, void *base, uint32_t bytes);
void standin_barrier(uint32_t line);

/* From bits to numbers and back. */
static inline float standin_f32(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline uint32_t standin_bits_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
static inline double standin_f64(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline uint64_t standin_bits_f64(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
static inline float standin_f16(uint16_t bits) {
  _Float16 value;
  memcpy(&value, &bits, sizeof value);
  return (float)value;
}
static inline uint16_t standin_bits_f16(double value) {
  _Float16 rounded = (_Float16)value;
  uint16_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

/* A NaN becomes 0, as in PTX. */
static inline float standin_saturate(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
/* min.NaN, max.NaN: where one is no number, the result is none. */
static inline float standin_min_nan(float x, float y) { return isnan(x) || isnan(y) ? NAN : fminf(x, y); }
static inline float standin_max_nan(float x, float y) { return isnan(x) || isnan(y) ? NAN : fmaxf(x, y); }
/* .rz: towards zero. The exact value is known to double precision. */
static inline float standin_toward_zero(double exact) {
  float rounded = (float)exact;
  return fabs((double)rounded) > fabs(exact) ? nextafterf(rounded, 0.f) : rounded;
}
/* The product of two halves is exact in double precision, and the sum as good as: one rounding. */
static inline uint16_t standin_fma_f16(uint16_t a, uint16_t b, uint16_t c) {
  return standin_bits_f16((double)standin_f16(a) * (double)standin_f16(b) + (double)standin_f16(c));
}
static inline uint32_t standin_pair(uint16_t low, uint16_t high) { return (uint32_t)low | (uint32_t)high << 16; }
static inline uint32_t standin_fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  return standin_pair(standin_fma_f16((uint16_t)a, (uint16_t)b, (uint16_t)c),
                      standin_fma_f16((uint16_t)(a >> 16), (uint16_t)(b >> 16), (uint16_t)(c >> 16)));
}
/* Float to integer, the nearest that there is; a NaN becomes 0. */
static inline int64_t standin_to_signed(double value, int bits) {
  double limit = ldexp(1.0, bits - 1);
  if (isnan(value)) return 0;
  if (value >= limit) return INT64_MAX >> (64 - bits);
  return value < -limit ? -(INT64_MAX >> (64 - bits)) - 1 : (int64_t)value;
}
static inline uint64_t standin_to_unsigned(double value, int bits) {
  if (isnan(value) || value <= 0) return 0;
  return value >= ldexp(1.0, bits) ? ~UINT64_C(0) >> (64 - bits) : (uint64_t)value;
}
/* The byte permutation of prmt, of which each selector may ask for a byte's sign. */
static inline uint32_t standin_permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t which = selector >> (4 * i), byte = (uint32_t)(bytes >> (8 * (which & 7))) & 255;
    if (which & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
/* lop3: any function of three bits, by its table. */
static inline uint32_t standin_lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) {
    uint32_t row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
    result |= (table >> row & 1) << i;
  }
  return result;
}
/* Shifts by more than the width leave nothing, or the sign. */
static inline uint64_t standin_left(uint64_t value, uint32_t by, uint32_t bits) { return by >= bits ? 0 : value << by; }
static inline uint64_t standin_right(uint64_t value, uint32_t by, uint32_t bits) { return by >= bits ? 0 : value >> by; }
static inline int64_t standin_right_signed(int64_t value, uint32_t by, uint32_t bits) {
  return value >> (by >= bits ? bits - 1 : by);
}
static inline uint32_t standin_extract(uint32_t value, uint32_t at, uint32_t length) {
  at &= 255, length &= 255;
  return at > 31 || !length ? 0 : value >> at & (length > 31 ? ~0u : (1u << length) - 1);
}
/* bfi: the lowest `length` bits of a, put into b from bit `at`. */
static inline uint32_t standin_insert(uint32_t a, uint32_t b, uint32_t at, uint32_t length) {
  at &= 255, length &= 255;
  if (at > 31 || !length) return b;
  uint32_t mask = (length > 31 ? ~0u : (1u << length) - 1) << at;
  return (b & ~mask) | (a << at & mask);
}
static inline uint32_t standin_funnel(uint32_t low, uint32_t high, uint32_t by, int left) {
  uint64_t both = (uint64_t)high << 32 | low;
  return left ? (uint32_t)(both << (by & 31) >> 32) : (uint32_t)(both >> (by & 31));
}

#endif /* STANDIN_KERNEL_H */
