"""Names of machines, before the resolver is asked for them."""

from __future__ import annotations


def is_host(name: str) -> bool:
    """Whether it can be the name or address of a machine: labels of 1 to 63 characters.

    The resolver raises no ``OSError`` for another one, as it does for a machine that is not there.
    """
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False
