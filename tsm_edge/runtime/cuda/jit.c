/* jit.c - the first load of a model compiles its PTX: half a minute on a Jetson Nano, then the driver's cache has it. */
#include "jit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 1, PATH_BYTES = 1024 };

struct tsm_jit {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  int32_t kernels;
  int over, said;
  struct timespec began;
};

static int is_on(const char *name) {
  const char *value = getenv(name);
  return value && *value && strcmp(value, "0") != 0;
}

static void *watch(void *context) {
  tsm_jit *jit = context;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  pthread_mutex_lock(&jit->lock);
  while (!jit->over && pthread_cond_timedwait(&jit->ended, &jit->lock, &until) != ETIMEDOUT) continue;
  if (!jit->over) {
    jit->said = 1;
    fprintf(stderr, "tsm-edge: the GPU's driver compiles %d kernels%s; on a Jetson Nano that takes half a minute\n",
            (int)jit->kernels, is_on("CUDA_CACHE_DISABLE") ? ", at every start: CUDA_CACHE_DISABLE is set" : ", once");
  }
  pthread_mutex_unlock(&jit->lock);
  return NULL;
}

tsm_jit *tsm_jit_begin(int32_t kernels) {
  tsm_jit *jit = is_on("TSM_EDGE_QUIET") ? NULL : calloc(1, sizeof *jit);
  if (!jit) return NULL;
  jit->kernels = kernels;
  clock_gettime(CLOCK_MONOTONIC, &jit->began);
  pthread_mutex_init(&jit->lock, NULL);
  pthread_cond_init(&jit->ended, NULL);
  if (pthread_create(&jit->thread, NULL, watch, jit) == 0) return jit;
  free(jit);
  return NULL;
}

void tsm_jit_end(tsm_jit *jit, int succeeded) {
  if (!jit) return;
  pthread_mutex_lock(&jit->lock);
  jit->over = 1;
  pthread_cond_broadcast(&jit->ended);
  pthread_mutex_unlock(&jit->lock);
  pthread_join(jit->thread, NULL);
  if (jit->said && succeeded) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const char *cache = getenv("CUDA_CACHE_PATH");
    const double seconds = (double)(now.tv_sec - jit->began.tv_sec) + 1e-9 * (double)(now.tv_nsec - jit->began.tv_nsec);
    if (is_on("CUDA_CACHE_DISABLE"))
      fprintf(stderr, "tsm-edge: compiled in %.1f s, not kept\n", seconds);
    else
      fprintf(stderr, "tsm-edge: compiled in %.1f s, kept in %s\n", seconds,
              cache && *cache ? cache : "~/.nv/ComputeCache");
  }
  pthread_cond_destroy(&jit->ended);
  pthread_mutex_destroy(&jit->lock);
  free(jit);
}

/* Where the cache goes ----------------------------------------------------------------------------------------------- */

/* A folder of this user's alone, made if it is not there. */
static int is_private_folder(const char *path) {
  struct stat found;
  if (mkdir(path, 0700) != 0 && errno != EEXIST) return 0;
  return lstat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() && !(found.st_mode & 022) &&
         access(path, W_OK | X_OK) == 0;
}

/* ~/.nv/ComputeCache, where the driver puts it by itself. */
static int default_is_writable(void) {
  char path[PATH_BYTES];
  const char *home = getenv("HOME");
  if (!home || !*home) return 0;
  int length = snprintf(path, sizeof path, "%s/.nv/ComputeCache", home);
  if (length < 0 || length >= PATH_BYTES) return 0;
  if (access(path, W_OK) == 0) return 1;
  if (errno != ENOENT) return 0;
  path[strlen(path) - strlen("/ComputeCache")] = 0;
  if (access(path, W_OK) == 0) return 1;
  return errno == ENOENT && access(home, W_OK) == 0;
}

void tsm_jit_place_cache(void) {
  const char *given = getenv("CUDA_CACHE_PATH");
  if ((given && *given) || is_on("CUDA_CACHE_DISABLE") || default_is_writable()) return;
  /* /var/tmp outlives a restart. */
  static const char *const roots[] = {"/var/tmp", "/tmp"};
  for (size_t i = 0; i < sizeof roots / sizeof roots[0]; ++i) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/tsm-edge-cuda-%ld", roots[i], (long)geteuid());
    if (!is_private_folder(path)) continue;
    setenv("CUDA_CACHE_PATH", path, 1); /* it is not there, or empty */
    return;
  }
}
