/* opening.c - what is the same on every device before a stream is opened. */
#include "model.h"
#include "tsm_edge.h"

tsm_stream *tsm_open(int32_t threads) { return tsm_open_program(threads, 0); }

int tsm_can_open(int32_t threads, int32_t program) {
  if (program < 0 || program >= tsm_n_programs) {
    tsm_fail(TSM_ERROR_ARGUMENT, "tsm_open_program: program is %d, the library has %d", (int)program,
             (int)tsm_n_programs);
    return 0;
  }
  if (threads < 1 || threads > TSM_MOST_THREADS) {
    tsm_fail(TSM_ERROR_ARGUMENT, "tsm_open: threads is %d, expected 1 to %d", (int)threads, TSM_MOST_THREADS);
    return 0;
  }
  return 1;
}
