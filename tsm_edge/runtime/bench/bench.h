/* bench.h - the command `bench` of tsm-runner. Internal. */
#ifndef TSM_BENCH_H
#define TSM_BENCH_H

/* Time frames, and write what was found as JSON. argv: the program's, of which the first argument is `bench`. Returns an
 * exit code; where a signal ended the run, 128 and its number. */
int tsm_bench(int argc, char **argv);

#endif /* TSM_BENCH_H */
