/* sensor_ina3221.c - the INA3221 chips on NVIDIA Jetson modules, whichever driver JetPack has for them. */
#include <stdio.h>
#include <string.h>

#include "bench/sensor.h"

static const char JETPACK_4[] = "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*";
static const char JETPACK_5[] = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label";

/* A rail under the name that the file `label` has; null: there is nothing on it, or a problem, and then not `good`. */
static tsm_rail *add_named(tsm_sensor *sensor, const char *label, int *good, tsm_problem *problem) {
  char name[TSM_MOST_NAME];
  *good = tsm_sensor_text(sensor, label, name, sizeof name, problem);
  if (!*good || !*name || !strcmp(name, "NC") || !strcmp(name, "-")) return NULL;
  tsm_rail *rail = tsm_add_rail(sensor, name, problem);
  *good = rail != NULL;
  return rail;
}

static int add_jetpack_4(tsm_sensor *sensor, const char *label, tsm_problem *problem) {
  char power[TSM_MOST_PATH + 32];
  int good;
  tsm_rail *rail = add_named(sensor, label, &good, problem);
  snprintf(power, sizeof power, "%.*s/in_power%s_input", tsm_folder_length(label), label, strrchr(label, '_') + 1);
  if (rail) tsm_add_file(rail, power, 1e-3);
  return good;
}

/* The kernel's driver gives no power. Its inputs 4 to 7 are voltages across the shunts, and their sum. */
static int add_jetpack_5(tsm_sensor *sensor, const char *label, tsm_problem *problem) {
  char volts[TSM_MOST_PATH + 32], amps[TSM_MOST_PATH + 32], enable[TSM_MOST_PATH + 32];
  const int length = tsm_folder_length(label);
  const char index = label[length + 3];
  double enabled;
  int good;
  snprintf(volts, sizeof volts, "%.*s/in%c_input", length, label, index);
  snprintf(amps, sizeof amps, "%.*s/curr%c_input", length, label, index);
  snprintf(enable, sizeof enable, "%.*s/in%c_enable", length, label, index);
  if (!tsm_is_there(sensor->root, amps)) return 1;
  if (tsm_read_number(sensor->root, enable, &enabled) && enabled == 0) return 1;
  tsm_rail *rail = add_named(sensor, label, &good, problem);
  if (!rail) return good;
  tsm_add_file(rail, volts, 1e-3);
  tsm_add_file(rail, amps, 1e-3);
  return 1;
}

static int add_all(tsm_sensor *sensor, const char *pattern, int (*add)(tsm_sensor *, const char *, tsm_problem *),
                   tsm_problem *problem) {
  tsm_paths labels = tsm_find(sensor->root, pattern);
  int good = 1;
  for (size_t i = 0; good && i < labels.count; ++i) good = add(sensor, labels.paths[i], problem);
  tsm_free_paths(&labels);
  return good;
}

/* The rail that holds all others of its module; null: none. Which channel it is on differs between boards. */
static const char *total_rail(const tsm_sensor *sensor) {
  static const char *const totals[] = {"VDD_IN", "POM_5V_IN"};
  for (size_t k = 0; k < sizeof totals / sizeof *totals; ++k)
    for (int i = 0; i < sensor->n_rails; ++i)
      if (!strcmp(sensor->rails[i].name, totals[k])) return totals[k];
  return NULL;
}

int tsm_find_ina3221(tsm_sensor *sensor, const char *argument, tsm_problem *problem) {
  (void)argument;
  if (!add_all(sensor, JETPACK_4, add_jetpack_4, problem)) return 0;
  if (!sensor->n_rails && !add_all(sensor, JETPACK_5, add_jetpack_5, problem)) return 0;
  if (!sensor->n_rails) return tsm_set_problem(problem, "power sensor %s: no INA3221 chip here", sensor->name);
  const char *total = total_rail(sensor);
  /* VDDQ_VDD2_1V8AO is fed from another rail of the module, which has it in its own figure (Jetson AGX Orin). */
  for (int i = 0; i < sensor->n_rails; ++i)
    sensor->rails[i].in_total = strcmp(sensor->rails[i].name, total ? total : "VDDQ_VDD2_1V8AO") ? !total : !!total;
  sensor->boundary = "module";
  sensor->period_s = 0.05;
  sensor->uncertainty =
      "not stated for the board; the chip's offset and its shunts' tolerance weigh most at low power";
  if (total)
    snprintf(sensor->covers, sizeof sensor->covers, "the module's supply, %s", total);
  else
    snprintf(sensor->covers, sizeof sensor->covers, "the module's rails added up; it measures no total");
  return 1;
}
