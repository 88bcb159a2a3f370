/* sensor_battery.c - the battery gauge of phones (Android) and laptops. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/sensor.h"

/* The kernel's rule is µV and µA, but some vendors count in thousandths. A lithium battery of one to four cells tells
 * which by its voltage; a current below 10 mA is no machine that is awake, so such a number is in mA. */
static const double LEAST_V = 2.5, MOST_V = 18.0, LEAST_A = 0.01, MOST_A = 20.0;

/* Volts and amperes as the driver gives them. The sign of the current is its vendor's choice, so the status decides. */
static int read_raw(const tsm_sensor *sensor, double *volts, double *amps, tsm_problem *problem) {
  char status[32];
  if (!tsm_sensor_text(sensor, sensor->status, status, sizeof status, problem)) return 0;
  if (strcmp(status, "Discharging"))
    return tsm_set_problem(problem, "power sensor %s: the battery's status is '%s', so its current is not what the device "
                           "draws: unplug it (adb works over Wi-Fi, too: adb tcpip 5555)", sensor->name, status);
  if (!tsm_sensor_number(sensor, sensor->rails[0].paths[0], volts, problem)) return 0;
  if (!tsm_sensor_number(sensor, sensor->rails[0].paths[1], amps, problem)) return 0;
  *amps = fabs(*amps);
  return 1;
}

static int read_battery(tsm_sensor *sensor, double *values, tsm_problem *problem) {
  double volts, amps;
  if (!read_raw(sensor, &volts, &amps, problem)) return 0;
  volts *= sensor->rails[0].scales[0];
  amps *= sensor->rails[0].scales[1];
  if (!(volts >= LEAST_V && volts <= MOST_V && amps >= LEAST_A && amps <= MOST_A))
    return tsm_set_problem(problem, "power sensor %s reads %.3f V and %.4f A, which no battery in use has", sensor->name,
                           volts, amps);
  values[0] = volts * amps;
  return 1;
}

static int is_lithium(double volts) { return volts >= LEAST_V && volts <= MOST_V; }

/* Which units the driver has. */
static int find_scales(tsm_sensor *sensor, tsm_problem *problem) {
  double volts, amps, *scales = sensor->rails[0].scales;
  if (!read_raw(sensor, &volts, &amps, problem)) return 0;
  if (!is_lithium(volts * 1e-6) && !is_lithium(volts * 1e-3))
    return tsm_set_problem(problem, "power sensor %s: the voltage is %g, expected µV or mV of a battery", sensor->name,
                           volts);
  if (amps == 0)
    return tsm_set_problem(problem, "power sensor %s: the current is 0 while the battery is discharging", sensor->name);
  scales[0] = is_lithium(volts * 1e-6) ? 1e-6 : 1e-3;
  scales[1] = amps * 1e-6 >= LEAST_A ? 1e-6 : 1e-3;
  return 1;
}

/* The battery that this path of a current belongs to; 0: it is none. */
static int is_battery(tsm_sensor *sensor, const char *current) {
  char path[TSM_MOST_PATH + 32], type[32];
  const int folder = tsm_folder_length(current);
  snprintf(path, sizeof path, "%.*s/type", folder, current);
  if (!tsm_read_text(sensor->root, path, type, sizeof type) || strcmp(type, "Battery")) return 0;
  snprintf(path, sizeof path, "%.*s/voltage_now", folder, current);
  return tsm_is_there(sensor->root, path);
}

static int open_battery(tsm_sensor *sensor, const char *current, tsm_problem *problem) {
  char path[TSM_MOST_PATH + 32], name[TSM_MOST_NAME];
  const int folder = tsm_folder_length(current);
  snprintf(name, sizeof name, "%.*s", folder, current);
  snprintf(name, sizeof name, "%.*s", folder - tsm_folder_length(name) - 1, current + tsm_folder_length(name) + 1);
  tsm_rail *rail = tsm_add_rail(sensor, name, problem);
  snprintf(sensor->status, sizeof sensor->status, "%.*s/status", folder, current);
  snprintf(path, sizeof path, "%.*s/voltage_now", folder, current);
  tsm_add_file(rail, path, 0);
  tsm_add_file(rail, current, 0);
  if (!find_scales(sensor, problem)) return 0;
  sensor->read = read_battery;
  sensor->boundary = "board";
  sensor->period_s = 0.25;
  sensor->uncertainty = "not stated; many gauges renew their figure only every few seconds";
  snprintf(sensor->covers, sizeof sensor->covers, "the whole device with its screen; current read as %s",
           rail->scales[1] == 1e-6 ? "µA" : "mA, since as µA it would be less than 10 mA");
  return 1;
}

int tsm_find_battery(tsm_sensor *sensor, const char *argument, tsm_problem *problem) {
  (void)argument;
  tsm_paths currents = tsm_find(sensor->root, "/sys/class/power_supply/*/current_now");
  size_t i = 0;
  while (i < currents.count && !is_battery(sensor, currents.paths[i])) ++i;
  const int good = i < currents.count
                       ? open_battery(sensor, currents.paths[i], problem)
                       : tsm_set_problem(problem, "power sensor %s: no battery in /sys/class/power_supply shows its "
                                         "current (newer Android lets only root read it)", sensor->name);
  tsm_free_paths(&currents);
  return good;
}
