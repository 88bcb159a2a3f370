"""What kernels of several layers share: arguments, how rows are parted, description, buffers by the names of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers
from tsm_edge.compile.ir.kernel import Argument, Role

# Name and role of an argument, and what it is there for; None: it is not.
Optional = tuple[str, Role, object | None]
# Taking this part of an image from another thread costs little more than it saves.
_FEWEST_ROWS_SHARE = 28


class Described(Protocol):
    """A layer's spec."""

    def describe(self) -> str:
        """What was chosen for it, for people."""
        ...


def fused_arguments(dtype: str, layers: Sequence[str], *optional: Optional) -> tuple[Argument, ...]:
    """Source, the layers' weights, scratch, target, and what else there is."""
    return (
        Argument("source", "input", dtype),
        *(Argument(f"{layer}_weights", "weights", dtype) for layer in layers),
        Argument("scratch", "scratch", dtype),
        Argument("target", "output", dtype),
        *(Argument(name, role, dtype) for name, role, image in optional if image is not None),
    )


def fewest_rows(height: int) -> int:
    """Output rows worth taking from another thread: those before the first have to be made once more."""
    return max(2, height // _FEWEST_ROWS_SHARE)


def describe_layers(**layers: Described) -> str:
    """The tile of every layer."""
    return ", ".join(f"{name} {layer.describe()}" for name, layer in layers.items())


def expand_buffers(spec: ConvolutionSpec, buffers: Buffers) -> Buffers:
    """The kernel's buffers by the names the first convolution has for them; it writes to scratch memory."""
    named = {"source": buffers["source"], "weights": buffers["expand_weights"], "target": buffers["scratch"]}
    return named if spec.cache is None else named | {"cache": buffers["cache"]}


def depthwise_buffers(buffers: Buffers, target: str) -> Buffers:
    """The same for the depthwise convolution, which reads scratch memory and writes to ``target``."""
    return {"source": buffers["scratch"], "weights": buffers["depthwise_weights"], "target": buffers[target]}
