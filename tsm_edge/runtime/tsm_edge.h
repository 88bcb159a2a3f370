/* tsm_edge.h - the C interface of a compiled TSM model (model.so).
 *
 * The library is self-contained: kernels, weights, memory plan. It needs the C library and nothing else; one for a GPU
 * also the driver, which it looks for when the first stream is opened.
 *
 *     tsm_stream *stream = tsm_open(1);
 *     float logits[27];                       // as many as the manifest's logits
 *     while (next_frame(frame))               // float32, NCHW [1, 3, height, width], normalised RGB
 *         if (tsm_step(stream, frame, logits) != TSM_OK)
 *             puts(tsm_last_error());
 *     tsm_close(stream);
 *
 * A model of clips (the manifest's "frames" is more than 1) takes all frames of a clip at once, [frames, 3, height, width],
 * wherever a frame is asked for here, and writes the mean of their logits, [classes]. It has no shift caches. One of
 * several clips a step (the manifest's "clips") takes them one after the other, and writes [clips, classes].
 *
 * A stream is one video: it keeps the shift caches between frames. Call tsm_reset on a seek, a gap or a new video.
 * Several streams may run over one library, each from one thread at a time: a second one gets TSM_ERROR_BUSY.
 * After fork() the child may use a stream too: it has caches of its own, and no worker threads any more. Not so on a
 * GPU: there the first stream of a process must be opened after the fork.
 */
#ifndef TSM_EDGE_H
#define TSM_EDGE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TSM_ABI_VERSION 2

enum {
  TSM_OK = 0,
  TSM_ERROR_ARGUMENT = -1, /* a null pointer or an impossible number */
  TSM_ERROR_MEMORY = -2,   /* out of memory */
  TSM_ERROR_THREAD = -3,   /* a worker thread could not be started */
  TSM_ERROR_BUSY = -4,     /* another thread is in a call on this stream */
  TSM_ERROR_DEVICE = -5    /* the GPU, or its driver, fails */
};

enum { TSM_MOST_THREADS = 64 }; /* of a stream */

typedef struct tsm_stream tsm_stream;

/* TSM_ABI_VERSION of the library: compare it with the header's. */
int32_t tsm_abi_version(void);

/* The model's manifest: JSON, UTF-8, zero-terminated; shapes, preprocessing, labels, target, versions. */
const char *tsm_manifest(void);

/* Open a stream with zeroed shift caches.
 * threads: 1 runs everything in the calling thread; n > 1 starts n - 1 workers. At most TSM_MOST_THREADS.
 * Returns null on failure; tsm_last_error says why. */
tsm_stream *tsm_open(int32_t threads);

/* As tsm_open, with another of the library's programs: libraries made for tuning have several, of which the first is
 * tsm_open's. */
tsm_stream *tsm_open_program(int32_t threads, int32_t program);

/* Zero the shift caches: the next frame is the first of a video. */
int32_t tsm_reset(tsm_stream *stream);

/* Run one frame. frame: float32 [1, 3, height, width]; logits: float32 [1, classes], written. */
int32_t tsm_step(tsm_stream *stream, const float *frame, float *logits);

/* Copy an output of the stream's latest step, float32: of the manifest's outputs, in their order. 0 is the logits; 1, of a
 * model of clips, the logits of every frame, [frames, classes], of one clip after another. */
int32_t tsm_output(tsm_stream *stream, int32_t index, float *values);

/* As tsm_step, of a picture as cameras have it: bytes [height, width, 3] of R, G, B, which are normalised as the manifest
 * says; of a clip its pictures, one after the other. */
int32_t tsm_step_u8(tsm_stream *stream, const uint8_t *frame, float *logits);

/* Run one frame with the caches in the caller's hands, in the ONNX model's layout (NCHW) and order.
 * shift: n caches read; shift_next: n caches written; they must not overlap. The stream's own caches stay as they
 * are. */
int32_t tsm_step_explicit(tsm_stream *stream, const float *frame, const float *const *shift, float *logits,
                          float *const *shift_next);

/* Kernel calls of a frame: as many as the manifest's kernels, but of another program. */
int32_t tsm_calls(const tsm_stream *stream);

/* As tsm_step, and write the time of each of its tsm_calls in nanoseconds.
 * stages: null, or written: nanoseconds of every stage of the fused kernels, in the manifest's order, spent in the
 * calling thread; then the kernels' own times have the reading of those clocks in them. */
int32_t tsm_step_profiled(tsm_stream *stream, const float *frame, float *logits, uint64_t *nanoseconds,
                          uint64_t *stages);

/* What tsm_measure shall run. */
typedef struct {
  const float *frames; /* float32 [n_frames, 3, height, width]; of a model of clips so many steps of clips */
  int32_t n_frames;
  int32_t first;   /* number of the first step: step i runs frame i % n_frames */
  int32_t count;   /* of steps; 0: none */
  uint64_t period; /* 0: one step after the other; else nanoseconds between the frames of a camera */
} tsm_run;

/* One timed step: when its frame came (of a camera; else its start), when it began, and how long it took. Nanoseconds,
 * the first two of CLOCK_MONOTONIC. */
typedef struct {
  uint64_t due;
  uint64_t start;
  uint64_t duration;
} tsm_sample;

/* Run and time frames as tsm_step does, the stream's caches fed back; what a benchmark calls, again and again.
 * A camera's frames that come while a step runs are lost, but for the newest: their dues are missing in the samples.
 * samples: count are written. logits: of the last step. kernels: null, or count times the nanoseconds that
 * tsm_step_profiled writes; then the steps have the reading of those clocks in them. */
int32_t tsm_measure(tsm_stream *stream, const tsm_run *run, tsm_sample *samples, float *logits, uint64_t *kernels);

/* How fast the machine is at the moment: nanoseconds of fixed work in one thread, whatever the model. */
typedef struct {
  uint64_t arithmetic; /* multiply-adds over what a second-level cache holds */
  uint64_t memory;     /* a pass over what none holds */
} tsm_speed;

/* Measure it, in some milliseconds; what a benchmark calls between frames. A model slows down with its machine. */
int32_t tsm_yardstick(tsm_speed *speed);

/* Free a stream, once; null is allowed. A call that another thread is in ends before. */
void tsm_close(tsm_stream *stream);

/* The text of the latest failure in the calling thread, until its next one; empty if there was none. Never null. */
const char *tsm_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* TSM_EDGE_H */
