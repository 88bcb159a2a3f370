/* device_files.h - the small files by which a kernel tells of its machine. Internal.
 *
 * `root` is the folder that stands for "/", without a slash at its end: "" on a device. */
#ifndef TSM_DEVICE_FILES_H
#define TSM_DEVICE_FILES_H

#include <stddef.h>

enum { TSM_MOST_PATH = 256, TSM_MOST_TEXT = 4096 };

/* Read a file's beginning, without the white space around it. Returns 0, with errno set, if it cannot be read. */
int tsm_read_text(const char *root, const char *path, char *text, size_t size);

/* Read a file that holds one number; 0: there is no such file, or no finite number in it. */
int tsm_read_number(const char *root, const char *path, double *value);

/* Paths that match a pattern of the shell, in rising order; `count` are there. */
typedef struct {
  size_t count;
  char **paths;
} tsm_paths;

tsm_paths tsm_find(const char *root, const char *pattern);

void tsm_free_paths(tsm_paths *paths);

/* Whether a file is there. */
int tsm_is_there(const char *root, const char *path);

/* Length of a path's folder: up to its last slash. */
int tsm_folder_length(const char *path);

/* A text that is a finite number and nothing else. */
int tsm_parse_number(const char *text, double *value);

#endif /* TSM_DEVICE_FILES_H */
