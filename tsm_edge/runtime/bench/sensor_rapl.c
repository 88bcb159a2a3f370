/* sensor_rapl.c - RAPL: the energy counters of Intel's and AMD's x86 processors. */
#include <stdio.h>
#include <string.h>

#include "bench/sensor.h"

/* Not intel-rapl-mmio:*, which are the same counters seen another way. */
static const char COUNTERS[] = "/sys/class/powercap/intel-rapl:*/energy_uj";

static int read_counters(tsm_sensor *sensor, double *values, tsm_problem *problem) {
  for (int i = 0; i < sensor->n_rails; ++i) {
    tsm_rail *rail = &sensor->rails[i];
    double now;
    if (!tsm_sensor_number(sensor, rail->paths[0], &now, problem)) return 0;
    rail->counted += now - rail->last + (now < rail->last ? rail->range : 0);
    rail->last = now;
    values[i] = rail->scales[0] * rail->counted;
  }
  return 1;
}

static int ends_with(const char *text, const char *end) {
  const size_t length = strlen(text), wanted = strlen(end);
  return length >= wanted && !strcmp(text + length - wanted, end);
}

/* intel-rapl:0 is a package (or psys, the whole platform), intel-rapl:0:1 a part of it or its memory. */
static int add_zone(tsm_sensor *sensor, const char *energy, tsm_problem *problem) {
  char path[2 * TSM_MOST_PATH], name[24], package[24], whole[TSM_MOST_NAME];
  const int folder = tsm_folder_length(energy);
  const char *number = strstr(energy, "intel-rapl:") + strlen("intel-rapl:"), *part = strchr(number, ':');
  double last, range;
  if (!tsm_sensor_number(sensor, energy, &last, problem)) return 0;
  snprintf(path, sizeof path, "%.*s/max_energy_range_uj", folder, energy);
  if (!tsm_sensor_number(sensor, path, &range, problem)) return 0;
  snprintf(path, sizeof path, "%.*s/name", folder, energy);
  if (!tsm_sensor_text(sensor, path, name, sizeof name, problem)) return 0;
  snprintf(whole, sizeof whole, "%s", name);
  if (part) {
    snprintf(path, sizeof path, "%.*s/name", (int)(part - energy), energy);
    if (!tsm_sensor_text(sensor, path, package, sizeof package, problem)) return 0;
    snprintf(whole, sizeof whole, "%s/%s", package, name);
  }
  tsm_rail *rail = tsm_add_rail(sensor, whole, problem);
  if (!rail) return 0;
  rail->in_total = part ? !strcmp(name, "dram") : !strncmp(name, "package", strlen("package"));
  rail->last = last;
  rail->range = range;
  tsm_add_file(rail, energy, 1e-6);
  return 1;
}

int tsm_find_rapl(tsm_sensor *sensor, const char *argument, tsm_problem *problem) {
  (void)argument;
  tsm_paths counters = tsm_find(sensor->root, COUNTERS);
  int good = 1, packages = 0, memory = 0;
  for (size_t i = 0; good && i < counters.count; ++i) good = add_zone(sensor, counters.paths[i], problem);
  tsm_free_paths(&counters);
  if (!good) return 0;
  if (!sensor->n_rails) return tsm_set_problem(problem, "power sensor %s: the kernel shows no counter", sensor->name);
  for (int i = 0; i < sensor->n_rails; ++i) {
    packages |= sensor->rails[i].in_total;
    memory |= sensor->rails[i].in_total && ends_with(sensor->rails[i].name, "dram");
  }
  if (!packages) return tsm_set_problem(problem, "power sensor %s: there is no package", sensor->name);
  sensor->read = read_counters;
  sensor->counts = 1;
  sensor->boundary = "SoC";
  sensor->period_s = 0.05;
  sensor->uncertainty = "not stated; measured on servers since Haswell, a model on older processors";
  snprintf(sensor->covers, sizeof sensor->covers, "%s",
           memory ? "processor packages and their memory" : "processor packages, without memory");
  return 1;
}
