"""What a training runs on: the CPU or a GPU, and who makes the clips."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from tsm_edge.errors import TsmEdgeError

_MOST_LOADERS = 8


@dataclass(frozen=True)
class TrainingPlace:
    """What computes.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda``.
    loaders : int
        Processes that make clips ahead of the training; 0: each worker makes its own.
    """

    device: str = "cpu"
    loaders: int = 0

    @classmethod
    def named(cls, device: str, loaders: int | None = None) -> TrainingPlace:
        """With as many loaders as pay there, unless their number is given.

        Raises
        ------
        TsmEdgeError
            PyTorch finds no GPU.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise TsmEdgeError(
                "PyTorch finds no NVIDIA GPU here",
                "leave --device out, or install a PyTorch with CUDA and look at: nvidia-smi",
            )
        if loaders is None:
            loaders = 0 if device == "cpu" else min(os.cpu_count() or 1, _MOST_LOADERS)
        return cls(device, loaders)


HERE = TrainingPlace()
