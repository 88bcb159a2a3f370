/* sensor.c - finds a power sensor by its name, reads it, and refuses what no running machine draws. */
#include "bench/sensor.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct {
  const char *name;
  int (*find)(tsm_sensor *sensor, const char *argument, tsm_problem *problem);
  int takes_argument;
} family;

/* In the order in which `auto` tries them: what covers the whole board goes first. */
static const family families[] = {
    {"ina3221", tsm_find_ina3221, 0},
    {"battery", tsm_find_battery, 0},
    {"rapl", tsm_find_rapl, 0},
    {"hwmon", tsm_find_hwmon, 1},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const char tsm_sensor_forms[] = "auto, none, ina3221, battery, rapl, hwmon[:CHIP]";

/* Converters around zero read a little below it; what is further below is a wire the wrong way round. No machine draws
 * as much as the last: the reading is in another unit. */
static const double NOISE_W = 0.05, MOST_W = 1e5;

int tsm_set_problem(tsm_problem *problem, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(problem->text, sizeof problem->text, format, arguments);
  va_end(arguments);
  return 0;
}

tsm_rail *tsm_add_rail(tsm_sensor *sensor, const char *name, tsm_problem *problem) {
  if (sensor->n_rails == TSM_MOST_RAILS) {
    tsm_set_problem(problem, "power sensor %s: more than %d rails", sensor->name, TSM_MOST_RAILS);
    return NULL;
  }
  tsm_rail *rail = &sensor->rails[sensor->n_rails++];
  *rail = (tsm_rail){.in_total = 1};
  snprintf(rail->name, sizeof rail->name, "%s", name);
  return rail;
}

void tsm_add_file(tsm_rail *rail, const char *path, double scale) {
  snprintf(rail->paths[rail->n_files], sizeof rail->paths[0], "%s", path);
  rail->scales[rail->n_files++] = scale;
}

int tsm_sensor_text(const tsm_sensor *sensor, const char *path, char *text, size_t size, tsm_problem *problem) {
  if (tsm_read_text(sensor->root, path, text, size)) return 1;
  if (errno == EACCES || errno == EPERM)
    return tsm_set_problem(problem, "power sensor %s: %s may not be read by this user, only by root", sensor->name, path);
  return tsm_set_problem(problem, "power sensor %s: %s cannot be read (%s)", sensor->name, path, strerror(errno));
}

int tsm_sensor_number(const tsm_sensor *sensor, const char *path, double *value, tsm_problem *problem) {
  char text[64];
  if (!tsm_sensor_text(sensor, path, text, sizeof text, problem)) return 0;
  if (tsm_parse_number(text, value)) return 1;
  return tsm_set_problem(problem, "power sensor %s: %s is '%.40s', expected a number", sensor->name, path, text);
}

int tsm_read_products(tsm_sensor *sensor, double *values, tsm_problem *problem) {
  for (int i = 0; i < sensor->n_rails; ++i) {
    const tsm_rail *rail = &sensor->rails[i];
    values[i] = 1;
    for (int k = 0; k < rail->n_files; ++k) {
      double factor;
      if (!tsm_sensor_number(sensor, rail->paths[k], &factor, problem)) return 0;
      values[i] *= rail->scales[k] * factor;
    }
  }
  return 1;
}

double tsm_sensor_total(const tsm_sensor *sensor, const double *values) {
  double total = 0;
  for (int i = 0; i < sensor->n_rails; ++i)
    if (sensor->rails[i].in_total) total += values[i];
  return total;
}

static int plausible(const tsm_sensor *sensor, const double *watts, tsm_problem *problem) {
  for (int i = 0; i < sensor->n_rails; ++i) {
    if (!(watts[i] <= MOST_W) || watts[i] < -NOISE_W)
      return tsm_set_problem(problem, "power sensor %s: rail %s reads %g W, which cannot be", sensor->name,
                             sensor->rails[i].name, watts[i]);
  }
  if (tsm_sensor_total(sensor, watts) > 0) return 1;
  return tsm_set_problem(problem, "power sensor %s reads 0 W in total, which no running machine draws", sensor->name);
}

int tsm_sensor_read(tsm_sensor *sensor, double *values, tsm_problem *problem) {
  if (!sensor->read(sensor, values, problem)) return 0;
  return sensor->counts || plausible(sensor, values, problem);
}

/* Refuse a counter that stands still: some virtual machines show one. */
static int moves(tsm_sensor *sensor, tsm_problem *problem) {
  enum { LOOKS = 200 };
  const struct timespec wait = {0, 10000000};
  double values[TSM_MOST_RAILS];
  for (int i = 0; i < LOOKS; ++i) {
    if (!tsm_sensor_read(sensor, values, problem)) return 0;
    if (tsm_sensor_total(sensor, values) > 0) return 1;
    nanosleep(&wait, NULL);
  }
  return tsm_set_problem(problem, "power sensor %s: its counter stands still, so it does not measure", sensor->name);
}

static int open_family(tsm_sensor *sensor, const family *family, const char *root, const char *argument,
                       tsm_problem *problem) {
  double values[TSM_MOST_RAILS];
  *sensor = (tsm_sensor){.root = root, .read = tsm_read_products};
  snprintf(sensor->name, sizeof sensor->name, "%s", family->name);
  if (!family->find(sensor, argument, problem)) return 0;
  return sensor->counts ? moves(sensor, problem) : tsm_sensor_read(sensor, values, problem);
}

int tsm_sensor_open(tsm_sensor *sensor, const char *root, const char *text, tsm_problem *problem) {
  const char *colon = strchr(text, ':');
  const size_t length = colon ? (size_t)(colon - text) : strlen(text);
  const int any = !strcmp(text, "auto");
  for (int i = 0; i < N_FAMILIES; ++i) {
    const int named = strlen(families[i].name) == length && !strncmp(text, families[i].name, length);
    if (named && colon && !families[i].takes_argument)
      return tsm_set_problem(problem, "power sensor %s: nothing follows %s", text, families[i].name);
    if (named) return open_family(sensor, &families[i], root, colon ? colon + 1 : "", problem);
    if (any && open_family(sensor, &families[i], root, "", problem)) return 1;
  }
  if (any) return tsm_set_problem(problem, "no power sensor was found here that is a file of the kernel");
  return tsm_set_problem(problem, "power sensor %s: not one of those this program reads: %s", text, tsm_sensor_forms);
}
