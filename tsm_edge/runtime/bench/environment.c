/* environment.c - reads clocks, temperatures, throttling, load and memory from files of the kernel.
 *
 * What `tsm-edge bench` reads with Python where there is one; the words are the same. */
#include "bench/environment.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "bench/device_files.h"
#include "nvidia.h"

static const char CORES[] = "/sys/devices/system/cpu/cpu[0-9]*";

/* Parts of the names of GPUs below /sys/class/devfreq (Jetsons, Adreno, Mali); beside them are memory buses and disks. */
static const char *const GPUS[] = {"gpu", "gp10b", "gv11b", "ga10b", "kgsl", "mali", "adreno", "g3d"};

/* Bits 0 to 3 are now, 16 to 19 since boot. */
static const char PI_THROTTLED[] = "/sys/devices/platform/soc/soc:firmware/get_throttled";
static const char *const PI_WORDS[] = {"under-voltage", "frequency capped", "throttled", "soft temperature limit"};

/* A file's text or its first line; null: it is not there, or empty. */
static const char *text_of(const char *root, const char *path, char *text, size_t size) {
  if (!tsm_read_text(root, path, text, size) || !*text) return NULL;
  text[strcspn(text, "\n")] = 0;
  return text;
}

/* What follows `name` and a colon on the first such line of a file; null: there is none. */
static const char *field_of(const char *root, const char *path, const char *name, char *text, size_t size) {
  if (!tsm_read_text(root, path, text, size)) return NULL;
  for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    const size_t length = strlen(name);
    if (strncmp(line, name, length)) continue;
    char *value = line + length + strspn(line + length, " \t");
    if (*value != ':') continue;
    value += 1 + strspn(value + 1, " \t");
    value[strcspn(value, "\n")] = 0;
    return *value ? value : NULL;
  }
  return NULL;
}

/* kHz of a core's file as MHz; NaN: not there. */
static double clock_mhz(const char *root, const char *core, const char *file) {
  char path[TSM_MOST_PATH + 64];
  double khz;
  snprintf(path, sizeof path, "%s/cpufreq/%s", core, file);
  return tsm_read_number(root, path, &khz) ? khz / 1e3 : NAN;
}

static int core_number(const char *path) { return atoi(strrchr(path, '/') + strlen("/cpu")); }

static int by_number(const void *a, const void *b) {
  return core_number(*(char *const *)a) - core_number(*(char *const *)b);
}

static void write_cores(tsm_json *json, const char *root) {
  tsm_paths cores = tsm_find(root, CORES);
  if (cores.count) qsort(cores.paths, cores.count, sizeof *cores.paths, by_number);
  tsm_json_open(json, "cores", '[');
  for (size_t i = 0; i < cores.count; ++i) {
    char path[TSM_MOST_PATH + 64], governor[32];
    double online = 1; /* one that cannot be taken away has no such file */
    snprintf(path, sizeof path, "%s/online", cores.paths[i]);
    tsm_read_number(root, path, &online);
    snprintf(path, sizeof path, "%s/cpufreq/scaling_governor", cores.paths[i]);
    tsm_json_open(json, NULL, '{');
    tsm_json_integer(json, "number", core_number(cores.paths[i]));
    tsm_json_truth(json, "online", online != 0);
    tsm_json_text(json, "governor", text_of(root, path, governor, sizeof governor));
    tsm_json_number(json, "min_mhz", clock_mhz(root, cores.paths[i], "scaling_min_freq"));
    tsm_json_number(json, "current_mhz", clock_mhz(root, cores.paths[i], "scaling_cur_freq"));
    tsm_json_number(json, "max_mhz", clock_mhz(root, cores.paths[i], "scaling_max_freq"));
    tsm_json_number(json, "limit_mhz", clock_mhz(root, cores.paths[i], "cpuinfo_max_freq"));
    tsm_json_close(json, '}');
  }
  tsm_json_close(json, ']');
  tsm_free_paths(&cores);
}

/* Not where another folder stands for "/". */
static int nvidia_now(tsm_nvidia_gpu *gpu, const char *root) { return !*root && tsm_nvidia_now(gpu); }

static void write_temperatures(tsm_json *json, const char *root) {
  tsm_nvidia_gpu gpu;
  tsm_paths zones = tsm_find(root, "/sys/class/thermal/thermal_zone*");
  tsm_json_open(json, "temperatures", '[');
  for (size_t i = 0; i < zones.count; ++i) {
    char path[TSM_MOST_PATH + 64], type[64];
    double millidegrees;
    snprintf(path, sizeof path, "%s/temp", zones.paths[i]);
    if (!tsm_read_number(root, path, &millidegrees)) continue;
    snprintf(path, sizeof path, "%s/type", zones.paths[i]);
    const char *name = text_of(root, path, type, sizeof type);
    tsm_json_open(json, NULL, '{');
    tsm_json_text(json, "zone", name ? name : strrchr(zones.paths[i], '/') + 1);
    tsm_json_number(json, "value_c", millidegrees / 1e3);
    tsm_json_close(json, '}');
  }
  if (nvidia_now(&gpu, root) && !isnan(gpu.temperature_c)) {
    tsm_json_open(json, NULL, '{');
    tsm_json_text(json, "zone", gpu.name);
    tsm_json_number(json, "value_c", gpu.temperature_c);
    tsm_json_close(json, '}');
  }
  tsm_json_close(json, ']');
  tsm_free_paths(&zones);
}

