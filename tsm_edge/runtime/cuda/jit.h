/* jit.h - the driver's compiler: what it makes of PTX is kept where it can be, and long work is announced. Internal. */
#ifndef TSM_CUDA_JIT_H
#define TSM_CUDA_JIT_H

#include <stdint.h>

typedef struct tsm_jit tsm_jit;

/* Say on stderr, if the compiler is still at work after a second, what it does. Null: it will not be said. */
tsm_jit *tsm_jit_begin(int32_t kernels);

/* It is done; null is allowed. */
void tsm_jit_end(tsm_jit *announced, int succeeded);

/* Before the driver is loaded, by one thread: where its cache could not be written, name another folder. */
void tsm_jit_place_cache(void);

#endif /* TSM_CUDA_JIT_H */
