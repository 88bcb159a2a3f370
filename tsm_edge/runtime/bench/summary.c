/* summary.c - percentiles that the number of samples allows, and why the others are not given. */
#include "bench/summary.h"

#include <math.h>

#include "bench/statistics.h"

static void write_percentile(tsm_json *json, const char *key, const char *observed, const double *sorted, size_t n,
                             double percentile) {
  const size_t drop = tsm_early_stopping(n, percentile);
  tsm_json_number(json, key, drop ? sorted[n - drop] : NAN);
  tsm_json_number(json, observed, drop ? tsm_percentile(sorted, n, percentile) : NAN);
}

static void write_refusal(tsm_json *json, const char *key, size_t n, size_t fewest) {
  char reason[96];
  snprintf(reason, sizeof reason, "%zu samples, %zu are needed at 99 %% confidence", n, fewest);
  if (n < fewest) tsm_json_refused(json, key, reason);
}

void tsm_write_summary(tsm_json *json, const char *key, const double *sorted, size_t n) {
  const tsm_summary found = tsm_summarise(sorted, n);
  const size_t rank = tsm_median_rank(n);
  tsm_json_open(json, key, '{');
  tsm_json_integer(json, "count", (long long)n);
  tsm_json_number(json, "p50", tsm_median(sorted, n));
  tsm_json_number(json, "p50_low", rank ? sorted[rank - 1] : NAN);
  tsm_json_number(json, "p50_high", rank ? sorted[n - rank] : NAN);
  write_percentile(json, "p90", "p90_observed", sorted, n, 0.90);
  write_percentile(json, "p99", "p99_observed", sorted, n, 0.99);
  tsm_json_number(json, "min", found.min);
  tsm_json_number(json, "mean", found.mean);
  tsm_json_number(json, "max", found.max);
  tsm_json_number(json, "std", found.deviation);
  tsm_json_number(json, "cv_percent", 100 * found.deviation / found.mean);
  tsm_json_open(json, "refused", '[');
  write_refusal(json, "p90", n, tsm_fewest_samples(0.90));
  write_refusal(json, "p99", n, tsm_fewest_samples(0.99));
  write_refusal(json, "p50_low", n, 8);
  tsm_json_close(json, ']');
  tsm_json_close(json, '}');
}
