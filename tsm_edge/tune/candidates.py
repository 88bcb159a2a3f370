"""What is to be measured, and in which order: most time first, the likeliest candidates of every kernel first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tsm_edge.compile.backends.cpu.space import Freedom
from tsm_edge.compile.backends.cpu.version import RULES_VERSION
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.layers import layer_names
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.record_keys import card_fingerprint, signature
from tsm_edge.compile.recorded import tables_of
from tsm_edge.compile.records import Record
from tsm_edge.compile.trials import Network, differing_calls
from tsm_edge.errors import CompileError, TuneError

# Candidates of a kernel that are tried before those of the next one come.
A_PASS = 6


@dataclass(frozen=True, eq=False)
class Candidate:
    """Other choices for one kernel of the rules.

    Attributes
    ----------
    choices : tuple of Choice
        For the same layers.
    blank : Record
        Its record, before it is measured.
    """

    choices: tuple[Choice, ...]
    blank: Record


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
    named = [free for free in network.freedoms if any(fnmatchcase(name, pattern) for name in free.chosen.layers)]
    if not named:
        known = ", ".join(free.chosen.layers[0] for free in network.freedoms)
        raise TuneError(f"no kernel is named {pattern!r}", f"the kernels begin with: {known}")
    return tuple(sorted(named, key=lambda free: -microseconds.get(free.chosen.layers, 0.0)))


def candidates(network: Network, kernels: Sequence[Freedom], about: Mapping[str, str]) -> Iterator[Candidate]:
    """All candidates of some kernels, a pass after the other; kernels of equal layers have theirs once."""
    names = layer_names(network.graph, network.layers)
    layers = {names[layer.output]: layer for layer in network.layers}
    card, precision = card_fingerprint(network.manifest.target), network.program.precision.name
    ways: dict[tuple[str, ...], list[Candidate]] = {}
    for free in kernels:
        shapes = tuple(signature(network.graph, layers[name]) for name in free.chosen.layers)
        if shapes in ways:
            continue
        ways[shapes] = [
            Candidate(
                choices,
                Record(
                    accepted=False,
                    layers=shapes,
                    card=card,
                    precision=precision,
                    rules=RULES_VERSION,
                    choices=tables_of(choices, free.chosen.layers),
                    ratio=None,
                    rule_us=0.0,
                    rounds=0,
                    about={"layer": free.chosen.layers[0], **about},
                ),
            )
            for choices in free.others
        ]
    for start in range(0, max(map(len, ways.values()), default=0), A_PASS):
        for group in ways.values():
            yield from group[start : start + A_PASS]


def program_of(network: Network, candidate: Candidate) -> Program | None:
    """The program with a candidate for its kernel alone; None: it does not fit, or nothing differs."""
    try:
        program = network.with_choices(Choices(candidate.choices))
    except (CompileError, ValueError):
        return None
    own, _ = differing_calls(program, network.program)
    return program if own else None
