"""The simulator against real boards: 1×1 kernels of TVM's public tuning log, rebuilt and modelled beside their times.

``tophub_1x1.csv`` has what the log says of each: its shape, how TVM's template tiled it, and how long it took on a
Jetson Nano or TX2. The kernel is written again as that template makes it, compiled with the same NVRTC and ptxas as
tsm-edge's own kernels, and simulated; the modelled time has the card's launch in it. What is printed is modelled over
measured: their geometric mean and spread.

    python -m benchmarks.jetson.calibrate --nvdisasm .../nvdisasm --target jetson-tx2 --rows 40

It is no proof: the kernels are rebuilt from a template's description, by another compiler than the log's of 2018, and
the clock that the boards ran at is unknown. Halfs are in no log.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jetson.sass import Instruction, Kernel, disassemble
from benchmarks.jetson.simulator import cycles, trace_of
from tsm_edge.cards import GpuSpec, load_target
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.nvrtc import compile_ptx
from tsm_edge.compile.backends.cuda.ptxas import assemble
from tsm_edge.compile.ir.device_code import KernelResources

LOG = Path(__file__).with_name("tophub_1x1.csv")


@dataclass(frozen=True)
class Logged:
    """A kernel of the log.

    Attributes
    ----------
    line : int
        Of the log.
    inputs, outputs, height, width : int
        Of the convolution.
    tile_f, tile_y, tile_x : tuple of int
        Outputs, rows, columns: blocks, virtual threads, threads, and a thread's own.
    tile_rc : tuple of int
        Inputs: steps, and of a step.
    unroll, explicit : int
        TVM's ``auto_unroll_max_step`` and ``unroll_explicit``.
    microseconds : float
        Measured.
    """

    line: int
    inputs: int
    outputs: int
    height: int
    width: int
    tile_f: tuple[int, ...]
    tile_y: tuple[int, ...]
    tile_x: tuple[int, ...]
    tile_rc: tuple[int, ...]
    unroll: int
    explicit: int
    microseconds: float

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.tile_f[2] * self.tile_y[2] * self.tile_x[2]

    @property
    def blocks(self) -> int:
        """Of the launch."""
        return self.tile_f[0] * self.tile_y[0] * self.tile_x[0]

    @property
    def block(self) -> tuple[int, int, int]:
        """Outputs, rows and columns of a block."""
        return math.prod(self.tile_f[1:]), math.prod(self.tile_y[1:]), math.prod(self.tile_x[1:])

    @property
    def missed(self) -> float:
        """Share of what is loaded that comes from DRAM: everything once."""
        outputs, rows, columns = self.block
        loaded = self.blocks * self.inputs * (rows * columns + outputs)
        return min(1.0, self.inputs * (self.outputs + self.height * self.width) / loaded)


def logged(board: str) -> list[Logged]:
    """The log's kernels of a board, in its order."""
    with LOG.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(line for line in file if line[0] != "#") if row["board"] == board]
    tiles = ("tile_f", "tile_y", "tile_x", "tile_rc")
    numbers = ("line", "inputs", "outputs", "height", "width", "unroll", "explicit")
    return [
        Logged(
            **{name: int(row[name]) for name in numbers},
            **{name: tuple(map(int, row[name].split("/"))) for name in tiles},
            microseconds=float(row["microseconds"]),
        )
        for row in rows
    ]