static void write_bits(tsm_json *json, const char *key, unsigned long bits) {
  tsm_json_open(json, key, '[');
  for (int i = 0; i < 4; ++i)
    if (bits >> i & 1) tsm_json_text(json, NULL, PI_WORDS[i]);
  tsm_json_close(json, ']');
}

/* Returns whether anything tells. */
static int write_throttled(tsm_json *json, const char *root) {
  char text[32];
  const char *found = text_of(root, PI_THROTTLED, text, sizeof text);
  const unsigned long bits = found ? strtoul(found, NULL, 16) : 0;
  write_bits(json, "throttled_now", bits);
  write_bits(json, "throttled_since_boot", bits >> 16);
  return found != NULL;
}

/* CPU time since the machine started, over all cores: used there, and given to other virtual machines. */
static void write_cpu_time(tsm_json *json, const char *root) {
  /* proc(5): user, nice (guests are in them), system, idle, iowait, irq, softirq, steal; in hundredths of a second. */
  enum { USER, NICE, SYSTEM, IDLE, WAIT, IRQ, SOFTIRQ, STEAL, N_FIELDS };
  char text[256];
  double ticks[N_FIELDS];
  const char *found = text_of(root, "/proc/stat", text, sizeof text);
  int n = 0;
  for (const char *at = found && !strncmp(found, "cpu ", 4) ? found + 4 : NULL; at && n < N_FIELDS; ++n) {
    char *end;
    ticks[n] = strtod(at, &end);
    if (end == at) break;
    at = end;
  }
  const int known = n == N_FIELDS;
  const double busy = known ? ticks[USER] + ticks[NICE] + ticks[SYSTEM] + ticks[IRQ] + ticks[SOFTIRQ] : NAN;
  tsm_json_number(json, "busy_s", busy / 100);
  tsm_json_number(json, "stolen_s", known ? ticks[STEAL] / 100 : NAN);
}

static void write_load(tsm_json *json, const char *root) {
  char text[64];
  const char *found = text_of(root, "/proc/loadavg", text, sizeof text);
  char *end;
  const double load = found ? strtod(found, &end) : NAN;
  struct timespec own;
  const int known = clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own) == 0;
  tsm_json_number(json, "load_1min", found && end != found ? load : NAN);
  write_cpu_time(json, root);
  tsm_json_number(json, "own_s", known ? (double)own.tv_sec + (double)own.tv_nsec * 1e-9 : NAN);
}

static double memory_mb(const char *root, const char *field) {
  char text[TSM_MOST_TEXT];
  const char *found = field_of(root, "/proc/meminfo", field, text, sizeof text);
  return found ? strtod(found, NULL) * 1024 / 1e6 : NAN;
}

static void write_affinity(tsm_json *json) {
  cpu_set_t cores;
  tsm_json_open(json, "affinity", '[');
  if (sched_getaffinity(0, sizeof cores, &cores) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &cores)) tsm_json_integer(json, NULL, i);
  tsm_json_close(json, ']');
}

static void write_residencies(tsm_json *json, const char *root) {
  tsm_paths policies = tsm_find(root, "/sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state");
  tsm_json_open(json, "time_in_state", '[');
  for (size_t i = 0; i < policies.count; ++i) {
    char path[TSM_MOST_PATH + 64], cores[64], text[TSM_MOST_TEXT];
    snprintf(path, sizeof path, "%.*s/related_cpus", tsm_folder_length(policies.paths[i]) - (int)strlen("/stats"),
             policies.paths[i]);
    const char *named = text_of(root, path, cores, sizeof cores);
    if (!tsm_read_text(root, policies.paths[i], text, sizeof text)) continue;
    char *at = text;
    for (double khz, ticks; *at; at += strspn(at, " \n")) {
      char *end;
      khz = strtod(at, &end);
      ticks = strtod(end, &at);
      if (end == at) break; /* not two numbers a line */
      tsm_json_open(json, NULL, '{');
      tsm_json_text(json, "cores", named ? named : "");
      tsm_json_number(json, "clock_mhz", khz / 1e3);
      tsm_json_number(json, "time_s", ticks / 100); /* of 10 ms */
      tsm_json_close(json, '}');
    }
  }
  tsm_json_close(json, ']');
  tsm_free_paths(&policies);
}

