/* summary.h - samples as the table that every latency of a result is. Internal. */
#ifndef TSM_SUMMARY_H
#define TSM_SUMMARY_H

#include <stddef.h>

#include "bench/json.h"

/* Write what n samples in rising order say, n at least 1. */
void tsm_write_summary(tsm_json *json, const char *key, const double *sorted, size_t n);

#endif /* TSM_SUMMARY_H */
