/* statistics.c - summaries and percentiles of samples, with the confidence that their number allows. */
#include "statistics.h"

#include <math.h>
#include <stdlib.h>

static const double CONFIDENCE = 0.99;

static int rising(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void tsm_sort(double *samples, size_t n) { qsort(samples, n, sizeof *samples, rising); }

double tsm_median(const double *sorted, size_t n) { return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2; }

tsm_summary tsm_summarise(const double *samples, size_t n) {
  tsm_summary found = {.min = samples[0], .max = samples[0]};
  double sum = 0, squares = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += samples[i];
    if (samples[i] < found.min) found.min = samples[i];
    if (samples[i] > found.max) found.max = samples[i];
  }
  found.mean = sum / (double)n;
  for (size_t i = 0; i < n; ++i) squares += (samples[i] - found.mean) * (samples[i] - found.mean);
  found.deviation = n > 1 ? sqrt(squares / (double)(n - 1)) : NAN;
  return found;
}

/* The continued fraction of the function (DLMF 8.17.22) by Lentz's method; it converges fast for x < (a + 1) / (a + b
 * + 2). */
static double beta_fraction(double x, double a, double b) {
  enum { MOST_STEPS = 100000 };
  const double tiny = 1e-300, enough = 1e-15;
  double c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (fabs(d) < tiny ? tiny : d);
  double value = d;
  for (int m = 1; m <= MOST_STEPS; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 + even * d;
    c = 1 + even / c;
    d = 1 / (fabs(d) < tiny ? tiny : d);
    c = fabs(c) < tiny ? tiny : c;
    value *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 + odd * d;
    c = 1 + odd / c;
    d = 1 / (fabs(d) < tiny ? tiny : d);
    c = fabs(c) < tiny ? tiny : c;
    value *= d * c;
    if (fabs(d * c - 1) < enough) break;
  }
  return value;
}

double tsm_incomplete_beta(double x, double a, double b) {
  if (x <= 0 || x >= 1) return x >= 1;
  const double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(1 - x, b, a) / b;
}

/* Whether t samples of n above a bound are few enough: were the share below it any smaller than `percentile`, so few
 * would come with a chance of 1 - CONFIDENCE at most. */
static int few_enough(size_t n, size_t t, double percentile) {
  return tsm_incomplete_beta(percentile, (double)(n - t), (double)(t + 1)) <= 1 - CONFIDENCE;
}

size_t tsm_early_stopping(size_t n, double percentile) {
  if (n < 2 || !few_enough(n, 1, percentile)) return 0;
  size_t low = 1, high = n; /* low is few enough, high is not */
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    if (few_enough(n, middle, percentile))
      low = middle;
    else
      high = middle;
  }
  return low;
}

size_t tsm_fewest_samples(double percentile) {
  size_t n = 2;
  while (!few_enough(n, 1, percentile)) ++n;
  return n;
}

double tsm_percentile(const double *sorted, size_t n, double share) {
  const double place = share * (double)(n - 1);
  const size_t below = (size_t)place;
  if (below + 1 >= n) return sorted[n - 1];
  return sorted[below] + (place - (double)below) * (sorted[below + 1] - sorted[below]);
}

size_t tsm_median_rank(size_t n) {
  /* The chance that fewer than `rank` samples lie below the median is I(1/2; n - rank + 1, rank). */
  size_t low = 0, high = n / 2 + 1;
  while (high - low > 1) {
    const size_t rank = low + (high - low) / 2;
    if (tsm_incomplete_beta(0.5, (double)(n - rank + 1), (double)rank) <= (1 - CONFIDENCE) / 2)
      low = rank;
    else
      high = rank;
  }
  return low;
}
