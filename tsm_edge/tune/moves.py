"""How a candidate differs from the rules' choice, in words that kernels of other shapes share.

What one kernel gains by a move is a hint for those with the same move before them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.ir.choices import Choice

# These follow from the others and the layer's shape.
_FOLLOWS = {"tail_vectors", "panels"}
# These mean the same for layers of all shapes; of other numbers it is told whether they are larger or smaller.
_SHARED = {"rows", "columns", "vectors", "outputs", "thread_channels", "thread_pixels", "slices", "depth", "run"}


@dataclass(frozen=True)
class Move:
    """From the rules' choice to a candidate.

    Attributes
    ----------
    axis : str
        What is changed, of which rule: ``convolution tile.rows tile.vectors``.
    to : str
        And what it becomes: ``6 2``. What another algorithm or other kernels bring depends on the image's size, which
        is said there, by powers of two: ``F(4) 2^11``.
    is_structural : bool
        Other kernels or another algorithm; else it is only settings.
    """

    axis: str
    to: str
    is_structural: bool


def move_of(kernels: Sequence[Choice], candidate: Sequence[Choice], pixels: int) -> Move:
    """From the rules' choice of kernels to what may stand in their place; ``pixels``: of the first one's image."""
    if [choice.rule for choice in candidate] != [choice.rule for choice in kernels] or len(kernels) > 1:
        axis = f"{_rules(kernels)} as {_rules(candidate)}"
        return Move(axis, f"{' '.join(map(_algorithm, candidate))} 2^{pixels.bit_length() - 1}", is_structural=True)
    old, new = dict(_leaves(kernels[0].settings)), dict(_leaves(candidate[0].settings))
    changed = [path for path in new if new[path] != old.get(path) and path.rpartition(".")[2] not in _FOLLOWS]
    axis = " ".join((kernels[0].rule, *sorted(changed)))
    return Move(axis, " ".join(_value(old, new, path) for path in sorted(changed)), is_structural=False)


def _rules(choices: Sequence[Choice]) -> str:
    return ", ".join(choice.rule for choice in choices)


def _algorithm(choice: Choice) -> str:
    """Its rule, or Winograd's algorithm with the outputs of a tile."""
    outputs = [value for path, value in _leaves(choice.settings) if path.rpartition(".")[2] == "outputs"]
    return f"F({outputs[0]})" if choice.rule == "winograd" and outputs else choice.rule


def _leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings and those inside them, by their paths."""
    if not dataclasses.is_dataclass(settings):
        yield path, settings
        return
    for item in dataclasses.fields(settings):
        if item.compare:
            yield from _leaves(getattr(settings, item.name), f"{path}.{item.name}".removeprefix("."))


def _value(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> str:
    before, after = old.get(path), new[path]
    is_size = type(after) is int and type(before) is int and path.rpartition(".")[2] not in _SHARED
    return ("more" if after > before else "fewer") if is_size else str(after)
