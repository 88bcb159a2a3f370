"""What ``tsm-edge bench`` and ``tsm-runner bench`` write: the frozen dataclasses of a result, to and from JSON.

The dataclasses are the format: every key is a field here, and ``docs/bench.md`` says what each means. Keys end in their
unit (``_ms``, ``_s``, ``_w``, ``_j``, ``_mhz``, ``_c``, ``_mb``). What is not known is null, with the reason beside it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tsm_edge.cards.tables import Place, from_table, shown
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import write_atomic

SCHEMA = "tsm-edge-bench/1"
_HINT = "write one with: tsm-edge bench --json FILE"
_LARGEST_FILE = 1 << 28  # bytes

Route = Literal["local", "rpc", "ssh", "adb"]
Level = Literal["good", "note", "bad"]
"""Of a verdict: nothing to see, worth knowing, or the figures do not say what they seem to."""


@dataclass(frozen=True)
class Refused:
    """A figure that is not given, and why.

    Attributes
    ----------
    key : str
        Of the table this stands in.
    reason : str
    """

    key: str
    reason: str


@dataclass(frozen=True)
class Latency:
    """A summary of samples, milliseconds.

    Attributes
    ----------
    count : int
        Samples.
    p50, p50_low, p50_high : float or None
        Median, and its 99 % interval from order statistics.
    p90, p99 : float or None
        MLPerf's early-stopping estimates: with 99 % confidence, so many percent of all frames are no slower.
    p90_observed, p99_observed : float or None
        The same percentiles of the samples themselves. None where the estimate is refused.
    min, mean, max : float or None
    std : float or None
        Standard deviation.
    cv_percent : float or None
        Coefficient of variation: standard deviation over mean.
    refused : tuple of Refused
        What is None, and why.
    """

    count: int
    p50: float | None = None
    p50_low: float | None = None
    p50_high: float | None = None
    p90: float | None = None
    p99: float | None = None
    p90_observed: float | None = None
    p99_observed: float | None = None
    min: float | None = None
    mean: float | None = None
    max: float | None = None
    std: float | None = None
    cv_percent: float | None = None
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Every measured frame, in order.

    Attributes
    ----------
    start_s : tuple of float
        When its step began, since the first one did; on the device's clock.
    step_ms : tuple of float
        How long it took.
    """

    start_s: tuple[float, ...]
    step_ms: tuple[float, ...]


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
        [1, 3, height, width].
    flops, bytes : int
        Arithmetic of a frame, and what its kernels move (inputs, weights and outputs, once each).
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
class Startup:
    """What happens once, milliseconds; None: not measured, or not to be seen over this way.

    Attributes
    ----------
    load_ms : float or None
        Reading, checking and loading ``model.so``, threads and memory included.
    first_frame_ms : float or None
        The first step.
    first_label_ms : float or None
        From nothing to the first label: both together.
    upload_ms : float or None
        Sending the model over the network.
    """

    load_ms: float | None = None
    first_frame_ms: float | None = None
    first_label_ms: float | None = None
    upload_ms: float | None = None


@dataclass(frozen=True)
class Deadlines:
    """Of a paced run.

    Attributes
    ----------
    period_ms : float
    frames, missed : int
        A frame misses its deadline when it is not done before the next is due.
    late_start_ms : float
        Longest time a frame began after it was due.
    """

    period_ms: float
    frames: int
    missed: int
    late_start_ms: float


@dataclass(frozen=True)
class CameraToLabel:
    """Of a video: where the time from a coded frame to its label goes.

    Attributes
    ----------
    decode_ms, preprocess_ms, step_ms, total_ms : Latency
    """

    decode_ms: Latency
    preprocess_ms: Latency
    step_ms: Latency
    total_ms: Latency


@dataclass(frozen=True)
class RailFigures:
    """One supply line: mean power, W."""

    rail: str
    in_total: bool
    gross_w: float
    idle_w: float
    net_w: float


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
    rails : tuple of RailFigures
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
    rails: tuple[RailFigures, ...]
    uncertainty_percent: float | None
    uncertainty: str
    samples: int
    rate_hz: float
    jitter_ms: float
    longest_gap_ms: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Core:
    """One CPU core.

    Attributes
    ----------
    number : int
    online : bool
    governor : str or None
    min_mhz, current_mhz, max_mhz : float or None
        What the governor may choose from, and what it runs at now.
    limit_mhz : float or None
        What the hardware can at most.
    """

    number: int
    online: bool
    governor: str | None = None
    min_mhz: float | None = None
    current_mhz: float | None = None
    max_mhz: float | None = None
    limit_mhz: float | None = None


@dataclass(frozen=True)
class Gpu:
    """The clock of a GPU, as of a :class:`Core`."""

    name: str
    governor: str | None = None
    min_mhz: float | None = None
    current_mhz: float | None = None
    max_mhz: float | None = None
    limit_mhz: float | None = None


@dataclass(frozen=True)
class Event:
    """Something that is counted since the machine started, such as over-current alarms."""

    name: str
    count: int


@dataclass(frozen=True)
class Temperature:
    """A thermal zone, °C."""

    zone: str
    value_c: float


@dataclass(frozen=True)
class Residency:
    """How long a core, or all of one clock, ran at a frequency since it started (``time_in_state``)."""

    cores: str
    clock_mhz: float
    time_s: float


