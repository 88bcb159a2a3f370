"""The shift caches of a step: how they lie in a stream, and which kernel writes the next value of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import CachePair, OnlineGraph
from tsm_edge.compile.ir.layout import Image
from tsm_edge.errors import CompileError

# Height, width, channels → image.
Layout = Callable[[int, int, int], Image]


class ShiftCaches:
    """Each cache is taken once: by the kernel that makes the tensor it is cut from, or by a copy after it.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
    layout : callable
        Height, width, channels → how the backend's caches lie.

    Attributes
    ----------
    images : tuple of Image
        Layout of each cache, in the graph's order.

    Raises
    ------
    CompileError
        A cache is no image of batch 1.
    """

    def __init__(self, graph: OnlineGraph, layers: Sequence[ir.Layer], layout: Layout) -> None:
        self.images = tuple(layout(*_size(cache)) for cache in graph.caches)
        self._names = tuple(cache.output for cache in graph.caches)
        index = {name: position for position, name in enumerate(self._names)}
        self._waiting: dict[str, list[int]] = {}
        taps = [layer for layer in layers if isinstance(layer, ir.CacheTap)]
        for tap in taps:
            self._waiting.setdefault(tap.source, []).append(index[tap.output])
        tapped = {tap.output for tap in taps}
        for name, position in index.items():
            if name not in tapped:  # the whole tensor is the next cache
                self._waiting.setdefault(name, []).append(position)
        self._sources = frozenset(self._waiting)

    def name(self, index: int) -> str:
        """The graph output that is a cache's next value."""
        return self._names[index]

    def is_source(self, tensor: str) -> bool:
        """Whether a cache is cut from ``tensor``, taken or not."""
        return tensor in self._sources

    def take(self, tensor: str) -> int | None:
        """A cache that the kernel that makes ``tensor`` can write itself; None: none is left."""
        waiting = self._waiting.get(tensor)
        return waiting.pop() if waiting else None

    def take_all(self, tensor: str) -> list[int]:
        """All caches cut from ``tensor`` that nobody has taken."""
        return self._waiting.pop(tensor, [])

    def wait_for(self, tensor: str) -> bool:
        """Whether a cache is still to be cut from ``tensor``."""
        return bool(self._waiting.get(tensor))


def _size(cache: CachePair) -> tuple[int, int, int]:
    """Height, width, channels."""
    if len(cache.shape) != 4 or cache.shape[0] != 1:
        raise CompileError(
            f"cache {cache.input!r} is {list(cache.shape)}: expected [1, channels, height, width]",
            "export the caches as images, one a shifted block",
        )
    _, channels, height, width = cache.shape
    return height, width, channels
