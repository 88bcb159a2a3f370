/* For tests of the power sensors in C: what a sensor is, and the energy of samples that are given, as JSON.
 *
 * sensor_probe sensor ROOT NAME
 * sensor_probe energy COUNTS PERIOD START STOP < "SECONDS VALUE" lines, of one rail */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/json.h"
#include "bench/power.h"

static int sensor(tsm_json *json, const char *root, const char *name) {
  static tsm_sensor found;
  tsm_problem problem;
  double values[TSM_MOST_RAILS];
  const int opened = tsm_sensor_open(&found, root, name, &problem) && tsm_sensor_read(&found, values, &problem);
  tsm_json_open(json, NULL, '{');
  tsm_json_text(json, "problem", opened ? NULL : problem.text);
  if (opened) {
    tsm_json_text(json, "name", found.name);
    tsm_json_text(json, "boundary", found.boundary);
    tsm_json_text(json, "covers", found.covers);
    tsm_json_text(json, "uncertainty", found.uncertainty);
    tsm_json_text(json, "quantity", found.counts ? "energy" : "power");
    tsm_json_number(json, "period_s", found.period_s);
    tsm_json_number(json, "total", tsm_sensor_total(&found, values));
    tsm_json_open(json, "rails", '[');
    for (int i = 0; i < found.n_rails; ++i) {
      tsm_json_open(json, NULL, '{');
      tsm_json_text(json, "name", found.rails[i].name);
      tsm_json_truth(json, "in_total", found.rails[i].in_total);
      tsm_json_number(json, "value", values[i]);
      tsm_json_close(json, '}');
    }
    tsm_json_close(json, ']');
  }
  tsm_json_close(json, '}');
  return 0;
}

static int energy(tsm_json *json, char **argv) {
  static tsm_sensor one;
  enum { MOST = 100000 };
  static double seconds[MOST], values[MOST];
  one = (tsm_sensor){.counts = atoi(argv[0]), .period_s = atof(argv[1]), .n_rails = 1};
  strcpy(one.name, "fake");
  one.rails[0].in_total = 1;
  tsm_trace trace = {.sensor = &one, .seconds = seconds, .values = values};
  while (trace.count < MOST && scanf("%lf %lf", &seconds[trace.count], &values[trace.count]) == 2) ++trace.count;
  tsm_energy found;
  tsm_problem problem;
  const int good = tsm_energy_between(&trace, atof(argv[2]), atof(argv[3]), "work", &found, &problem);
  tsm_json_open(json, NULL, '{');
  tsm_json_text(json, "problem", good ? NULL : problem.text);
  if (good) {
    tsm_json_number(json, "joules", found.joules);
    tsm_json_number(json, "watts", found.watts);
    tsm_json_integer(json, "samples", (long long)found.samples);
    tsm_json_integer(json, "changes", (long long)found.changes);
    tsm_json_number(json, "rate_hz", found.rate_hz);
    tsm_json_number(json, "jitter_ms", found.jitter_ms);
    tsm_json_number(json, "longest_gap_ms", found.longest_gap_ms);
  }
  tsm_json_close(json, '}');
  return 0;
}

int main(int argc, char **argv) {
  tsm_json json = {stdout, 0};
  if (argc == 4 && !strcmp(argv[1], "sensor")) return sensor(&json, argv[2], argv[3]);
  if (argc == 6 && !strcmp(argv[1], "energy")) return energy(&json, argv + 2);
  return 2;
}
