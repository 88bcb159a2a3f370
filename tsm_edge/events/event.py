"""An event, and how it is written for others."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from dataclasses import dataclass
from typing import Literal

EventType = Literal["start", "end"]


@dataclass(frozen=True)
class Event:
    """A label began or ended.

    Attributes
    ----------
    id : str
        Of this message; whoever has seen it need not act on it again.
    event_type : {"start", "end"}
    event_id : str
        Of what happened: the same at its start and its end.
    label : str
    class_index : int
    probability : float
        At the start; at the end the highest there was.
    time : str
        When it began to be shown, or was shown last: RFC 3339, UTC, by this machine's clock, which may be set wrongly.
    duration_s : float
        From there to now, or of the whole; by a clock that nobody sets. Seconds.
    frame : int
        Index in the source.
    model, source : str
    """

    id: str
    event_type: EventType
    event_id: str
    label: str
    class_index: int
    probability: float
    time: str
    duration_s: float
    frame: int
    model: str
    source: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


def new_id() -> str:
    """An identity nobody else has."""
    return uuid.uuid4().hex


def rfc3339(time_s: float) -> str:
    """``time.time()`` as text, in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
