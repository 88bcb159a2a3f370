"""Whether a device's clock goes as this machine's, from what is surely before or after what."""

from __future__ import annotations

# Two looks may disagree by so much, and by this share of the time between them.
_OFF_S, _OFF = 0.25, 0.05


class ClockWatch:
    """Bounds how far two clocks are apart, call after call.

    A call's frames run after it is asked for and before it is answered. However long either waits for a core or the
    network, the difference of the clocks lies between two bounds. Where bounds exclude each other, a clock jumped.
    """

    def __init__(self) -> None:
        self._bounds: tuple[float, float] | None = None
        self._asked_s = 0.0

    def jump_s(self, asked_s: float, answered_s: float, first_s: float, last_s: float) -> float | None:
        """Add a call; returns by how much, at least, the device's clock jumped ahead since the last; None: it did not.

        Parameters
        ----------
        asked_s, answered_s : float
            On this machine's clock.
        first_s, last_s : float
            When the first frame began and the last one ended, on the device's clock.
        """
        low, high = asked_s - first_s, answered_s - last_s
        drift_s = _OFF * max(0.0, asked_s - self._asked_s)
        before_low, before_high = self._bounds or (low, high)
        before_low, before_high = before_low - drift_s, before_high + drift_s
        if max(before_low, low) - high > _OFF_S:  # also a call that took longer there than here
            return max(before_low, low) - high
        if low - before_high > _OFF_S:
            return before_high - low
        both = (max(before_low, low), min(before_high, high))
        self._bounds = both if both[0] <= both[1] else (low, high)
        self._asked_s = asked_s
        return None
