/* driver.h - what the files of the driver's own functions share: codes, the state of the driver, and how each function
 * begins. Internal. */
#ifndef STANDIN_DRIVER_H
#define STANDIN_DRIVER_H

#include "standin.h"

#define API __attribute__((visibility("default"))) int

enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  NO_BINARY_FOR_GPU = 209,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  NOT_FOUND = 500,
  NOT_READY = 600,
  OUT_OF_RESOURCES = 701,
  CAPTURING = 900
};

/* Whether cuInit was called; and what every call fails with from now on. */
extern int standin_initialised, standin_sticky;

/* What a function is to fail with, for a test. */
int standin_demanded(const char *function);

/* What a variable says, or else. */
int standin_number(const char *name, int otherwise);

/* One thread at a time is in the driver, until its function returns: what is here and in check.c is of one thread. */
int standin_lock(void);
void standin_unlock(const int *locked);
#define ALONE __attribute__((cleanup(standin_unlock), unused)) const int locked_ = standin_lock()

#define BEGIN                                             \
  ALONE;                                                  \
  do {                                                    \
    int wish_ = standin_demanded(__func__);               \
    if (wish_) return wish_;                              \
    if (standin_sticky) return standin_sticky;            \
    if (!standin_initialised) return NOT_INITIALIZED;     \
  } while (0)

#endif /* STANDIN_DRIVER_H */
