"""Finds events in a sequence of labels, by rules. Times are the source's: a clock that is set changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tsm_edge.events.event import Event, EventType, new_id, rfc3339
from tsm_edge.events.rules import ANY, Rule


@dataclass(frozen=True)
class Sight:
    """What was shown on a frame.

    Attributes
    ----------
    label : str
    class_index : int
    probability : float
    time_s : float
        Of the frame in its source, seconds.
    wall_s : float
        ``time.time()``.
    frame : int
        Index in the source.
    broken : bool
        This frame does not continue the one before.
    """

    label: str
    class_index: int
    probability: float
    time_s: float
    wall_s: float
    frame: int
    broken: bool = False


class Detector:
    """Applies rules to the frames of one source.

    Parameters
    ----------
    rules : sequence of Rule
    model, source : str
        For the events.
    """

    def __init__(self, rules: Sequence[Rule], model: str, source: str) -> None:
        self._watchers = [_Watcher(rule, model, source) for rule in rules]

    def update(self, sight: Sight) -> list[Event]:
        """Take a frame; return what began or ended with it."""
        return [event for watcher in self._watchers for event in watcher.update(sight)]

    def finish(self) -> list[Event]:
        """End what goes on: there are no more frames."""
        return [event for watcher in self._watchers for event in watcher.end()]


@dataclass
class _Active:
    """An event that goes on."""

    first: Sight
    last: Sight
    best: float
    id: str = field(default_factory=new_id)


class _Watcher:
    """One rule."""

    def __init__(self, rule: Rule, model: str, source: str) -> None:
        self._rule = rule
        self._model, self._source = model, source
        self._active: _Active | None = None
        self._candidate: Sight | None = None
        self._cool_until_s: dict[str, float] = {}

    def update(self, sight: Sight) -> list[Event]:
        events = self._break_off() if sight.broken else []
        active = self._active
        holds = sight.label if self._holds(sight) else None
        if active is not None and holds == active.first.label:
            active.last, active.best = sight, max(active.best, sight.probability)
            holds = None
        elif active is not None and sight.time_s - active.last.time_s >= self._rule.release_s:
            events += self.end()
        if holds is None:
            self._candidate = None
            return events
        if self._candidate is None or self._candidate.label != holds:
            self._candidate = sight
        if self._is_due(sight):
            events += self.end()
            events.append(self._begin(self._candidate, sight))
        return events

    def end(self) -> list[Event]:
        """End the event that goes on, if there is one."""
        active, self._active = self._active, None
        if active is None:
            return []
        self._cool_until_s[active.first.label] = active.last.time_s + self._rule.cool_down_s
        duration_s = active.last.time_s - active.first.time_s
        return [self._event("end", active.id, active.last, active.last.wall_s, active.best, duration_s)]

    def _begin(self, first: Sight, now: Sight) -> Event:
        self._active = _Active(first, now, now.probability)
        self._candidate = None
        duration_s = now.time_s - first.time_s
        return self._event("start", self._active.id, now, first.wall_s, now.probability, duration_s)

    def _break_off(self) -> list[Event]:
        events = self.end()
        self._candidate = None
        # The source's time may begin again.
        self._cool_until_s.clear()
        return events

    def _holds(self, sight: Sight) -> bool:
        return self._rule.label in (ANY, sight.label) and sight.probability >= self._rule.probability

    def _is_due(self, sight: Sight) -> bool:
        """Whether the candidate has been shown for long enough, and its cool-down is over."""
        first = self._candidate
        if first is None or sight.time_s < self._cool_until_s.get(sight.label, sight.time_s):
            return False
        return sight.time_s - first.time_s >= self._rule.duration_s

    def _event(
        self, kind: EventType, event_id: str, sight: Sight, wall_s: float, probability: float, duration_s: float
    ) -> Event:
        return Event(
            id=new_id(),
            event_type=kind,
            event_id=event_id,
            label=sight.label,
            class_index=sight.class_index,
            probability=round(probability, 4),
            time=rfc3339(wall_s),
            duration_s=round(duration_s, 3),
            frame=sight.frame,
            model=self._model,
            source=self._source,
        )
