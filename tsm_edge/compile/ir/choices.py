"""What the rules decide for each kernel, as values that can be written down, read back and used instead of the rules.

The rules decide today; a tuning record decides tomorrow, by handing ``lower`` the choices it found. A choice names the
layers that one kernel computes (fusion), the rule that writes it (the algorithm) and the rule's own settings (tiles,
blocks of the k loop, prefetch, pairing), a frozen dataclass of its module.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tsm_edge.errors import CompileError

_Settings = TypeVar("_Settings")
_WITHOUT = "compile without these choices: the rules then decide"


@dataclass(frozen=True)
class Choice:
    """Of one kernel.

    Attributes
    ----------
    rule : str
        Name of the rule that writes it.
    layers : tuple of str
        Names of the layers it computes, in order (:func:`tsm_edge.compile.ir.layers.layer_names`).
    settings : object
        A frozen dataclass of the rule; None: the rule has nothing to choose, or shall choose.
    """

    rule: str
    layers: tuple[str, ...]
    settings: Any = None

    def to_table(self) -> dict[str, Any]:
        """As JSON knows it; :meth:`Choices.from_tables` is its inverse."""
        settings = None if self.settings is None else _to_plain(self.settings)
        return {"rule": self.rule, "layers": list(self.layers), "settings": settings}

    def refused(self) -> CompileError:
        """The error that its rule cannot take its layers."""
        return CompileError(f"choices: rule {self.rule!r} cannot take the layers {', '.join(self.layers)}", _WITHOUT)


@dataclass(frozen=True)
class Choices:
    """Choices of some kernels, each for other layers; the rules decide for the layers that are in none of them."""

    kernels: tuple[Choice, ...] = ()

    def __post_init__(self) -> None:
        layers = [layer for choice in self.kernels for layer in choice.layers]
        twice = sorted({layer for layer in layers if layers.count(layer) > 1})
        if twice:
            raise CompileError(
                f"choices: layer {twice[0]!r} is in two kernels, expected one",
                _WITHOUT,
            )

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.kernels)

    def check_layers(self, names: Collection[str]) -> None:
        """Refuse choices for layers that a model does not have.

        Raises
        ------
        CompileError
            One does not.
        """
        missing = next((layer for choice in self.kernels for layer in choice.layers if layer not in names), None)
        if missing is not None:
            raise CompileError(f"choices: the model has no layer {missing!r}", _WITHOUT)

    def of(self, layer: str) -> Choice | None:
        """The choice of the kernel that computes a layer; None: there is none."""
        return next((choice for choice in self.kernels if layer in choice.layers), None)

    def settings(self, last: str, kind: type[_Settings]) -> _Settings | None:
        """What was chosen for the kernel whose last layer has a name; None: nothing.

        Raises
        ------
        CompileError
            The choice is of another rule.
        """
        found = next((choice for choice in self.kernels if choice.layers[-1] == last), None)
        if found is None or found.settings is None:
            return None
        if not isinstance(found.settings, kind):
            raise CompileError(
                f"choices: layer {last!r} has settings of rule {found.rule!r}, which does not write its kernel",
                _WITHOUT,
            )
        return found.settings

    @classmethod
    def from_tables(cls, tables: Iterable[Mapping[str, Any]], settings: Mapping[str, type | None]) -> Choices:
        """Read :meth:`Choice.to_table`'s values back.

        Parameters
        ----------
        tables : iterable of mappings
        settings : mapping of str to type
            The rules known and the type of their settings (``rules.settings_of_rules``).

        Raises
        ------
        CompileError
            An unknown rule, or settings that are not its own.
        """
        return cls(tuple(_choice(table, settings) for table in tables))


def _choice(table: Mapping[str, Any], settings: Mapping[str, type | None]) -> Choice:
    try:
        rule, layers = str(table["rule"]), tuple(map(str, table["layers"]))
        if not layers:
            raise ValueError("there is no layer")
        kind = settings[rule]
        given = table["settings"]
        return Choice(rule, layers, None if kind is None or given is None else _from_plain(kind, given))
    except KeyError as error:
        known = ", ".join(settings)
        raise CompileError(f"choices: {error} is missing or unknown (rules are {known})", _WITHOUT) from None
    except (AttributeError, TypeError, ValueError) as error:
        raise CompileError(f"choices: {table.get('layers')} cannot be read ({error})", _WITHOUT) from None


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _to_plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare}
    return [_to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _from_plain(kind: Any, value: Any) -> Any:
    """``value`` as an instance of ``kind``: a dataclass, a tuple, or one of JSON's own types.

    Raises
    ------
    TypeError
        It is something else, or a field is missing or unknown.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        return kind(**{name: _from_plain(hints[name], entry) for name, entry in value.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(_from_plain(typing.get_args(kind)[0], entry) for entry in value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{value!r}, expected {kind.__name__}")
    return value
