#!/bin/sh
# Checks and times models on whatever NVIDIA GPU is in this machine, in at most eight minutes. See gpu.py.
#
#   python -m benchmarks.gpu prepare build/gpu     # where tsm-edge[compile,cuda] is installed; no GPU
#   benchmarks/gpu.sh build/gpu                    # where the GPU is: the driver and Python 3.10, no package, no network
#
# The result goes to benchmarks/results/, or to the folder that the second argument names. Without Python the models are
# checked and timed all the same, and what tsm-runner says goes to stdout. Exit codes: 0, 1 where an answer was wrong, 2
# where nothing could be asked.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prepared=${1:?usage: $0 PREPARED [RESULTS]}
if command -v python3 >/dev/null; then
  exec python3 "$here/gpu.py" run "$prepared" "${2:-$here/results}"
fi
echo "gpu.sh: no python3 here: no peers, no compute-sanitizer, no file of results" >&2
right=0 wrong=0
exec 3>&1
ask() { # with 2 it could not run, or a kernel failed
  code=0
  said=$(env "$@" 2>&1 >&3) || code=$?
  [ -z "$said" ] || echo "$said" >&2
  case "$code $said" in
    "0 "*) right=1 ;;
    "2 "*"error: step: "*) wrong=1 ;;
    "2 "*) ;;
    *) wrong=1 ;;
  esac
}
for runner in "$prepared"/*/tsm-runner; do
  [ -x "$runner" ] || continue
  for setting in TSM_EDGE_NO_GRAPH=0 TSM_EDGE_NO_GRAPH=1; do
    echo "$runner $setting"
    ask "$setting" "$runner" verify
    ask "$setting" "$runner" bench --duration 1 --warmup 0.3 --idle 0
  done
done
if [ $wrong$right = 00 ]; then
  echo "gpu.sh: NOTHING RAN" >&2
  exit 2
fi
exit $wrong
