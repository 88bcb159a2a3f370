/* error.c - the text of the latest failure, for every thread its own.
 *
 * POSIX's thread-specific data and not _Thread_local: Android knows the latter only from version 10 on. */
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "model.h"
#include "tsm_edge.h"

enum { TEXT_BYTES = 640 };

static pthread_key_t key;
static int has_key;
static atomic_int lost; /* a text found no memory */

__attribute__((constructor)) static void make_key(void) { has_key = pthread_key_create(&key, free) == 0; }

/* The texts of threads that are still there stay behind: nobody can reach them. */
__attribute__((destructor)) static void delete_key(void) {
  if (has_key) pthread_key_delete(key);
  has_key = 0;
}

/* This thread's text, made where it has none; null: no memory. */
static char *own_text(void) {
  if (!has_key) return NULL;
  char *text = pthread_getspecific(key);
  if (text || !(text = malloc(TEXT_BYTES))) return text;
  if (pthread_setspecific(key, text) == 0) return text;
  free(text);
  return NULL;
}

int32_t tsm_fail(int32_t code, const char *format, ...) {
  char *text = own_text();
  if (!text) {
    atomic_store_explicit(&lost, 1, memory_order_relaxed);
    return code;
  }
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, TEXT_BYTES, format, arguments);
  va_end(arguments);
  return code;
}

const char *tsm_last_error(void) {
  const char *text = has_key ? pthread_getspecific(key) : NULL;
  if (text) return text;
  return atomic_load_explicit(&lost, memory_order_relaxed) ? "out of memory, even for the text of the failure" : "";
}
