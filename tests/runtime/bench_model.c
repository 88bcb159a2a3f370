/* A model for tests of tsm-runner bench: a step takes STEP_US microseconds and looks at what it is given. At the end it
 * says on stderr how many different frames it saw, and whether the caches of each step were those of the step before. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "card.h"
#include "model.h"

static int steps, different, fed_back = 1;
static float newest, seen[64];

static void step(void *const *buffers, int32_t begin, int32_t end, int32_t resumed, tsm_clock *clock) {
  const float *frame = buffers[0], *cache = buffers[1];
  float *next_cache = buffers[2], *logits = buffers[3];
  const char *text = getenv("STEP_US");
  struct timespec time = {0, 1000L * (text ? atol(text) : 0)};
  (void)begin, (void)end, (void)resumed, (void)clock;
  fed_back &= cache[0] == newest;
  next_cache[0] = newest = (float)++steps;
  float sum = 0;
  for (int i = 0; i < 3 * 4 * 4; ++i) sum += (float)i * frame[i];
  int known = 0;
  while (known < different && seen[known] != sum) ++known;
  if (known == different && different < 64) seen[different++] = sum;
  logits[0] = frame[0];
  logits[1] = cache[0];
  if (time.tv_nsec) nanosleep(&time, NULL);
}

__attribute__((destructor)) static void tell(void) {
  fprintf(stderr, "%d steps, %d different frames, fed back: %d\n", steps, different, fed_back);
}

static const tsm_call calls[] = {
    {step, 1, 1, 0, 0, 4, {{TSM_FRAME, 0}, {TSM_CACHE, 0}, {TSM_NEXT_CACHE, 0}, {TSM_WORKSPACE, 0}}}};
static const tsm_cache caches[] = {{"in", "out", 1, 1, 1, 1, 0u}};
static const char *const labels[] = {"one", "two"};

const tsm_model tsm_the_model = {.manifest = "{}",
                                 .frame_name = "frame",
                                 .logits_name = "logits",
                                 .frame_shape = {1, 3, 4, 4},
                                 .logits_shape = {1, 2},
                                 .logits_rank = 2,
                                 .classes = 2,
                                 .clips = 1,
                                 .workspace_bytes = 64,
                                 .cache_bytes = 64,
                                 .n_calls = 1,
                                 .n_caches = 1,
                                 .calls = calls,
                                 .caches = caches};
const tsm_model *const tsm_programs[] = {&tsm_the_model};
const int32_t tsm_n_programs = 1;

static const tsm_card_cache card_caches[] = {{"out", 1}};

const tsm_card tsm_the_card = {.logits = "logits",
                               .classes = 2,
                               .clips = 1,
                               .n_caches = 1,
                               .caches = card_caches,
                               .model = "slow \"walk\"",
                               .target = "native",
                               .precision = "fp32",
                               .version = "0",
                               .flops = 7,
                               .bytes = 8,
                               .frames = 1,
                               .short_side = 4,
                               .crop_height = 4,
                               .crop_width = 4,
                               .scale = {0.01f, 0.01f, 0.01f},
                               .tolerance = 1e-4,
                               .cache_tolerance = 1e-4,
                               .n_labels = 2,
                               .labels = labels};
