"""What may be measured: the candidates of every kernel, each with a record that waits for its figures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.freedom import Freedom
from tsm_edge.compile.ir.layers import layer_names
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.record_keys import card_fingerprint, rules_version, signature
from tsm_edge.compile.recorded import tables_of
from tsm_edge.compile.records import Record
from tsm_edge.compile.trials import Network, differing_calls
from tsm_edge.errors import CompileError, TuneError
from tsm_edge.tune.moves import Move, move_of


@dataclass(frozen=True, eq=False)
class Candidate:
    """Other choices for one kernel of the rules.

    Attributes
    ----------
    choices : tuple of Choice
        For the same layers.
    blank : Record
        Its record, before it is measured.
    move : Move
        From the rules' choice.
    place : int
        From 0, among its kernel's candidates of one kind (structure or settings): the likeliest to be faster first.
    kernel_us : float
        Microseconds of all kernels of this shape in a step by the rules; 0: not known.
    """

    choices: tuple[Choice, ...]
    blank: Record
    move: Move
    place: int
    kernel_us: float


def kernels_to_tune(
    network: Network, microseconds: Mapping[tuple[str, ...], float], pattern: str
) -> tuple[Freedom, ...]:
    """The kernels whose name fits a pattern (as a shell's: ``features.1?*``), those that take most time first.

    Parameters
    ----------
    network : Network
    microseconds : mapping of tuple of str to float
        What each takes, by the names of its layers; of none: in the network's order.
    pattern : str

    Raises
    ------
    TuneError
        None fits; the known ones are listed.
    """
    named = [free for free in network.freedoms if any(fnmatchcase(name, pattern) for name in free.layers)]
    if not named:
        known = ", ".join(free.layers[0] for free in network.freedoms)
        raise TuneError(f"no kernel is named {pattern!r}", f"the kernels begin with: {known}")
    return tuple(sorted(named, key=lambda free: -microseconds.get(free.layers, 0.0)))


def candidates(
    network: Network,
    kernels: Sequence[Freedom],
    about: Mapping[str, str],
    microseconds: Mapping[tuple[str, ...], float] | None = None,
) -> Iterator[Candidate]:
    """All candidates of some kernels; kernels of equal layers have theirs once.

    ``microseconds`` are as of :func:`kernels_to_tune`.
    """
    names = layer_names(network.graph, network.layers)
    layers = {names[layer.output]: layer for layer in network.layers}
    target, precision = network.manifest.target, network.program.precision.name
    card, version = card_fingerprint(target), rules_version(target.device)
    alike: defaultdict[tuple[str, ...], list[Freedom]] = defaultdict(list)
    for free in kernels:
        alike[tuple(signature(network.graph, layers[name]) for name in free.layers)].append(free)
    for shapes, group in alike.items():
        free = group[0]
        kernel_us = sum((microseconds or {}).get(one.layers, 0.0) for one in group)
        pixels = math.prod(network.graph.shapes[layers[free.layers[0]].output][2:])
        places: Counter[bool] = Counter()
        for choices in free.others:
            blank = Record(
                accepted=False,
                layers=shapes,
                card=card,
                precision=precision,
                rules=version,
                choices=tables_of(choices, free.layers),
                ratio=None,
                rule_us=0.0,
                rounds=0,
                about={"layer": free.layers[0], **about},
                device=target.device,
            )
            move = move_of(free.kernels, choices, pixels)
            yield Candidate(choices, blank, move, places[move.is_structural], kernel_us)
            places[move.is_structural] += 1


def program_of(network: Network, candidate: Candidate) -> Program | None:
    """The program with a candidate for its kernel alone; None: it does not fit, or nothing differs."""
    try:
        program = network.with_choices(Choices(candidate.choices))
    except (CompileError, ValueError):
        return None
    own, _ = differing_calls(program, network.program)
    return program if own else None
