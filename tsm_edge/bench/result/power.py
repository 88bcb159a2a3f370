"""What the frames cost in energy."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.power.measure import RailPower


@dataclass(frozen=True)
class Power:
    """Power and energy of the same frames as the latency.

    Attributes
    ----------
    sensor : str
    boundary : str
        SoC, module, board, wall or unknown.
    covers : str
        The same in words.
    gross_w, idle_w, net_w : float
    idle_before_w, idle_after_w : float
    gross_j, net_j : float
    gross_j_per_frame, net_j_per_frame : float
    frames : int
    duration_s : float
        Of the frames.
    rails : tuple of RailPower
    uncertainty_percent : float or None
    uncertainty : str
    samples : int
    rate_hz, jitter_ms, longest_gap_ms : float
    remarks : tuple of str
    """

    sensor: str
    boundary: str
    covers: str
    gross_w: float
    idle_w: float
    net_w: float
    idle_before_w: float
    idle_after_w: float
    gross_j: float
    net_j: float
    gross_j_per_frame: float
    net_j_per_frame: float
    frames: int
    duration_s: float
    rails: tuple[RailPower, ...]
    uncertainty_percent: float | None
    uncertainty: str
    samples: int
    rate_hz: float
    jitter_ms: float
    longest_gap_ms: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watts:
    """Total power at a moment: seconds since the first measured frame, W."""

    at_s: float
    power_w: float