def source(name: str, item: Logged) -> str:
    """TVM's ``conv2d_nchw`` template at 1×1 for the tiles of a kernel, as CUDA C."""
    outputs, rows, columns = item.block
    (_, vf, tf, fi), (by, vy, ty, yi), (bx, vx, tx, xi) = item.tile_f, item.tile_y, item.tile_x
    steps, depth = item.tile_rc
    sums = list(itertools.product(*map(range, (vf, fi, vy, yi, vx, xi))))
    steps, depth = item.tile_rc
    unrolled = item.unroll > 0 and (not item.explicit or item.unroll >= depth * len(sums))
    pixels, plane = rows * columns, item.height * item.width
    image = f"(by * {rows} + e % {pixels} / {columns}) * {item.width} + bx * {columns} + e % {columns}"
    weights = f"W[(bz * {outputs} + e / {depth}) * {item.inputs} + o * {depth} + e % {depth}]"
    products, stores = [], []
    for index, (a, i, b, j, c, k) in enumerate(sums):
        output, row = f"{a * tf * fi + i} + tz * {fi}", f"{b * ty * yi + j} + ty * {yi}"
        column = f"{c * tx * xi + k} + tx * {xi}"
        operand = f"As[r * {pixels} + ({row}) * {columns} + {column}]"
        products.append(f"    acc[{index}] += {operand} * Ws[({output}) * {depth} + r];")
        place = f"(bz * {outputs} + {output}) * {plane} + (by * {rows} + {row}) * {item.width} + bx * {columns}"
        stores.append(f"  C[{place} + {column}] = acc[{index}];")
    return "\n".join(
        [
            f'extern "C" __global__ void __launch_bounds__({item.threads}) {name}(const float* __restrict__ A, '
            "const float* __restrict__ W, float* __restrict__ C) {",
            f"  __shared__ float As[{depth * pixels}]; __shared__ float Ws[{outputs * depth}];",
            f"  float acc[{len(sums)}];",
            f"  const int t = threadIdx.x, tx = t % {tx}, ty = t / {tx} % {ty}, tz = t / {tx * ty};",
            f"  const int b = blockIdx.x, bx = b % {bx}, by = b / {bx} % {by}, bz = b / {bx * by};",
            f"  #pragma unroll\n  for (int i = 0; i < {len(sums)}; ++i) acc[i] = 0.f;",
            f"  #pragma unroll 1\n  for (int o = 0; o < {steps}; ++o) {{ __syncthreads();",
            _fetch(item, "As", depth * pixels, f"A[(o * {depth} + e / {pixels}) * {plane} + {image}]"),
            _fetch(item, "Ws", outputs * depth, weights),
            f"  __syncthreads();\n  #pragma unroll{'' if unrolled else ' 1'}\n  for (int r = 0; r < {depth}; ++r) {{",
            *products,
            "  }}",
            *stores,
            "}\n",
        ]
    )


def _fetch(item: Logged, memory: str, count: int, value: str) -> str:
    """A block's threads share out an operand as TVM does: along z, then y, then x, each a run of its own."""
    tf, ty, tx = item.tile_f[2], item.tile_y[2], item.tile_x[2]
    z = -(-count // tf)
    y = -(-z // ty)
    x = -(-y // tx)
    whole = z * tf == count and y * ty == z and x * tx == y
    inside = "" if whole else f"if (e < {count} && ty * {y} + tx * {x} + q < {z} && tx * {x} + q < {y}) "
    return (
        f"  #pragma unroll\n  for (int q = 0; q < {x}; ++q) {{ const int e = tz * {z} + ty * {y} + tx * {x} + q; "
        f"{inside}{memory}[e] = {value}; }}"
    )


def modelled(item: Logged, kernel: Kernel, used: KernelResources, gpu: GpuSpec) -> float:
    """Microseconds of a kernel, with its launch."""
    loops = kernel.loops()
    outer = max(loops, key=lambda loop: loop[1] - loop[0], default=None)
    trips = {loop: item.tile_rc[0] if loop == outer else item.tile_rc[1] for loop in loops}
    resident = resident_blocks(gpu, used.registers, used.shared_bytes, item.threads)

    def share(_: int, instruction: Instruction) -> float:
        return 1.0 if instruction.base == "STG" else item.missed

    found = cycles(kernel, trace_of(kernel, trips), item.threads, item.blocks, resident, gpu, share)
    return found / gpu.clock_mhz + gpu.launch_us


def spread(ratios: Sequence[float]) -> tuple[float, float]:
    """Geometric mean, and the standard deviation of the logarithm."""
    logarithms = [math.log(ratio) for ratio in ratios]
    mean = sum(logarithms) / len(logarithms)
    return math.exp(mean), math.sqrt(sum((value - mean) ** 2 for value in logarithms) / len(logarithms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nvdisasm", type=Path, required=True)
    parser.add_argument("--target", choices=["jetson-nano", "jetson-tx2"], default="jetson-tx2")
    parser.add_argument("--rows", type=int, default=40, help="of the log, from its first")
    options = parser.parse_args()
    gpu = load_target(options.target).gpu
    if gpu is None:
        parser.error(f"{options.target} has no GPU")
    items = {f"k{item.line}": item for item in logged(options.target)[: options.rows]}
    cubin, resources = assemble(compile_ptx("".join(source(*item) for item in items.items()), gpu), gpu)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        kernels = disassemble(path, options.nvdisasm)
    ratios = []
    print(f"{options.target}: line of the log, convolution, measured by others, modelled (us), modelled / measured")
    for name, item in items.items():
        time = modelled(item, kernels[name], resources[name], gpu)
        ratios.append(time / item.microseconds)
        shape = f"{item.inputs} to {item.outputs} at {item.height}x{item.width}"
        print(f"{item.line:5} {shape:26} {item.microseconds:9.1f} {time:9.1f} {ratios[-1]:6.2f}")
    mean, deviation = spread(ratios)
    print(
        f"{len(ratios)} kernels: modelled / measured is {mean:.2f} (geometric mean), standard deviation {deviation:.0%}"
    )


if __name__ == "__main__":
    main()
