#!/bin/sh
# Checks and times models on whatever NVIDIA GPU is in this machine, in at most eight minutes. See gpu.py.
#
#   python -m benchmarks.gpu prepare build/gpu     # where tsm-edge[compile,cuda] is installed; no GPU
#   benchmarks/gpu.sh build/gpu                    # where the GPU is: the driver and Python 3.10, no package, no network
#
# The result goes to benchmarks/results/, or to the folder that the second argument names. Without Python the models are
# checked and timed all the same, and what tsm-runner says goes to stdout.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prepared=${1:?usage: $0 PREPARED [RESULTS]}
if command -v python3 >/dev/null; then
  exec python3 "$here/gpu.py" run "$prepared" "${2:-$here/results}"
fi
echo "gpu.sh: no python3 here: no peers, no compute-sanitizer, no file of results" >&2
wrong=0
for runner in "$prepared"/*/tsm-runner; do
  for setting in TSM_EDGE_NO_GRAPH=0 TSM_EDGE_NO_GRAPH=1; do
    echo "$runner $setting"
    env "$setting" "$runner" verify || wrong=1
    env "$setting" "$runner" bench --duration 1 --warmup 0.3 --idle 0 || wrong=1
  done
done
exit $wrong
