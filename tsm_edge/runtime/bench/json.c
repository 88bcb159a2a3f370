/* json.c - writes JSON; text that is not UTF-8 comes out as question marks. */
#include "bench/json.h"

#include <math.h>
#include <stddef.h>

/* Bytes of the UTF-8 character that begins here; 0: it is none. */
static size_t character_length(const unsigned char *at) {
  if (at[0] < 0x80) return 1;
  const size_t length = at[0] >= 0xC2 && at[0] < 0xE0 ? 2 : at[0] >= 0xE0 && at[0] < 0xF0 ? 3 : at[0] < 0xF5 ? 4 : 0;
  if (at[0] < 0xC2) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((at[i] & 0xC0) != 0x80) return 0;
  /* Longer than needed, half of a pair, or beyond the last. */
  if ((at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xED && at[1] > 0x9F)) return 0;
  if ((at[0] == 0xF0 && at[1] < 0x90) || (at[0] == 0xF4 && at[1] > 0x8F)) return 0;
  return length;
}

static void write_string(FILE *file, const char *text) {
  putc('"', file);
  for (const unsigned char *at = (const unsigned char *)text; *at;) {
    const size_t length = character_length(at);
    if (*at < 0x20 || *at == 0x7F)
      fprintf(file, "\\u%04x", *at);
    else if (*at == '"' || *at == '\\')
      fprintf(file, "\\%c", *at);
    else if (length)
      fwrite(at, 1, length, file);
    else
      putc('?', file);
    at += length ? length : 1;
  }
  putc('"', file);
}

static void begin(tsm_json *json, const char *key) {
  if (json->follows) fputs(", ", json->file);
  json->follows = 1;
  if (!key) return;
  write_string(json->file, key);
  fputs(": ", json->file);
}

void tsm_json_open(tsm_json *json, const char *key, char bracket) {
  begin(json, key);
  putc(bracket, json->file);
  json->follows = 0;
}

void tsm_json_close(tsm_json *json, char bracket) {
  putc(bracket, json->file);
  json->follows = 1;
}

void tsm_json_text(tsm_json *json, const char *key, const char *text) {
  begin(json, key);
  if (text)
    write_string(json->file, text);
  else
    fputs("null", json->file);
}

void tsm_json_number(tsm_json *json, const char *key, double value) {
  begin(json, key);
  if (isfinite(value))
    fprintf(json->file, "%.15g", value);
  else
    fputs("null", json->file);
}

void tsm_json_fixed(tsm_json *json, const char *key, double value, int digits) {
  begin(json, key);
  fprintf(json->file, "%.*f", digits, value);
}

void tsm_json_integer(tsm_json *json, const char *key, long long value) {
  begin(json, key);
  fprintf(json->file, "%lld", value);
}

void tsm_json_truth(tsm_json *json, const char *key, int value) {
  begin(json, key);
  fputs(value ? "true" : "false", json->file);
}

void tsm_json_null(tsm_json *json, const char *key) { tsm_json_text(json, key, NULL); }

void tsm_json_refused(tsm_json *json, const char *key, const char *reason) {
  tsm_json_open(json, NULL, '{');
  tsm_json_text(json, "key", key);
  tsm_json_text(json, "reason", reason);
  tsm_json_close(json, '}');
}
