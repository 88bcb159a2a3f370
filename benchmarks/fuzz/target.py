"""What a target is, and where to find it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, cast

from benchmarks.fuzz import targets


class Target(Protocol):
    """A module of ``targets/``."""

    name: str

    def make(self, seed: int) -> Any:
        """The input of a seed."""

    def run(self, given: Any) -> None:
        """Hand the input to the code under test."""


def target_modules() -> dict[str, str]:
    """Names of all targets, sorted, and their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(targets.__path__))
    return {name: f"{targets.__name__}.{name}" for name in names}


def load_target(module: str) -> Target:
    """Import a target."""
    return cast(Target, importlib.import_module(module))
