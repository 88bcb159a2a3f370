"""The estimates that choose tiles: a Jetson Nano's against the cycle-level model, a large GPU's against times measured
on an H200."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from tsm_edge.cards import load_target
from tsm_edge.compile.backends.cuda.choose.tiles import flush_of, microseconds
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile, Window
from tsm_edge.compile.ir.layout import planes

Tile = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Shape:
    """Input and output channels, a side of the source and of the kernel, the stride, and the element type."""

    inputs: int
    outputs: int
    side: int
    kernel: int
    stride: int
    dtype: str

    def spec(self, tile: Tile) -> GemmSpec:
        """The matrix product with a tile: channels and pixels of a block, of a thread, slices."""
        side = self.side // self.stride
        half = self.kernel // 2
        flush = flush_of(self.inputs * self.kernel**2) if self.dtype == "float16" else 0
        window = Window((self.kernel, self.kernel), (self.stride, self.stride), (half, half))
        return GemmSpec(
            source=planes(self.side, self.side, self.inputs, self.dtype),
            target=planes(side, side, self.outputs, self.dtype),
            tile=GemmTile(*tile),
            window=window if self.kernel > 1 else None,
            activation="relu",
            residual=self.outputs > self.inputs,
            flush=flush,
        )


# Microseconds of ``benchmarks/jetson/simulator.c`` for ptxas 11.8's machine code, without the launch. Modelled.
SIMULATED: dict[Shape, dict[Tile, float]] = {
    Shape(64, 256, 56, 1, 1, "float32"): {
        (128, 32, 8, 8, 1): 585,
        (64, 64, 8, 8, 1): 608,
        (64, 64, 8, 4, 1): 636,
        (32, 64, 8, 8, 1): 642,
        (128, 64, 4, 8, 1): 685,
        (32, 256, 8, 8, 1): 835,
    },
    Shape(512, 128, 28, 1, 1, "float32"): {
        (64, 32, 8, 4, 1): 565,
        (64, 32, 4, 8, 2): 567,
        (64, 112, 8, 4, 1): 571,
        (128, 56, 8, 4, 1): 627,
        (128, 56, 4, 8, 1): 632,
        (64, 56, 8, 4, 2): 636,
    },
    Shape(1024, 256, 14, 1, 1, "float32"): {
        (64, 40, 8, 4, 2): 562,
        (128, 40, 8, 4, 1): 616,
        (128, 16, 4, 8, 2): 621,
        (32, 40, 4, 8, 3): 634,
        (128, 16, 4, 8, 1): 669,
        (128, 28, 8, 4, 2): 902,
    },
    Shape(2048, 512, 7, 1, 1, "float32"): {
        (32, 52, 8, 4, 3): 641,
        (128, 52, 8, 4, 1): 646,
        (32, 56, 8, 4, 4): 720,
        (64, 56, 8, 4, 2): 750,
        (48, 52, 8, 4, 2): 802,
        (24, 52, 8, 4, 3): 907,
    },
    Shape(128, 128, 56, 3, 2, "float32"): {
        (64, 32, 8, 4, 1): 1386,
        (128, 56, 4, 8, 1): 1439,
        (128, 56, 8, 4, 1): 1451,
        (64, 56, 8, 4, 2): 1567,
        (64, 112, 8, 4, 1): 1655,
        (32, 56, 8, 4, 4): 1749,
    },
    Shape(256, 256, 28, 3, 2, "float32"): {
        (128, 28, 8, 4, 2): 1522,
        (128, 40, 8, 4, 1): 1523,
        (128, 16, 8, 4, 2): 1602,
        (64, 28, 8, 4, 4): 1608,
        (128, 16, 8, 4, 1): 1619,
        (32, 16, 8, 4, 2): 1798,
    },
    Shape(64, 256, 56, 1, 1, "float16"): {
        (32, 64, 8, 8, 1): 345,
        (64, 32, 8, 8, 1): 341,
        (128, 32, 8, 8, 1): 337,
        (64, 112, 8, 8, 1): 381,
        (64, 128, 8, 8, 1): 379,
        (24, 256, 8, 8, 1): 482,
    },
    Shape(1024, 256, 14, 1, 1, "float16"): {
        (64, 40, 8, 8, 4): 300,
        (128, 16, 8, 8, 4): 352,
        (32, 40, 8, 8, 8): 393,
        (128, 32, 8, 8, 4): 396,
        (32, 56, 8, 8, 8): 477,
        (16, 104, 8, 8, 6): 485,
    },
}

# Of tiles of MobileNet-V2's products, in a CUDA graph.
MEASURED = json.loads(Path(__file__).with_name("h200_products.json").read_text("utf-8"))["products"]


def measured() -> dict[Shape, dict[Tile, float]]:
    found = {}
    for size, times in MEASURED.items():
        inputs, outputs, side, dtype = size.split()
        shape = Shape(int(inputs), int(outputs), int(side), 1, 1, dtype)
        found[shape] = {(*map(int, tile),): time for *tile, time in times}
    return found


def test_on_an_h200_the_tile_it_would_take_is_near_the_best() -> None:
    """Of a size's tiles that were timed."""
    gpu = load_target("cuda-sm90").gpu
    assert gpu is not None
    lost, errors = [], []
    for shape, times in measured().items():
        estimates = {tile: microseconds(gpu, shape.spec(tile)) for tile in times}
        lost.append(times[min(estimates, key=lambda tile: estimates[tile])] / min(times.values()))
        errors += [abs(estimates[tile] / times[tile] - 1) for tile in times]
    assert len(lost) == 38
    assert statistics.mean(lost) < 1.06
    assert max(lost) < 1.3
    assert statistics.median(errors) < 0.2


@pytest.mark.parametrize("shape", SIMULATED, ids=lambda shape: f"{shape.inputs}-{shape.outputs}-{shape.dtype}")
def test_the_tile_it_would_take_is_near_the_best(shape: Shape) -> None:
    times = SIMULATED[shape]
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    taken = min(times, key=lambda tile: microseconds(gpu, shape.spec(tile)))
    assert times[taken] < 1.12 * min(times.values())


def test_it_orders_tiles_as_the_cycle_model_does() -> None:
    """Of two tiles of a shape that are a quarter apart there."""
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    alike = []
    for shape, times in SIMULATED.items():
        for one, other in itertools.combinations(times, 2):
            if max(times[one], times[other]) > 1.25 * min(times[one], times[other]):
                estimates = [microseconds(gpu, shape.spec(tile)) for tile in (one, other)]
                alike.append((times[one] < times[other]) == (estimates[0] < estimates[1]))
    assert len(alike) > 20
    assert sum(alike) > 0.75 * len(alike)
