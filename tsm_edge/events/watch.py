"""Watches a run for events, and hands them on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

from tsm_edge.events.courier import Counts, Courier, plain
from tsm_edge.events.detector import Detector, Sight
from tsm_edge.events.event import Event
from tsm_edge.events.outbox import Letter
from tsm_edge.live.observer import Snapshot

_SILENT_S = 2.0


class Camera(Protocol):
    """Keeps clips of events (:class:`tsm_edge.events.recorder.Recorder`)."""

    def see(self, snapshot: Snapshot) -> None:
        """Take a frame; returns at once."""

    def note(self, event: Event) -> None:
        """Know of an event; returns at once."""

    @property
    def counts(self) -> tuple[Counts, ...]:
        """What became of clips."""

    def close(self) -> None:
        """Finish."""


class Watch:
    """An observer that finds events; a context manager that at its end waits a little for what is on its way.

    Parameters
    ----------
    detector : Detector
    couriers : sequence of Courier
        Closed at the end.
    recorder : Camera, optional
        Closed at the end.
    """

    def __init__(self, detector: Detector, couriers: Sequence[Courier], recorder: Camera | None = None) -> None:
        self._detector = detector
        self._couriers = tuple(couriers)
        self._recorder = recorder
        self._seen_s = 0.0

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for event in self._detector.finish():
            self._tell(event)
        if self._recorder is not None:
            self._recorder.close()
        for courier in self._couriers:
            courier.close()

    def see(self, snapshot: Snapshot) -> None:
        """Take a prediction."""
        if self._recorder is not None:
            self._recorder.see(snapshot)
        self._seen_s = snapshot.monotonic_s
        result = snapshot.result
        sight = Sight(
            label=result.label,
            class_index=result.class_index,
            probability=result.probability,
            time_s=result.time_s,
            wall_s=snapshot.time_s,
            frame=result.index,
            broken=result.reset not in ("", "start"),
        )
        for event in self._detector.update(sight):
            self._tell(event)

    def idle(self) -> None:
        """End what goes on when the source has been silent for long."""
        if time.monotonic() - self._seen_s > _SILENT_S:
            for event in self._detector.finish():
                self._tell(event)

    def counters(self) -> list[dict[str, Any]]:
        """What became of events, by receiver."""
        return [plain(item) for item in self._counts()]

    def losses(self) -> list[str]:
        """What to say at the end of a run of what did not arrive."""
        return [
            f"{item.name}: {item.lost} lost, {item.waiting} not delivered{f' ({item.trouble})' if item.trouble else ''}"
            for item in self._counts()
            if item.lost or item.waiting
        ]

    def _counts(self) -> list[Counts]:
        recorded = self._recorder.counts if self._recorder is not None else ()
        return [*(courier.counts for courier in self._couriers), *recorded]

    def _tell(self, event: Event) -> None:
        if self._recorder is not None:
            self._recorder.note(event)
        for courier in self._couriers:
            courier.put(Letter(event.id, event.to_json()))
