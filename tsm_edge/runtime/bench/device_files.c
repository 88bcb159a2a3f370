/* device_files.c - reads what the kernel tells in small files. */
#include "device_files.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Root and path as one; 0: too long. */
static int join(const char *root, const char *path, char *into, size_t size) {
  const int length = snprintf(into, size, "%s%s", root, path);
  if (length >= 0 && (size_t)length < size) return 1;
  errno = ENAMETOOLONG;
  return 0;
}

/* Until the buffer is full or the file ends; below 0: it cannot be read. */
static ssize_t read_all(int file, char *into, size_t size) {
  size_t length = 0;
  while (length < size) {
    const ssize_t got = read(file, into + length, size - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (!got) break;
    length += (size_t)got;
  }
  return (ssize_t)length;
}

int tsm_read_text(const char *root, const char *path, char *text, size_t size) {
  char whole[4096];
  if (!join(root, path, whole, sizeof whole)) return 0;
  const int file = open(whole, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t length = read_all(file, text, size - 1);
  const int error = errno;
  close(file);
  if (length < 0) {
    errno = error;
    return 0;
  }
  /* Those of the device tree end with a zero. */
  while (length > 0 && (isspace((unsigned char)text[length - 1]) || !text[length - 1])) --length;
  text[length] = 0;
  size_t blank = 0;
  while (isspace((unsigned char)text[blank])) ++blank;
  memmove(text, text + blank, (size_t)length - blank + 1);
  return 1;
}

int tsm_parse_number(const char *text, double *value) {
  /* strtod also takes hexadecimal digits, infinity and NaN: no kernel writes such. */
  if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return 0;
  char *end;
  *value = strtod(text, &end);
  return !*end && isfinite(*value);
}

int tsm_read_number(const char *root, const char *path, double *value) {
  char text[64];
  return tsm_read_text(root, path, text, sizeof text) && tsm_parse_number(text, value);
}

tsm_paths tsm_find(const char *root, const char *pattern) {
  tsm_paths found = {0, NULL};
  char whole[4096];
  glob_t matches;
  if (!join(root, pattern, whole, sizeof whole) || glob(whole, 0, NULL, &matches) != 0) return found;
  found.paths = calloc(matches.gl_pathc + 1, sizeof *found.paths);
  for (size_t i = 0; found.paths && i < matches.gl_pathc; ++i) {
    const char *path = matches.gl_pathv[i] + strlen(root);
    if (strlen(path) < TSM_MOST_PATH && (found.paths[found.count] = strdup(path))) ++found.count;
  }
  globfree(&matches);
  return found;
}

void tsm_free_paths(tsm_paths *paths) {
  for (size_t i = 0; i < paths->count; ++i) free(paths->paths[i]);
  free(paths->paths);
  *paths = (tsm_paths){0, NULL};
}

int tsm_is_there(const char *root, const char *path) {
  char whole[4096];
  return join(root, path, whole, sizeof whole) && access(whole, F_OK) == 0;
}

int tsm_folder_length(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? (int)(slash - path) : 0;
}
