/* json.h - writes JSON, commas and all. Internal. */
#ifndef TSM_JSON_H
#define TSM_JSON_H

#include <stdio.h>

typedef struct {
  FILE *file;
  int follows; /* something stands before in the same list or table */
} tsm_json;

/* In a table everything has a key; in a list it is null. */
void tsm_json_open(tsm_json *json, const char *key, char bracket);
void tsm_json_close(tsm_json *json, char bracket);

void tsm_json_text(tsm_json *json, const char *key, const char *text); /* null: null */
void tsm_json_number(tsm_json *json, const char *key, double value);   /* not finite: null */
void tsm_json_integer(tsm_json *json, const char *key, long long value);
void tsm_json_truth(tsm_json *json, const char *key, int value);
void tsm_json_null(tsm_json *json, const char *key);

/* A number that is given with so many digits after the point. */
void tsm_json_fixed(tsm_json *json, const char *key, double value, int digits);

/* A reason why `key` is null, as an entry of a list. */
void tsm_json_refused(tsm_json *json, const char *key, const char *reason);

#endif /* TSM_JSON_H */
