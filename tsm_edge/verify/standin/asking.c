/* asking.c - the driver's side of a GPU that is another process: instead of fiber.c and check.c. */
#include <stdlib.h>
#include <string.h>

#include "apart.h"

standin_state standin_now;
char standin_fault_text[512];

static int questions = -1, answers = -1;

static _Noreturn void give_up(const char *why) {
  fprintf(stderr, "standin: %s\n", why);
  abort();
}

static uint64_t ask(apart_question *question, apart_answer *answer) {
  if (questions < 0) {
    const char *folder = getenv("STANDIN_GPU");
    if (!folder || !apart_map(folder)) give_up("the GPU's memory cannot be mapped");
    questions = apart_open(folder, "questions", O_WRONLY);
    answers = apart_open(folder, "answers", O_RDONLY);
  }
  if (!apart_transfer(questions, question, sizeof *question, 1) || !apart_transfer(answers, answer, sizeof *answer, 0))
    give_up("the process that is the GPU has ended");
  return answer->value;
}

static uint64_t ask_of_memory(uint32_t what, uint64_t address, size_t bytes) {
  apart_question question = {.what = what, .address = address, .bytes = bytes};
  apart_answer answer;
  return ask(&question, &answer);
}

uint64_t standin_allocate(size_t bytes) { return ask_of_memory(APART_ALLOCATE, 0, bytes); }
int standin_free(uint64_t address) { return (int)ask_of_memory(APART_FREE, address, 0); }
int standin_is_inside(uint64_t address, size_t bytes) { return (int)ask_of_memory(APART_IS_INSIDE, address, bytes); }

int standin_run(const standin_kernel *kernel, standin_index blocks, standin_index threads, const uint8_t *arguments) {
  apart_question question = {.what = APART_RUN, .blocks = blocks, .threads = threads};
  apart_answer answer;
  for (uint32_t i = 0; i < standin_n_modules; ++i)
    if (kernel >= standin_modules[i].kernels && kernel < standin_modules[i].kernels + standin_modules[i].n_kernels) {
      question.module = i;
      question.kernel = (uint32_t)(kernel - standin_modules[i].kernels);
    }
  memcpy(question.arguments, arguments, sizeof question.arguments);
  int code = (int)ask(&question, &answer);
  if (!code) return 0;
  memcpy(standin_fault_text, answer.fault, sizeof standin_fault_text);
  fprintf(stderr, "standin: %s\n", standin_fault_text);
  return code;
}
