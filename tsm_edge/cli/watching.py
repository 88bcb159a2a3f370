"""The options of ``tsm-edge run`` for those who watch it: a page, events, a service manager."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import warn
from tsm_edge.cli.streams import print_to_stderr
from tsm_edge.extras import require
from tsm_edge.files.paths import refuse_replacing

if TYPE_CHECKING:
    from tsm_edge.artifact.manifest import Manifest
    from tsm_edge.events.courier import Receiver
    from tsm_edge.events.watch import Watch
    from tsm_edge.live.observer import Observer
    from tsm_edge.page.publisher import Counters, Publisher
    from tsm_edge.video.base import SourceInfo

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Watching:
    """What was asked for; None: not.

    Attributes
    ----------
    page : str or None
        ``[HOST:]PORT``.
    page_token, events, rules, webhook_secret, mqtt_login : Path or None
        Files.
    webhook, mqtt : str or None
        Addresses.
    spool, record : Path or None
        Folders.
    record_quota : float or None
        MB.
    name : str or None
        Of this run, among others at a broker.
    """

    page: str | None
    page_token: Path | None
    events: Path | None
    rules: Path | None
    webhook: str | None
    webhook_secret: Path | None
    mqtt: str | None
    mqtt_login: Path | None
    spool: Path | None
    record: Path | None
    record_quota: float | None
    name: str | None

    @property
    def tells(self) -> bool:
        """Whether events are looked for."""
        return any((self.events, self.webhook, self.mqtt, self.record))

    def check(self) -> None:
        """Refuse an option that only goes with another one.

        Raises
        ------
        UsageError
            It stands alone.
        """
        for option, needs, wrong in (
            ("--page-token", "--page", self.page_token and not self.page),
            ("--webhook-secret", "--webhook", self.webhook_secret and not self.webhook),
            ("--mqtt-login", "--mqtt", self.mqtt_login and not self.mqtt),
            ("--rules", "--events, --webhook, --mqtt or --record", self.rules and not self.tells),
            ("--spool", "--events, --webhook or --mqtt", self.spool and not (self.events or self.webhook or self.mqtt)),
            ("--name", "--mqtt", self.name and not self.mqtt),
            ("--record-quota", "--record", self.record_quota and not self.record),
        ):
            if wrong:
                raise click.UsageError(f"{option} goes with {needs}")


_QUOTA_MB = 1000.0
_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--page", metavar="[HOST:]PORT", help="Show the run on a page in the browser."),
    click.option(
        "--page-token", metavar="FILE", type=_FILE, help="Holds the page's secret.  [default: a new one at each start]"
    ),
    click.option("--events", metavar="FILE.jsonl", type=_FILE, help="Append a line when a label begins or ends."),
    click.option(
        "--rules",
        metavar="FILE.toml",
        type=_FILE,
        help="Which labels are events.  [default: any from 0.5 on that lasts 0.5 s]",
    ),
    click.option("--webhook", metavar="URL", help="Send events there by POST."),
    click.option("--webhook-secret", metavar="FILE", type=_FILE, help="Sign what is sent there."),
    click.option("--mqtt", metavar="HOST[:PORT]", help="Publish events at this broker."),
    click.option("--mqtt-login", metavar="FILE", type=_FILE, help="Holds USER:PASSWORD for the broker."),
    click.option("--spool", metavar="DIR", type=_FILE, help="Keep events here until they have arrived."),
    click.option("--record", metavar="DIR", type=_FILE, help="Keep a clip of each event here."),
    click.option(
        "--record-quota", metavar="MB", type=RealRange(min=1), help=f"Room for clips.  [default: {_QUOTA_MB:.0f}]"
    ),
    click.option("--name", metavar="NAME", help="Of this run, at the broker."),
)


def checked_watching(options: Mapping[str, Any]) -> Watching:
    """What a command's parameters ask for.

    Raises
    ------
    UsageError
        As from :meth:`Watching.check`.
    """
    asked = Watching(**{item.name: options[item.name] for item in dataclasses.fields(Watching)})
    asked.check()
    return asked


def watching_options(command: _Command) -> _Command:
    """Add the options; the command gets them as ``watching``."""

    @functools.wraps(command)
    def with_watching(*args: Any, **options: Any) -> Any:
        asked = checked_watching(options)
        others = {name: value for name, value in options.items() if name not in vars(asked)}
        return command(*args, watching=asked, **others)

    decorated: Any = with_watching
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


@contextmanager
def watched(asked: Watching, manifest: Manifest, info: SourceInfo) -> Iterator[list[Observer]]:
    """Open what was asked for; yields what the run shall tell."""
    from tsm_edge.service.notify import heartbeat_of

    with ExitStack() as stack:
        observers: list[Observer] = []
        heartbeat = heartbeat_of(os.environ)
        if heartbeat is not None:
            observers.append(stack.enter_context(heartbeat))
        counters: Counters = list
        if asked.tells:
            watch = open_watch(asked, manifest, info)
            stack.callback(_tell_losses, watch)
            observers.append(stack.enter_context(watch))
            counters = watch.counters
        if asked.page is not None:
            observers.append(stack.enter_context(_open_page(asked, manifest, info, counters)))
        yield observers


def _tell_losses(watch: Watch) -> None:
    for text in watch.losses():
        warn(text)


def _open_page(asked: Watching, manifest: Manifest, info: SourceInfo, counters: Counters) -> Publisher:
    require("page", "--page")
    from tsm_edge.page.address import Address, open_door
    from tsm_edge.page.publisher import Publisher
    from tsm_edge.page.wire import About

    door = open_door(Address.parse(asked.page or ""), asked.page_token)
    about = About(manifest.model, info.name, manifest.labels, manifest.random_weights, door.token)
    publisher = Publisher(door, about, manifest.activation, counters)
    if door.warning:
        warn(door.warning)
    print_to_stderr(f"page: {door.url}")  # not by `note`, which hides tokens
    return publisher


def open_watch(asked: Watching, manifest: Manifest, info: SourceInfo) -> Watch:
    """Open the receivers of events."""
    from tsm_edge.events.courier import Courier
    from tsm_edge.events.detector import Detector
    from tsm_edge.events.outbox import Outbox
    from tsm_edge.events.recorder import Recorder, Recording
    from tsm_edge.events.rules import DEFAULT_RULES, read_rules
    from tsm_edge.events.watch import Watch

    rules = DEFAULT_RULES if asked.rules is None else read_rules(asked.rules, manifest.labels)
    receivers = _receivers(asked, manifest, info)
    boxes = [Outbox(asked.spool and asked.spool / f"{receiver.name}.sqlite") for receiver in receivers]
    recorder = None
    if asked.record is not None:
        recorder = Recorder(Recording(asked.record, quota_bytes=int((asked.record_quota or _QUOTA_MB) * 1e6)), info)
    detector = Detector(rules, manifest.model, info.name)
    couriers = [Courier(receiver, box) for receiver, box in zip(receivers, boxes, strict=True)]
    return Watch(detector, couriers, recorder)


def _receivers(asked: Watching, manifest: Manifest, info: SourceInfo) -> list[Receiver]:
    receivers: list[Receiver] = []
    if asked.webhook is not None:
        from tsm_edge.events.webhook import Webhook, read_secret

        secret = b"" if asked.webhook_secret is None else read_secret(asked.webhook_secret)
        receivers.append(Webhook(asked.webhook, secret))
    if asked.events is not None:
        from tsm_edge.events.jsonl import JsonLines

        refuse_replacing(asked.events, [info.path], "--events FILE.jsonl")
        receivers.append(JsonLines(asked.events))
    if asked.mqtt is not None:
        require("mqtt", "--mqtt")
        from tsm_edge.events.mqtt import Broker, Mqtt, default_node, node_name

        node = node_name(asked.name) if asked.name else default_node(manifest.model)
        receivers.append(Mqtt(Broker.parse(asked.mqtt, asked.mqtt_login), node, manifest.model))
    return receivers
