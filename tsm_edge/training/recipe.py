"""How a network is trained: everything that, with the clips and the seed, decides the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tsm_edge.cards import LARGEST_SEED
from tsm_edge.errors import TsmEdgeError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["steps", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """Of a training.

    Attributes
    ----------
    epochs : int
        Passes over the clips; generated clips are new in each.
    batch : int
        Clips of a step, over all workers.
    optimizer : {"sgd", "adamw"}
        ``sgd``: Nesterov momentum 0.9, upstream TSM's.
    rate : float
        Learning rate after the warm-up.
    schedule : {"steps", "cosine"}
        ``steps``: a tenth of the rate after half and after three quarters of the epochs, close to upstream's 20 and 40
        of 50. ``cosine``: down to nothing along half a wave.
    warmup : float
        Share of the steps over which the rate rises from nothing.
    decay : float
        Weight decay of convolutions and the classifier (not of biases and BatchNorm).
    dropout : float
        Before the classifier.
    smoothing : float
        Of the labels (cross entropy).
    clip_norm : float
        Largest norm of the gradient.
    partial_bn : bool
        Upstream's partial BN: the statistics of all BatchNorms but the first stay as they are.
    thaw : float
        Share of the steps after which the parts before the first shift are trained, too. Until then they stay what
        training starts from, which takes a third less time.
    workers : int
        Parts a batch is split into, each with BatchNorm statistics and a thread of its own.
    seed : int
        Of everything random. The same recipe gives the same weights on the same machine.
    """

    epochs: int = 20
    batch: int = 32
    optimizer: Optimizer = "sgd"
    rate: float = 0.01
    schedule: Schedule = "steps"
    warmup: float = 0.02
    decay: float = 5e-4
    dropout: float = 0.5
    smoothing: float = 0.0
    clip_norm: float = 20.0
    partial_bn: bool = False
    thaw: float = 0.0
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("epochs", self.epochs, 1), ("workers", self.workers, 1)):
            if value < least:
                raise TsmEdgeError(f"{name} is {value}, expected at least {least}", f"leave --{name} out")
        if self.batch < self.workers or self.batch % self.workers:
            raise TsmEdgeError(
                f"batch is {self.batch} clips, expected a multiple of the {self.workers} workers",
                f"try: --batch {max(self.batch // self.workers, 1) * self.workers}",
            )
        if not (math.isfinite(self.rate) and 0 < self.rate <= 10):
            raise TsmEdgeError(f"rate is {self.rate}, expected above 0 and at most 10", "leave --rate out")
        if not 0 <= self.thaw < 1:
            raise TsmEdgeError(f"thaw is {self.thaw}, expected 0 to below 1", "leave thaw out")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise TsmEdgeError(f"seed is {self.seed}, expected 0 to {LARGEST_SEED}", "choose another: --seed N")

    def rate_at(self, done: float) -> float:
        """Learning rate when the share ``done`` of the steps lies behind."""
        if done < self.warmup:
            return self.rate * (done / self.warmup)
        if self.schedule == "cosine":
            return self.rate * (0.5 + 0.5 * math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
        return self.rate * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)


# From nothing, on generated clips that never repeat.
FROM_SCRATCH = Recipe(
    epochs=50,
    batch=16,
    optimizer="adamw",
    rate=3e-3,
    schedule="cosine",
    decay=0.02,
    dropout=0.1,
    clip_norm=5.0,
    thaw=0.65,
)
# A few clips of somebody's own, from weights that see motion already.
TEACH = Recipe(batch=8, optimizer="adamw", rate=1e-3, schedule="cosine", decay=0.02, dropout=0.2, clip_norm=5.0)
