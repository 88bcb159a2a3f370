/* caches.c - shift caches: float planes outside, our layout and element type inside. */
#include "caches.h"

#include <string.h>

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* IEEE 754 binary16, on machines without it too: exact, small values, infinities and NaN included. */
static float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = (uint32_t)(half & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return float_of(sign | 0x7f800000u | rest); /* infinity, NaN */
  return float_of(sign | bits_of(float_of(rest) * 0x1p112f));            /* the exponent's bias is 112 less */
}

/* Rounded to nearest, ties to even. */
static uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
  if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more */
  if (rest < 0x38800000u) {                                   /* below 2^-14: a multiple of 2^-24 */
    const float aligned = float_of(rest) + 0.5f;              /* whose last place is 2^-24 */
    return (uint16_t)(sign | (bits_of(aligned) - bits_of(0.5f)));
  }
  return (uint16_t)(sign | (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1u)) >> 13);
}

static unsigned char float_to_byte(const tsm_cache *cache, float value) {
  float level = value / cache->scale + (float)cache->zero;
  if (!(level >= 0.0f)) level = level < 0.0f ? 0.0f : (float)cache->zero; /* NaN has no level */
  if (level > 255.0f) level = 255.0f;
  return (unsigned char)((unsigned char)(level + 0.5f) ^ cache->flip);
}

static float byte_to_float(const tsm_cache *cache, unsigned char byte) {
  return (float)((int32_t)(byte ^ cache->flip) - cache->zero) * cache->scale;
}

void tsm_caches_reset(unsigned char *set) {
  const tsm_model *model = &tsm_the_model;
  memset(set, 0, model->cache_bytes);
  for (int32_t i = 0; i < model->n_caches; ++i) {
    const tsm_cache *cache = &model->caches[i];
    if (cache->form == TSM_BYTE)
      memset(set + cache->offset, (int)cache->zero ^ cache->flip,
             (size_t)cache->height * (size_t)cache->width * (size_t)cache->pixel);
  }
}

void tsm_cache_import(const tsm_cache *cache, const float *planes, unsigned char *set) {
  const size_t area = (size_t)cache->height * (size_t)cache->width, pixel = (size_t)cache->pixel;
  const size_t channel = (size_t)cache->channel;
  void *start = set + cache->offset;
  for (size_t c = 0; c < (size_t)cache->channels; ++c)
    for (size_t i = 0; i < area; ++i) {
      const float value = planes[c * area + i];
      const size_t at = i * pixel + c * channel;
      if (cache->form == TSM_FLOAT) ((float *)start)[at] = value;
      if (cache->form == TSM_HALF) ((uint16_t *)start)[at] = float_to_half(value);
      if (cache->form == TSM_BYTE) ((unsigned char *)start)[at] = float_to_byte(cache, value);
    }
}

void tsm_cache_export(const tsm_cache *cache, const unsigned char *set, float *planes) {
  const size_t area = (size_t)cache->height * (size_t)cache->width, pixel = (size_t)cache->pixel;
  const size_t channel = (size_t)cache->channel;
  const void *start = set + cache->offset;
  for (size_t c = 0; c < (size_t)cache->channels; ++c)
    for (size_t i = 0; i < area; ++i) {
      const size_t at = i * pixel + c * channel;
      float *value = &planes[c * area + i];
      if (cache->form == TSM_FLOAT) *value = ((const float *)start)[at];
      if (cache->form == TSM_HALF) *value = half_to_float(((const uint16_t *)start)[at]);
      if (cache->form == TSM_BYTE) *value = byte_to_float(cache, ((const unsigned char *)start)[at]);
    }
}
