"""Which output of a model is the next value of which cache input."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tsm_edge.compile.ir.graph import CachePair, Shape
from tsm_edge.errors import ModelFileError

Pairs = dict[str, str]
# Words that only say which way a tensor goes, or which of two frames it belongs to.
_DIRECTIONS = frozenset(
    [
        *("i", "in", "input", "inputs", "from", "prev", "previous", "past", "old", "last", "cur", "current", "now"),
        *("o", "out", "output", "outputs", "to", "next", "new", "present", "update", "updated"),
    ]
)


def pair_caches(
    path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], named: Mapping[str, str] | None
) -> tuple[CachePair, ...]:
    """Find the output of each cache: as ``named``, else by names, or by a shape that occurs once.

    Parameters
    ----------
    path : Path
        Of the ONNX file, for messages.
    inputs, outputs : dict of str to tuple of int
        Shapes of the graph's inputs and outputs.
    named : dict of str to str or None
        Cache input name → cache output name, as the user gave them.

    Raises
    ------
    ModelFileError
        A name is unknown, a cache does not keep its shape, or neither names nor shapes decide.
    """
    if named:
        pairs = _given(path, inputs, outputs, named)
    elif any(f"{name}_next" in outputs for name in inputs):
        pairs = {name: f"{name}_next" for name in inputs if f"{name}_next" in outputs}
    else:
        pairs = _found(path, inputs, outputs)
    for source, sink in pairs.items():
        if inputs[source] != outputs[sink]:
            raise ModelFileError(
                f"{path}: cache {source!r} is {list(inputs[source])} but {sink!r} is {list(outputs[sink])}; "
                "a cache keeps its shape",
                "name the pairs with: --cache INPUT=OUTPUT",
            )
    return tuple(CachePair(source, sink, inputs[source]) for source, sink in pairs.items())


def _given(path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], named: Mapping[str, str]) -> Pairs:
    for kind, names, known in (("input", named, inputs), ("output", named.values(), outputs)):
        for name in names:
            if name not in known:
                raise ModelFileError(
                    f"{path}: --cache names {kind} {name!r}; known are {', '.join(known)}",
                    f"give the names as they are: --cache INPUT=OUTPUT with an {kind} of these",
                )
    taken = list(named.values())
    for name in taken:
        if taken.count(name) > 1:
            raise ModelFileError(
                f"{path}: --cache feeds output {name!r} to {taken.count(name)} inputs",
                "name one output for each: --cache INPUT=OUTPUT",
            )
    return {name: named[name] for name in inputs if name in named}


def _found(path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Pairs:
    """By shapes, and by names among caches of one shape."""
    pairs: Pairs = {}
    undecided = False
    for shape in dict.fromkeys(inputs.values()):
        sources = [name for name in inputs if inputs[name] == shape]
        sinks = [name for name in outputs if outputs[name] == shape]
        by_name = pair_names(sources, sinks)
        undecided |= by_name is None and bool(sinks) and not len(sources) == len(sinks) == 1
        pairs |= by_name or dict(zip(sources, sinks, strict=False))
    if len(pairs) != len(inputs) - 1:
        raise ModelFileError(
            f"{path}: cannot tell the caches from the frame: {len(inputs)} inputs, {len(pairs)} of which have an "
            "output of the same shape (expected all but the frame)",
            "name them with: --cache INPUT=OUTPUT",
        )
    if undecided:
        listed = " ".join(f"--cache {shlex.quote(f'{name}={pairs[name]}')}" for name in inputs if name in pairs)
        raise ModelFileError(
            f"{path}: names do not say which output is fed back to which of the caches of one shape",
            f"in their order they would be paired as follows; correct it and compile again with: {listed}",
        )
    return {name: pairs[name] for name in inputs if name in pairs}


def pair_names(sources: Sequence[str], sinks: Sequence[str]) -> Pairs | None:
    """Pair names whose words and numbers are the same but for the direction: ``buf9`` with ``buf9_out``.

    Parameters
    ----------
    sources, sinks : sequence of str
        Every sink has a source; one source more than sinks is the frame.

    Returns
    -------
    dict of str to str or None
        Source → sink; None: the names do not decide.
    """
    by_key = {_key(name): name for name in sources}
    wanted = {_key(name): name for name in sinks}
    if len(by_key) != len(sources) or len(wanted) != len(sinks) or not wanted.keys() <= by_key.keys():
        return None
    return {by_key[key]: name for key, name in wanted.items()}


def _key(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, without those of direction."""
    parts = re.findall(r"\d+|[A-Z]?[^\W\d_A-Z]+|[A-Z]+", name)
    words = [part.lower() for part in parts]
    return tuple((word.lstrip("0") or "0") if word.isdecimal() else word for word in words if word not in _DIRECTIONS)
