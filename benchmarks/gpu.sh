#!/bin/sh
# Checks and times models on whatever NVIDIA GPU is in this machine, in at most eight minutes. See gpu.py.
#
#   python -m benchmarks.gpu prepare build/gpu     # where tsm-edge[compile,cuda] is installed; no GPU
#   benchmarks/gpu.sh build/gpu                    # where the GPU is: needs Python 3.10 and the driver, no package
#
# The result goes to benchmarks/results/, or to the folder that the second argument names.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/gpu.py" run "${1:?usage: $0 PREPARED [RESULTS]}" "${2:-$here/results}"
