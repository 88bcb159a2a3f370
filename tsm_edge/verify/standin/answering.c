/* answering.c - a GPU that is a process: runs the kernels that the driver of another machine's program asks for. */
#include <string.h>

#include "apart.h"

static uint64_t answer_to(const apart_question *question) {
  switch (question->what) {
    case APART_RUN: {
      const standin_module *module = &standin_modules[question->module];
      return (uint64_t)standin_run(&module->kernels[question->kernel], question->blocks, question->threads,
                                   question->arguments);
    }
    case APART_ALLOCATE: return standin_allocate(question->bytes);
    case APART_FREE: return (uint64_t)standin_free(question->address);
    default: return (uint64_t)standin_is_inside(question->address, question->bytes);
  }
}

int main(int count, char **words) {
  if (count != 2 || !apart_map(words[1])) return 2;
  standin_arena = APART_MEMORY;
  standin_arena_end = APART_MEMORY + APART_BYTES;
  int questions = apart_open(words[1], "questions", O_RDONLY), answers = apart_open(words[1], "answers", O_WRONLY);
  apart_question question;
  while (apart_transfer(questions, &question, sizeof question, 0)) {
    apart_answer answer = {.value = answer_to(&question)};
    memcpy(answer.fault, standin_fault_text, sizeof answer.fault);
    if (!apart_transfer(answers, &answer, sizeof answer, 1)) return 1;
  }
  return 0;
}
