/* environment.h - what the kernel tells of the machine at a moment. Internal. */
#ifndef TSM_ENVIRONMENT_H
#define TSM_ENVIRONMENT_H

#include "bench/json.h"

/* Write all that files below `root` tell, as the keys of a table. */
void tsm_write_environment(tsm_json *json, const char *root);

/* Write only what changes: clocks, temperatures, throttling, load. */
void tsm_write_glance(tsm_json *json, const char *root);

#endif /* TSM_ENVIRONMENT_H */
