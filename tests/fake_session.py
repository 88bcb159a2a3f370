"""A stand-in for a session that the run uses: instant, deterministic, and it remembers what it was fed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from tsm_edge.artifact.manifest import Activation
from tsm_edge.cards import Preprocess, Smoothing

CLASSES = 10


@dataclass(frozen=True)
class FakeManifest:
    """Like an artifact's manifest; input is the mean of 32x32 pixels scaled to 0..1."""

    preprocess: Preprocess = field(
        default_factory=lambda: Preprocess(short_side=40, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    )
    smoothing: Smoothing = field(default_factory=Smoothing)
    model: str = "levels"
    labels: tuple[str, ...] = tuple(f"level {index}" for index in range(CLASSES))
    classes: int = CLASSES
    random_weights: bool = False
    activation: Activation = ""
    clip: bool = False


class FakeSession:
    """Class ``k`` of 10 for a frame of mean brightness ``k / 10`` (of 1).

    Parameters
    ----------
    path : Path
        If its name has ``random`` in it, the weights claim to be random; with ``japanese`` its labels are.
    slow_s : float
        Seconds a step takes.
    """

    def __init__(self, path: Path | str = "fake", *, slow_s: float = 0.0) -> None:
        labels = (
            {"labels": tuple("スワイプ" * (index + 1) for index in range(CLASSES))} if "japanese" in str(path) else {}
        )
        self.manifest = FakeManifest(random_weights="random" in str(path), **labels)
        self.events: list[str] = []
        self._slow_s = slow_s
        self.reconnections = 0

    def reset(self) -> None:
        """Note the reset."""
        self.events.append("reset")

    def step(self, frame: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Refuse what the real session refuses; then the logits."""
        if frame.shape != (1, 3, 32, 32) or frame.dtype != np.float32 or not frame.flags.c_contiguous:
            raise TypeError(f"{frame.shape} {frame.dtype}")
        time.sleep(self._slow_s)
        level = float(frame.mean()) * CLASSES
        logits = -np.abs(np.arange(CLASSES, dtype=np.float32)[np.newaxis] + 0.5 - level).astype(np.float32)
        self.events.append(str(int(np.argmax(logits))))
        return logits

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.events.append("closed")


def open_fake(path: Path | str, *_: object, **__: object) -> FakeSession:
    """In place of :func:`tsm_edge.session.open.open_session`; only the path counts."""
    return FakeSession(path)