@dataclass(frozen=True)
class Environment:
    """A machine at a moment. Everything that it does not tell is None or empty.

    Attributes
    ----------
    at_s : float
        Seconds since the first measured frame; negative: before.
    board : str or None
        The device tree's model, the DMI product, or Android's.
    cpu_model, architecture, kernel, libc : str or None
    kind : str or None
        ``raspberry-pi``, ``jetson``, ``android``, ``pc`` or ``other``: whose files and programs it has.
    virtual : bool or None
        Whether it is a virtual machine, as far as that shows.
    boot_id : str or None
        Another one after each start of the machine.
    cores : tuple of Core
    gpus : tuple of Gpu
    firmware_mhz : float or None
        The CPU's clock as a Raspberry Pi's firmware measures it; Linux shows there what it asked for.
    turbo : bool or None
        Whether an x86 may go above its base clock.
    affinity : tuple of int
        Cores this process may use; empty: not known.
    temperatures : tuple of Temperature
    throttled_now, throttled_since_boot : tuple of str
        In words: "under-voltage", "frequency capped", "over-current alarm".
    events : tuple of Event
        What holds the clock back and is counted.
    power_mode : str or None
        Of a Jetson: nvpmodel's.
    power_modes : tuple of str
        All that it has.
    time_in_state : tuple of Residency
    load_1min : float or None
    busy_s, stolen_s : float or None
        CPU time since the machine started, summed over cores: used by its programs, given to other virtual machines.
    own_s : float or None
        CPU time of the process that looked.
    quota_waits : int or None
        How often the control group had used up its CPU quota.
    memory_total_mb, memory_available_mb : float or None
    swap_used_mb : float or None
    supply_v : float or None
        Where a sensor has it.
    others : tuple of str
        Other runs of tsm-edge or tsm-runner there.
    unknown : tuple of Refused
        Fields that could not be read, and why.
    """

    at_s: float
    board: str | None = None
    cpu_model: str | None = None
    architecture: str | None = None
    kernel: str | None = None
    libc: str | None = None
    kind: str | None = None
    virtual: bool | None = None
    boot_id: str | None = None
    cores: tuple[Core, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    firmware_mhz: float | None = None
    turbo: bool | None = None
    affinity: tuple[int, ...] = ()
    temperatures: tuple[Temperature, ...] = ()
    throttled_now: tuple[str, ...] = ()
    throttled_since_boot: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    power_mode: str | None = None
    power_modes: tuple[str, ...] = ()
    time_in_state: tuple[Residency, ...] = ()
    load_1min: float | None = None
    busy_s: float | None = None
    stolen_s: float | None = None
    own_s: float | None = None
    quota_waits: int | None = None
    memory_total_mb: float | None = None
    memory_available_mb: float | None = None
    swap_used_mb: float | None = None
    supply_v: float | None = None
    others: tuple[str, ...] = ()
    unknown: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class Watts:
    """Total power at a moment: seconds since the first measured frame, W."""

    at_s: float
    power_w: float


@dataclass(frozen=True)
class StageFigures:
    """A stage of a fused kernel."""

    name: str
    time_us: float
    flops: int


@dataclass(frozen=True)
class KernelFigures:
    """One kernel of a frame, in the order they run.

    Attributes
    ----------
    layer, rule, tile : str
    time_us, fastest_us : float
        Median and minimum.
    flops, bytes : int
    of_peak_percent : float or None
        Of the machine's arithmetic, measured between the frames; None: not measured.
    stages : tuple of StageFigures
        Of a fused kernel, where they were timed.
    """

    layer: str
    rule: str
    tile: str
    time_us: float
    fastest_us: float
    flops: int
    bytes: int
    of_peak_percent: float | None = None
    stages: tuple[StageFigures, ...] = ()


@dataclass(frozen=True)
class Verification:
    """The model against its golden frames, on the machine that was measured.

    Attributes
    ----------
    passed : bool
    frames : int
    against : str
    relative_error, tolerance : float or None
        Of the largest value.
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
    kernels: tuple[KernelFigures, ...] = ()
    peak_gflops: float | None = None
    verification: Verification | None = None
    verdicts: tuple[Verdict, ...] = ()
    unavailable: tuple[Refused, ...] = ()
    partial: str | None = None


@dataclass(frozen=True)
class Document:
    """A whole file: results measured side by side.

    Attributes
    ----------
    schema : str
        :data:`SCHEMA`.
    tsm_edge : str
        The version that wrote it.
    results : tuple of Result
    """

    schema: str
    tsm_edge: str
    results: tuple[Result, ...]


def to_json(document: Document) -> dict[str, Any]:
    """The document as JSON has it."""
    return dataclasses.asdict(document)


def from_json(table: Any, where: str) -> Document:
    """Check a JSON value and make a document of it; ``where`` names it in errors.

    Raises
    ------
    ArtifactError
        It is of another schema, or a key is missing, unknown or of the wrong type.
    """
    schema = table.get("schema") if isinstance(table, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(f"{where}: schema is {shown(schema)}, expected {SCHEMA!r}", _HINT)
    return from_table(Document, table, Place(where, ArtifactError, _HINT))


def read_document(path: Path) -> Document:
    """Read a file that ``--json FILE`` wrote.

    Raises
    ------
    ArtifactError
        It is missing, or no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", _HINT) from None
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path} is not JSON", _HINT) from None
    return from_json(table, str(path))


def write_document(document: Document, path: Path) -> None:
    """Write what :func:`read_document` reads, whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    write_atomic(path, json.dumps(to_json(document), indent=1, allow_nan=False).encode())
