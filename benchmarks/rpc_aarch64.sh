#!/usr/bin/env bash
# Serves TVM's RPC from a stock aarch64 Python and stock aarch64 TVM wheels under QEMU, once with TVM's own server and
# once with `tsm-edge serve`, and runs `tsm-edge verify --rpc` against both.
#
#   benchmarks/rpc_aarch64.sh WORKDIR [PYTHON]
#
# WORKDIR keeps the downloads (150 MB); PYTHON is one that tsm-edge is installed for (default: python3). Needs
# qemu-aarch64 (qemu-user) and Debian's apt-get and dpkg-deb; changes nothing outside WORKDIR, needs no root.
set -euo pipefail
work=$(mkdir -p "${1:?usage: $0 WORKDIR [PYTHON]}" && cd "$1" && pwd)
python=${2:-python3}
project=$(cd "$(dirname "$0")/.." && pwd)
tvm=0.27.0.post1 ffi=0.1.14.post1
debs="python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 zlib1g libexpat1 libssl3 libffi8 libstdc++6
  libgcc-s1 libbz2-1.0 liblzma5 libuuid1 libcrypt1"

if [ ! -e "$work/ready" ]; then
  mkdir -p "$work"/{apt/lists/partial,cache/archives/partial,debs,wheels,root,site}
  touch "$work/apt/status"
  apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$work/apt"
    -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=)
  "${apt[@]}" update
  (cd "$work/debs" && for package in $debs; do "${apt[@]}" download "$package"; done)
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 -d "$work/wheels" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    "apache-tvm==$tvm" "apache-tvm-ffi==$ffi" numpy ml_dtypes typing_extensions click
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
  touch "$work/ready"
fi

cat > "$work/stock.py" <<'END'
# TVM's own server, in this process: `python -m tvm.exec.rpc_server` starts a second Python, which QEMU cannot.
from tvm.rpc import server

server.PopenRPCServerState("127.0.0.1", 9766, 9767)
END

serve() { # LOG WORDS...: an aarch64 Python in the background
  local log=$1
  shift
  QEMU_LD_PREFIX=$work/root PYTHONHOME=$work/root/usr PYTHONPATH=$work/site:$project PYTHONUNBUFFERED=1 \
    qemu-aarch64 "$work/root/usr/bin/python3.11" "$@" > "$log" 2>&1 &
  pids+=($!)
}
pids=()
trap 'kill "${pids[@]}" 2> /dev/null || true' EXIT
wait_for() { # LOG TEXT
  for _ in $(seq 180); do grep -q "$2" "$1" 2> /dev/null && return; sleep 1; done
  cat "$1" >&2
  exit 1
}

[ -e "$work/model/manifest.json" ] ||
  "$python" -m tsm_edge.cli compile mobilenetv2-jester --target raspberry-pi-4 --no-runner -o "$work/model"
serve "$work/stock.log" "$work/stock.py"
serve "$work/ours.log" -m tsm_edge.cli serve --port 9768
wait_for "$work/stock.log" "bind to 127.0.0.1:9766"
wait_for "$work/ours.log" "tunnel first"
for port in 9766 9768; do "$python" -m tsm_edge.cli verify "$work/model" --rpc "127.0.0.1:$port" --frames 2; done
