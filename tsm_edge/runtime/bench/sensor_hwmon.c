/* sensor_hwmon.c - chips of the kernel's hwmon drivers that measure power (INA2xx, power supplies). */
#include <stdio.h>
#include <string.h>

#include "bench/sensor.h"

static const char NAMES[] = "/sys/class/hwmon/hwmon*/name";

/* A rail that a chip measures: by its input, or where it has none by its average. */
static int add_power(tsm_sensor *sensor, const char *folder, int index, tsm_problem *problem) {
  char power[TSM_MOST_PATH + 32], label[TSM_MOST_PATH + 32], name[TSM_MOST_NAME];
  snprintf(power, sizeof power, "%s/power%d_input", folder, index);
  if (!tsm_is_there(sensor->root, power)) snprintf(power, sizeof power, "%s/power%d_average", folder, index);
  if (!tsm_is_there(sensor->root, power)) return 1;
  snprintf(label, sizeof label, "%s/power%d_label", folder, index);
  if (!tsm_read_text(sensor->root, label, name, sizeof name)) snprintf(name, sizeof name, "power%d", index);
  tsm_rail *rail = tsm_add_rail(sensor, name, problem);
  if (rail) tsm_add_file(rail, power, 1e-6);
  return rail != NULL;
}

/* Whether the chip in this folder measures power. */
static int measures(const tsm_sensor *sensor, const char *folder, const char *driver) {
  char pattern[TSM_MOST_PATH + 32];
  snprintf(pattern, sizeof pattern, "%s/power[1-9]_*", folder);
  tsm_paths found = tsm_find(sensor->root, pattern);
  int any = !strcmp(driver, "ina3221");
  for (size_t i = 0; i < found.count; ++i) {
    const char *kind = strrchr(found.paths[i], '_');
    any |= !strcmp(kind, "_input") || !strcmp(kind, "_average");
  }
  tsm_free_paths(&found);
  return any;
}

/* The driver of the chip whose file `name` this is, if it measures power; 0: it does not. */
static int read_driver(const tsm_sensor *sensor, const char *name, char *driver, size_t size) {
  char folder[TSM_MOST_PATH];
  snprintf(folder, sizeof folder, "%.*s", tsm_folder_length(name), name);
  return tsm_read_text(sensor->root, name, driver, size) && measures(sensor, folder, driver);
}

/* Which driver is meant: the one named, or the only one; 0: there is none such. */
static int choose(const tsm_sensor *sensor, const tsm_paths *names, const char *argument, char *chosen, size_t size,
                  tsm_problem *problem) {
  char driver[TSM_MOST_NAME], known[160] = "";
  int several = 0;
  for (size_t i = 0; i < names->count; ++i) {
    if (!read_driver(sensor, names->paths[i], driver, sizeof driver)) continue;
    if (*argument && !strcmp(driver, argument)) return snprintf(chosen, size, "%s", driver) > 0;
    if (*known && !strcmp(driver, chosen)) continue; /* another chip of the same driver */
    several |= *known != 0;
    snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", driver);
    snprintf(chosen, size, "%s", driver);
  }
  if (!*known) return tsm_set_problem(problem, "power sensor %s: no chip in /sys/class/hwmon measures power", sensor->name);
  if (!*argument && !several) return 1;
  if (*argument)
    return tsm_set_problem(problem, "power sensor %s: no chip '%s' measures power, known: %s", sensor->name, argument,
                           known);
  return tsm_set_problem(problem, "power sensor %s: several chips measure power: %s; name one: hwmon:%s", sensor->name,
                         known, chosen);
}

int tsm_find_hwmon(tsm_sensor *sensor, const char *argument, tsm_problem *problem) {
  char chosen[TSM_MOST_NAME] = "", driver[TSM_MOST_NAME], folder[TSM_MOST_PATH];
  tsm_paths names = tsm_find(sensor->root, NAMES);
  int good = choose(sensor, &names, argument, chosen, sizeof chosen, problem);
  const int jetson = good && !strcmp(chosen, "ina3221");
  for (size_t i = 0; good && !jetson && i < names.count; ++i) {
    if (!read_driver(sensor, names.paths[i], driver, sizeof driver) || strcmp(driver, chosen)) continue;
    snprintf(folder, sizeof folder, "%.*s", tsm_folder_length(names.paths[i]), names.paths[i]);
    for (int index = 1; good && index <= 9; ++index) good = add_power(sensor, folder, index, problem);
  }
  tsm_free_paths(&names);
  if (!good) return 0;
  if (jetson) {
    snprintf(sensor->name, sizeof sensor->name, "ina3221");
    return tsm_find_ina3221(sensor, "", problem);
  }
  snprintf(sensor->name, sizeof sensor->name, "hwmon:%.50s", chosen);
  sensor->boundary = "unknown";
  sensor->period_s = 0.1;
  sensor->uncertainty = "not known: it depends on the chip and its shunt";
  snprintf(sensor->covers, sizeof sensor->covers, "what the chip %s measures, which only the board's circuit diagram tells",
           chosen);
  return 1;
}
