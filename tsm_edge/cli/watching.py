"""The options of ``tsm-edge run`` for those who watch it: a page, events, a service manager."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tsm_edge.cli.output import warn
from tsm_edge.cli.streams import print_to_stderr
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.artifact.manifest import Manifest
    from tsm_edge.live.observer import Observer
    from tsm_edge.video.source import SourceInfo

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Watching:
    """What was asked for.

    Attributes
    ----------
    page : str or None
        ``[HOST:]PORT``.
    page_token : Path or None
        A file.
    """

    page: str | None = None
    page_token: Path | None = None


_OPTIONS = (
    click.option("--page", metavar="[HOST:]PORT", help="Show the run on a page in the browser."),
    click.option("--page-token", metavar="FILE", type=click.Path(path_type=Path), help="Holds the page's secret."),
)


def watching_options(command: _Command) -> _Command:
    """Add the options; the command gets them as ``watching``."""
    names = [item.name for item in dataclasses.fields(Watching)]

    @functools.wraps(command)
    def with_watching(*args: Any, **options: Any) -> Any:
        asked = Watching(**{name: options.pop(name) for name in names})
        return command(*args, watching=asked, **options)

    decorated: Any = with_watching
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


@contextmanager
def watched(asked: Watching, manifest: Manifest, info: SourceInfo) -> Iterator[list[Observer]]:
    """Open what was asked for; yields what the run shall tell."""
    with ExitStack() as stack:
        observers: list[Observer] = []
        if asked.page is not None:
            observers.append(stack.enter_context(_page(asked, manifest, info)))
        yield observers


def _page(asked: Watching, manifest: Manifest, info: SourceInfo) -> Any:
    require("page", "--page")
    from tsm_edge.page.address import Address, open_door
    from tsm_edge.page.publisher import Publisher
    from tsm_edge.page.wire import About

    door = open_door(Address.parse(asked.page or ""), asked.page_token)
    about = About(manifest.model, info.name, manifest.labels, manifest.random_weights, door.token)
    publisher = Publisher(door, about, manifest.activation, list)
    if door.warning:
        warn(door.warning)
    print_to_stderr(f"page: {door.url}")  # not by `note`, which hides tokens
    return publisher