static void write_machine(tsm_json *json, const char *root) {
  char board[128], boot[64], cpu[TSM_MOST_TEXT], kernel[160];
  const char *named = text_of(root, "/proc/device-tree/model", board, sizeof board);
  if (!named) named = text_of(root, "/sys/class/dmi/id/product_name", board, sizeof board);
  const char *model = field_of(root, "/proc/cpuinfo", "model name", cpu, sizeof cpu);
  if (!model) model = field_of(root, "/proc/cpuinfo", "Hardware", cpu, sizeof cpu);
  struct utsname system;
  const int known = uname(&system) == 0;
  if (known) snprintf(kernel, sizeof kernel, "%s %s", system.sysname, system.release);
  tsm_json_text(json, "board", named);
  tsm_json_text(json, "cpu_model", model);
  tsm_json_text(json, "architecture", known ? system.machine : NULL);
  tsm_json_text(json, "kernel", known ? kernel : NULL);
  tsm_json_text(json, "boot_id", text_of(root, "/proc/sys/kernel/random/boot_id", boot, sizeof boot));
}

static int is_gpu(const char *path) {
  for (size_t i = 0; i < sizeof GPUS / sizeof *GPUS; ++i)
    if (strcasestr(strrchr(path, '/'), GPUS[i])) return 1;
  return 0;
}

/* Hz of a file of devfreq's as MHz; NaN: not there. */
static double devfreq_mhz(const char *root, const char *folder, const char *file) {
  char path[TSM_MOST_PATH + 64];
  double hz;
  snprintf(path, sizeof path, "%s/%s", folder, file);
  return tsm_read_number(root, path, &hz) ? hz / 1e6 : NAN;
}

/* The highest of a list of Hz, as MHz; NaN: there is none. */
static double highest_mhz(const char *root, const char *folder) {
  char path[TSM_MOST_PATH + 64], text[TSM_MOST_TEXT];
  double highest = NAN;
  snprintf(path, sizeof path, "%s/available_frequencies", folder);
  if (!tsm_read_text(root, path, text, sizeof text)) return NAN;
  for (char *rest, *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
    double hz;
    if (tsm_parse_number(word, &hz) && !(hz / 1e6 <= highest)) highest = hz / 1e6;
  }
  return highest;
}

/* One that the kernel's files do not tell of. */
static void write_nvidia_gpu(tsm_json *json, const tsm_nvidia_gpu *gpu) {
  tsm_json_open(json, NULL, '{');
  tsm_json_text(json, "name", gpu->name);
  tsm_json_text(json, "governor", NULL);
  tsm_json_number(json, "min_mhz", NAN);
  tsm_json_number(json, "current_mhz", gpu->current_mhz);
  tsm_json_number(json, "max_mhz", gpu->limit_mhz);
  tsm_json_number(json, "limit_mhz", gpu->limit_mhz);
  tsm_json_close(json, '}');
}

static void write_gpus(tsm_json *json, const char *root) {
  tsm_nvidia_gpu gpu;
  int found = 0;
  tsm_paths folders = tsm_find(root, "/sys/class/devfreq/*");
  tsm_json_open(json, "gpus", '[');
  for (size_t i = 0; i < folders.count; ++i) {
    char path[TSM_MOST_PATH + 64], governor[64];
    const char *folder = folders.paths[i];
    if (!is_gpu(folder)) continue;
    found = 1;
    snprintf(path, sizeof path, "%s/governor", folder);
    tsm_json_open(json, NULL, '{');
    tsm_json_text(json, "name", strrchr(folder, '/') + 1);
    tsm_json_text(json, "governor", text_of(root, path, governor, sizeof governor));
    tsm_json_number(json, "min_mhz", devfreq_mhz(root, folder, "min_freq"));
    tsm_json_number(json, "current_mhz", devfreq_mhz(root, folder, "cur_freq"));
    tsm_json_number(json, "max_mhz", devfreq_mhz(root, folder, "max_freq"));
    tsm_json_number(json, "limit_mhz", highest_mhz(root, folder));
    tsm_json_close(json, '}');
  }
  if (!found && nvidia_now(&gpu, root)) write_nvidia_gpu(json, &gpu);
  tsm_json_close(json, ']');
  tsm_free_paths(&folders);
}

void tsm_write_glance(tsm_json *json, const char *root) {
  write_cores(json, root);
  write_gpus(json, root);
  write_temperatures(json, root);
  write_throttled(json, root);
  write_load(json, root);
}

void tsm_write_environment(tsm_json *json, const char *root) {
  write_machine(json, root);
  write_cores(json, root);
  write_gpus(json, root);
  write_affinity(json);
  write_temperatures(json, root);
  const int tells = write_throttled(json, root);
  write_residencies(json, root);
  write_load(json, root);
  tsm_json_number(json, "memory_total_mb", memory_mb(root, "MemTotal"));
  tsm_json_number(json, "memory_available_mb", memory_mb(root, "MemAvailable"));
  tsm_json_open(json, "unknown", '[');
  tsm_json_refused(json, "libc", "tsm-runner brings its own C library and does not ask for the system's");
  tsm_json_refused(json, "others", "tsm-runner does not look for other programs");
  tsm_json_refused(json, "power_mode", "tsm-runner starts no other program");
  if (!tells) tsm_json_refused(json, "throttled_now", "no file of the kernel tells it");
  tsm_json_close(json, ']');
}
