"""A board that is arithmetic: each kernel takes as long as a rule of this file says, plus seeded noise."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.cards.threads import Threads
from tsm_edge.compile.backends.cpu import space as cpu
from tsm_edge.compile.backends.cuda import space as cuda
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.kernel import Items
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.trial_library import TrialLibrary
from tsm_edge.compile.trials import Network
from tsm_edge.errors import RpcError
from tsm_edge.session.timings import Timings
from tsm_edge.tune.boards import Board

LOGITS = np.arange(5, dtype=np.float32)


def small_network(folder: Path, target: str = "x86-64-v4") -> Network:
    """An inverted residual, a 3×3 convolution and two dense layers, as compiled for a target."""
    builder = GraphBuilder(28, 28)
    x = builder.relu(builder.conv(builder.frame, 32, 3, 2))
    x = builder.relu(builder.conv(x, 32, 3))
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 4), 96), 0, 6)), 0, 6)
    x = builder.add(builder.conv(y, 32), x)
    path = folder / "model.onnx"
    onnx.save(builder.model(builder.head(builder.relu(builder.conv(x, 64)), 5)), str(path))
    graph = load_onnx(path, {})
    layers, card = tuple(fuse(graph)), load_target(target)
    if card.gpu is None:
        program, free, packed = cpu.freedoms(graph, layers, card, FP32)
    else:
        (program, free), packed = cuda.freedoms(graph, layers, card, FP32), {}
    manifest = SimpleNamespace(
        target=card,
        frame=SimpleNamespace(shape=(1, 3, 28, 28)),
        precision="fp32",
        versions={"tsm_edge": "1"},
        model="small",
    )
    return Network(cast(Manifest, manifest), graph, layers, program, free, packed=packed)


Microseconds = Callable[[KernelCall], float]


def by_description(call: KernelCall) -> float:
    """Between 80 and 120, by what the rule chose: some choices are better than the rules'."""
    parted = call.items.count if isinstance(call.spec.parallel, Items) else call.grid
    return 80.0 + zlib.crc32(f"{call.layer} {call.spec.describe()} {parted}".encode()) % 41


@dataclass
class SimulatedBuilder:
    """Instead of a library: the programs themselves."""

    network: Network
    built: list[list[Program]] = field(default_factory=list)
    discarded: list[TrialLibrary] = field(default_factory=list)
    on_build: Callable[[int], None] = lambda programs: None
    fits: Callable[[Program], bool] = lambda program: True

    def build(self, programs: Sequence[Program]) -> TrialLibrary:
        """Program 0 is the rules' own."""
        self.on_build(len(programs))
        fitting = [program for program in programs if self.fits(program)]
        numbers = (fitting.index(program) + 1 if program in fitting else None for program in programs)
        self.built.append([self.network.program, *fitting])
        return TrialLibrary(cast(Artifact, SimpleNamespace(programs=self.built[-1])), tuple(numbers))

    def discard(self, library: TrialLibrary) -> None:
        """Told of libraries that are opened no more."""
        self.discarded.append(library)


@dataclass
class SimulatedRunner:
    """A session over such programs."""

    programs: Sequence[Program]
    microseconds: Microseconds
    wrong: Callable[[Program], bool]
    noise: np.random.Generator
    on_measure: Callable[[], None] = lambda: None
    on_select: Callable[[int], None] = lambda program: None
    slower: Sequence[float] = ()
    sigma: float = 0.01
    selected: int = 0

    def select(self, program: int) -> int:
        """Go on with another program."""
        self.on_select(program)
        self.selected = program
        return len(self.programs[program].calls)

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """What the rule of this file says."""
        self.on_measure()
        program = self.programs[self.selected]
        times = np.array([self.microseconds(call) for call in program.calls]) * 1e3 * self.slower[self.selected]
        spent = (times * self.noise.normal(1.0, self.sigma, (count, len(times)))).astype(np.uint64)
        steps = spent.sum(axis=1)
        logits = LOGITS + (1.0 if self.wrong(program) else 0.0)
        return Timings(steps, steps, steps, logits.astype(np.float32), spent if kernels else None)

    def close(self) -> None:
        """Nothing is held."""


def simulated_board(
    name: str = "board",
    microseconds: Microseconds = by_description,
    wrong: Callable[[Program], bool] = lambda program: False,
    failures: list[str] | None = None,
    on_measure: Callable[[], None] = lambda: None,
    on_select: Callable[[int], None] = lambda program: None,
    with_threads: dict[Threads, float] | None = None,
    slower_with: Callable[[Program, Threads], float] = lambda program, threads: 1.0,
    sigma: float = 0.01,
    held_back: Callable[[], tuple[str, ...]] = tuple,
) -> Board:
    """A board.

    Parameters
    ----------
    name : str
    microseconds : callable
        Of a call, with one thread.
    wrong : callable
        Whether a program computes something else.
    failures : list of str or None
        Messages with which the next openings fail.
    on_measure, on_select : callable
        Told of each measurement, and of each program that is selected.
    with_threads : dict of Threads to float or None
        What may be raced there, and the step's time with it over that with one thread.
    slower_with : callable
        By what that is to be multiplied for a program.
    sigma : float
        Of the noise.
    held_back : callable
        Why it is throttled.
    """
    noise = np.random.default_rng(zlib.crc32(name.encode()))
    shares = with_threads or {}

    def open_it(artifact: Artifact, threads: Threads | None) -> Any:
        if failures:
            raise RpcError(failures.pop(0), "look at it")
        programs = cast(Any, artifact).programs
        slower = [1.0 if threads is None else shares[threads] * slower_with(one, threads) for one in programs]
        return SimulatedRunner(programs, microseconds, wrong, noise, on_measure, on_select, slower, sigma)

    return Board(name, "simulated", open_it, tuple(shares), held_back=held_back)
