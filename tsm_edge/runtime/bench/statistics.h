/* statistics.h - what a list of samples says. Internal. */
#ifndef TSM_STATISTICS_H
#define TSM_STATISTICS_H

#include <stddef.h>

typedef struct {
  double min, mean, max, deviation; /* deviation: the standard one of a sample; NaN for one sample alone */
} tsm_summary;

/* Of n samples, at least one. */
tsm_summary tsm_summarise(const double *samples, size_t n);

/* Put samples into rising order. */
void tsm_sort(double *samples, size_t n);

/* The middle of n samples in rising order. */
double tsm_median(const double *sorted, size_t n);

/* A percentile of n samples in rising order, between the two nearest in proportion. */
double tsm_percentile(const double *sorted, size_t n, double share);

/* The median's 99 % interval is from the rank-th lowest to the rank-th highest of n samples; 0: they are too few. */
size_t tsm_median_rank(size_t n);

/* The regularised incomplete beta function I(x; a, b), 0 <= x <= 1, a and b positive. */
double tsm_incomplete_beta(double x, double a, double b);

/* MLPerf's early stopping: with 99 % confidence a share `percentile` of all frames takes no longer than the t-th largest
 * of n samples. Returns the largest such t; 0: n samples say nothing about this percentile. */
size_t tsm_early_stopping(size_t n, double percentile);

/* The fewest samples that say something about a percentile. */
size_t tsm_fewest_samples(double percentile);

#endif /* TSM_STATISTICS_H */
