/* sensor.h - power sensors that are files of the kernel. Internal.
 *
 * The same families, rails and words as in tsm_edge/power, for devices where nothing but this program runs. */
#ifndef TSM_SENSOR_H
#define TSM_SENSOR_H

#include <stddef.h>

#include "bench/device_files.h"

enum { TSM_MOST_RAILS = 32, TSM_MOST_NAME = 64 };

typedef struct {
  char text[320]; /* what is wrong, for people */
} tsm_problem;

/* Write the problem down; returns 0. */
int tsm_set_problem(tsm_problem *problem, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One supply line. */
typedef struct {
  char name[TSM_MOST_NAME];
  int in_total;                  /* no: a part of another rail, or not of this machine alone */
  int n_files;                   /* two: voltage and current, which are multiplied */
  char paths[2][TSM_MOST_PATH];
  double scales[2];              /* from the numbers in the files to W, J, V, A */
  double range, last, counted;   /* of a counter: where it comes round, its last reading, and all since the first */
} tsm_rail;

typedef struct tsm_sensor tsm_sensor;

struct tsm_sensor {
  const char *root;
  char name[TSM_MOST_NAME];     /* as a person writes it */
  const char *boundary;         /* "SoC", "module", "board" or "unknown" */
  char covers[192];
  const char *uncertainty;
  int counts;                   /* readings are J since some moment; no: W */
  double period_s;              /* between readings; in less there is nothing new */
  char status[TSM_MOST_PATH];   /* of a battery */
  int (*read)(tsm_sensor *sensor, double *values, tsm_problem *problem);
  int n_rails;
  tsm_rail rails[TSM_MOST_RAILS];
};

/* Find what --power names: a family, with its argument after a colon, or "auto", the first that is found. It has been
 * read once then. 0: there is none. */
int tsm_sensor_open(tsm_sensor *sensor, const char *root, const char *text, tsm_problem *problem);

/* Read all rails, W or J since the sensor was opened; 0: it is gone, or reads what cannot be. */
int tsm_sensor_read(tsm_sensor *sensor, double *values, tsm_problem *problem);

/* Add up the rails that count. */
double tsm_sensor_total(const tsm_sensor *sensor, const double *values);

/* Names of families, as people write them. */
extern const char tsm_sensor_forms[];

/* What families have in common ------------------------------------------------------------------------------------ */

/* Look for a sensor of one family; 0: the problem says why there is none. */
int tsm_find_ina3221(tsm_sensor *sensor, const char *argument, tsm_problem *problem);
int tsm_find_battery(tsm_sensor *sensor, const char *argument, tsm_problem *problem);
int tsm_find_rapl(tsm_sensor *sensor, const char *argument, tsm_problem *problem);
int tsm_find_hwmon(tsm_sensor *sensor, const char *argument, tsm_problem *problem);

/* A rail more, without files yet; null: there are too many, which the problem says. */
tsm_rail *tsm_add_rail(tsm_sensor *sensor, const char *name, tsm_problem *problem);

/* A file more of a rail. */
void tsm_add_file(tsm_rail *rail, const char *path, double scale);

/* Read one of the sensor's files; 0: the problem names it. */
int tsm_sensor_text(const tsm_sensor *sensor, const char *path, char *text, size_t size, tsm_problem *problem);
int tsm_sensor_number(const tsm_sensor *sensor, const char *path, double *value, tsm_problem *problem);

/* The read of sensors whose rails are power, or voltage and current. */
int tsm_read_products(tsm_sensor *sensor, double *values, tsm_problem *problem);

#endif /* TSM_SENSOR_H */
