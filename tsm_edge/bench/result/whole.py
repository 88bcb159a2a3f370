"""One model on one machine: what was measured, how, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tsm_edge.bench.result.environment import Environment
from tsm_edge.bench.result.kernels import KernelFigures
from tsm_edge.bench.result.latency import CameraToLabel, Deadlines, Latency, Refused, Samples, Startup, Yardstick
from tsm_edge.bench.result.power import Power, Watts

Route = Literal["local", "rpc", "ssh", "adb"]
Level = Literal["good", "note", "bad"]
"""Of a verdict: nothing to see, worth knowing, or the figures do not say what they seem to."""


@dataclass(frozen=True)
class Model:
    """What was measured.

    Attributes
    ----------
    name, target, precision : str
        Of the model card, the target card, and the element type the model computes with (``fp32``).
    path : str
        The artifact's folder, as it was given.
    sha256 : str
        Of ``model.so``.
    frame_shape : tuple of int
        [1, 3, height, width]; of a model of clips all frames of a step.
    flops, bytes : int
        Arithmetic of a step, and what its kernels move (inputs, weights and outputs, once each).
    device : {"cpu", "cuda"}
        What runs the kernels.
    """

    name: str
    target: str
    precision: str
    path: str
    sha256: str
    frame_shape: tuple[int, ...]
    flops: int
    bytes: int
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def unit(self) -> str:
        """What is timed, for people: a frame; of a model of clips a step, which takes several."""
        return "step" if self.frame_shape[:1] > (1,) else "frame"


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes
    ----------
    frames : int or None
        Frames asked for. None: as many as fit ``duration_s``.
    duration_s : float or None
    warmup_s, warmup_frames : float, int
        Both were reached before the first sample.
    threads : int or None
        None: the server decides, every core by default.
    fps : float or None
        Paced at so many frames a second; None: each frame follows the last at once.
    different_frames : int
        So many different frames are given in turn.
    power : str
        The sensor asked for.
    video : str or None
        File or stream of the camera-to-label times.
    """

    frames: int | None
    duration_s: float | None
    warmup_s: float
    warmup_frames: int
    threads: int | None
    fps: float | None
    different_frames: int
    power: str
    video: str | None = None


@dataclass(frozen=True)
class Verification:
    """The model against its golden frames, on the machine that was measured.

    Attributes
    ----------
    passed : bool
    frames : int
    against : str
    relative_error, tolerance : float or None
        Of the largest value: the largest of all outputs.
    """

    passed: bool
    frames: int
    against: str
    relative_error: float | None
    tolerance: float | None


@dataclass(frozen=True)
class Verdict:
    """What a figure means, in words.

    Attributes
    ----------
    name : str
        ``stationary``, ``variation``, ``throttled``, ``clock``, ``shared``, ``bound``, ``verified``, ``deadlines``, …
    level : {"good", "note", "bad"}
    text : str
        A sentence with its numbers and units.
    """

    name: str
    level: Level
    text: str


@dataclass(frozen=True)
class Result:
    """One model on one machine.

    Attributes
    ----------
    name : str
        What a report calls it.
    route : {"local", "rpc", "ssh", "adb"}
    address : str or None
        Of the machine; None: this one.
    server : str or None
        What serves there, with its version.
    started : str
        ISO 8601, UTC, by this machine's clock.
    command : str
        Repeats it.
    clock : str
        Which clock timed the frames, in words.
    model : Model
    settings : Settings
    startup : Startup
    latency_ms : Latency
        Of the step: frame in memory to logits in memory, on the device. Never the network.
    fps : float or None
        Frames over the time they took.
    samples : Samples
    kernels_ms : Latency or None
        Sum of a frame's kernels.
    camera_to_label : CameraToLabel or None
    deadlines : Deadlines or None
    network_ms : Latency or None
        Round trips of an empty call.
    power : Power or None
    environment_before, environment_after : Environment or None
    environment_during : tuple of Environment
    watts : tuple of Watts
    yardstick : tuple of Yardstick
        The machine's speed before, between and after the frames. Empty: not measured.
    kernels : tuple of KernelFigures
        Empty: not timed.
    peak_gflops : float or None
    verification : Verification or None
    verdicts : tuple of Verdict
    unavailable : tuple of Refused
        What this run cannot tell, and why.
    partial : str or None
        Why the run ended early; None: it is whole.
    """

    name: str
    route: Route
    address: str | None
    server: str | None
    started: str
    command: str
    clock: str
    model: Model
    settings: Settings
    startup: Startup
    latency_ms: Latency
    fps: float | None
    samples: Samples
    kernels_ms: Latency | None = None
    camera_to_label: CameraToLabel | None = None
    deadlines: Deadlines | None = None
    network_ms: Latency | None = None
    power: Power | None = None
    environment_before: Environment | None = None
    environment_after: Environment | None = None
    environment_during: tuple[Environment, ...] = ()
    watts: tuple[Watts, ...] = ()
    yardstick: tuple[Yardstick, ...] = ()
    kernels: tuple[KernelFigures, ...] = ()
    peak_gflops: float | None = None
    verification: Verification | None = None
    verdicts: tuple[Verdict, ...] = ()
    unavailable: tuple[Refused, ...] = ()
    partial: str | None = None
