"""What model and target cards have in common: names and ranges."""

from __future__ import annotations

from tsm_edge.cards.tables import shown
from tsm_edge.errors import CardError


def check_range(name: str, value: float, least: float, most: float, unit: str = "") -> None:
    """Refuse a value that is not in a range, both ends included."""
    if not least <= value <= most:
        raise CardError(f"{name} is {shown(value)}{unit}, expected {least:g} to {most}{unit}", f"correct {name}")


def check_name(name: str) -> None:
    """Refuse a name that cannot be part of a folder's: ``out/MODEL-TARGET``."""
    plain = name.isprintable() and name == name.strip() and name[:1] not in ("", ".", "-") and not {*name} & {*"/\\"}
    if not plain or len(name.encode()) > 100:
        raise CardError(
            f"name is {shown(name)}, expected a plain name: no '/' or '\\\\', no leading '.' or '-', at most 100 bytes",
            'set another one, as in name = "my-model"',
        )
