/* model.h - what the generated model.c tells the runtime: the program as tables. Internal. */
#ifndef TSM_MODEL_H
#define TSM_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum tsm_space {
  TSM_FRAME,
  TSM_WORKSPACE,
  TSM_WEIGHTS,
  TSM_CACHE,
  TSM_NEXT_CACHE,
  TSM_SCRATCH,    /* of a CPU's thread */
  TSM_FRAME_BYTES /* on a GPU */
};

/* A kernel argument: bytes from the start of its space. */
typedef struct {
  uint32_t space;
  uint32_t offset;
} tsm_ref;

/* Where the stages of one call of a fused kernel write how long they took. */
typedef struct tsm_clock tsm_clock;

/* Called by such a kernel, if it was given a clock, at the end of a stage. */
void tsm_stage_done(tsm_clock *clock, int32_t stage);

/* Does work items begin ... end - 1; buffers in the kernel's own order. resumed: this thread has just done the items
 * before, and its scratch memory is as they left it. clock: null, or to be told of every stage's end. */
typedef void (*tsm_kernel)(void *const *buffers, int32_t begin, int32_t end, int32_t resumed, tsm_clock *clock);

enum { TSM_MAX_BUFFERS = 12 }; /* a call with more does not compile */

typedef struct {
  tsm_kernel run;
  int32_t items;
  int32_t grain;   /* fewest items worth taking from another thread */
  int32_t resumes; /* going on with one's own items costs nothing, however few are taken at a time */
  int32_t n_stages; /* that a fused kernel tells its clock of */
  int32_t n_buffers;
  tsm_ref buffers[TSM_MAX_BUFFERS];
} tsm_call;

/* Bytes behind a set of caches that a kernel may read, and throw away: it loads whole vectors. */
enum { TSM_READ_BEHIND = 64 };

enum tsm_form { TSM_FLOAT, TSM_HALF, TSM_BYTE };

/* A shift cache: NCHW float [1, channels, height, width] outside; inside `pixel` elements from one pixel to the next, and
 * `channel` from one channel to the next: 1 on a CPU (NHWC), a plane on a GPU. */
typedef struct {
  const char *input;
  const char *output;
  int32_t channels, height, width, pixel, channel;
  uint32_t offset;     /* bytes from the start of the cache block */
  enum tsm_form form;  /* of its elements inside */
  float scale;         /* of bytes: (byte ^ flip) - zero, times scale, is the value */
  int32_t zero, flip;
} tsm_cache;

/* An output of a step, float32 without gaps; of several clips, one clip's after another's. */
typedef struct {
  const char *name;
  int64_t shape[4];
  int32_t rank;
  uint32_t offset; /* bytes from the start of the workspace, where a clip's part is made */
} tsm_output_info;

typedef struct tsm_model {
  const char *manifest;
  const char *frame_name;
  const char *logits_name;
  int64_t frame_shape[4]; /* of a step */
  int64_t logits_shape[4];
  int32_t logits_rank;
  int32_t classes;
  int32_t clips; /* of a step: all calls run for one clip, then for the next; of a model of single frames 1 */
  float scale[3], offset[3]; /* of R, G, B: input = byte * scale + offset */
  uint32_t workspace_bytes;
  uint32_t cache_bytes;   /* of one set of caches */
  uint32_t scratch_bytes; /* of one thread */
  uint32_t logits_offset;
  int32_t n_calls;
  int32_t n_byte_calls;   /* behind the others: a step on bytes begins with these */
  int32_t replaced_calls; /* so many others, from the first on, it leaves out */
  int32_t n_caches;
  int32_t n_outputs;
  const tsm_output_info *outputs; /* the logits first */
  const tsm_call *calls;
  const tsm_cache *caches;
  const unsigned char *weights;
  const struct tsm_model *newer; /* null, or the same step with instructions that not every CPU of the target has */
  unsigned long needs;           /* of such a step: bits of getauxval(AT_HWCAP), all of them */
} tsm_model;

extern const tsm_model tsm_the_model;

/* Programs of one network that differ in their kernels: the first is tsm_the_model, and a library that is not for tuning
 * has no other. They read the same frames, write the same logits, and have the same caches. */
extern const tsm_model *const tsm_programs[];
extern const int32_t tsm_n_programs;

/* Whether a stream of so many threads may be opened on a program of the library; if not, why is tsm_last_error. */
int tsm_can_open(int32_t threads, int32_t program);

/* Record a failure for this thread's tsm_last_error and return its code. */
int32_t tsm_fail(int32_t code, const char *format, ...);

#endif /* TSM_MODEL_H */
