/* caches.h - shift caches between the caller's float planes and a stream's own memory. Internal. */
#ifndef TSM_CACHES_H
#define TSM_CACHES_H

#include "model.h"

/* What the first frame reads: every value zero. set: one set of caches, cache_bytes long. */
void tsm_caches_reset(unsigned char *set);

/* planes: NCHW, as the ONNX model has it; set: in our layout and element type. */
void tsm_cache_import(const tsm_cache *cache, const float *planes, unsigned char *set);
void tsm_cache_export(const tsm_cache *cache, const unsigned char *set, float *planes);

#endif /* TSM_CACHES_H */
