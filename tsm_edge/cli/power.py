"""``tsm-edge power``: the power sensors of this machine or a board, and what they read now."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, to_plain
from tsm_edge.errors import PowerError, TsmEdgeError

if TYPE_CHECKING:
    from tsm_edge.power.measure import EnergyReport
    from tsm_edge.power.registry import Family
    from tsm_edge.power.sensor import Sensor
    from tsm_edge.power.system import System
    from tsm_edge.power.trace import Trace
    from tsm_edge.rpc.place import Place

_REFRESH_S = 0.5


@click.command("power")
@click.argument("sensor", required=False)
@click.option(
    "--duration",
    "--seconds",
    "seconds",
    metavar="S",
    type=RealRange(0.5, 86400),
    default=2.0,
    show_default=True,
    help="How long to read, seconds.",
)
@click.option("--rpc", metavar="HOST:PORT", help="Those of the board that tsm-edge serve runs on.")
@click.option("--tracker", metavar="HOST:PORT", help="Those of a board that this tracker has free under --key.")
@click.option("--key", metavar="K", default="", help="The server's key; with --tracker: the board's key.")
@click.option("--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the key from a file.")
@click.option("--ssh", metavar="USER@HOST", help="Those of a board with no more than sshd.")
@click.option("--ssh-config", metavar="FILE", type=click.Path(path_type=Path), help="Configuration for ssh.")
@click.option("--adb", is_flag=False, flag_value="", metavar="[SERIAL]", help="Those of an Android device.")
@json_option
def command(
    sensor: str | None,
    seconds: float,
    rpc: str | None,
    tracker: str | None,
    key: str,
    key_file: Path | None,
    ssh: str | None,
    ssh_config: Path | None,
    adb: str | None,
    as_json: bool,
) -> None:
    """List the power sensors found here or on a board, and read them for a while; or read SENSOR alone.

    \b
    SENSOR:
      auto                       the first that is found
      ina3221                    NVIDIA Jetson
      pmic                       Raspberry Pi 5
      battery, odpm              Android; Google Pixel 6 and later
      rapl                       x86 processors
      hwmon[:CHIP]               chips with a kernel driver
      nvml[:NUMBER]              NVIDIA graphics cards
      ina219:BUS:ADDRESS[:OHMS]  on I²C; also ina226, ina260
      shelly:http://HOST         a plug that measures; also tasmota
      scpi:RESOURCE              a laboratory meter (VISA)
      csv:FILE                   the log of any other meter, with markers
    """
    from tsm_edge.power.registry import CSV
    from tsm_edge.rpc.key import chosen_key
    from tsm_edge.rpc.place import chosen_place

    if sensor is not None and sensor.startswith(f"{CSV}:"):
        _show_log(Path(sensor.removeprefix(f"{CSV}:")), as_json)
        return
    place = chosen_place(rpc, tracker, chosen_key(key, key_file))
    ways = [way for way in (place, ssh, adb) if way is not None]
    if len(ways) > 1:
        raise PowerError("several boards were given, expected one", "give one of: --rpc, --tracker, --ssh, --adb")
    with _machine(place, ssh, ssh_config, adb) as (name, system):
        if sensor is None:
            _list(name, system, seconds, as_json)
        else:
            _read(sensor, system, seconds, as_json)


@contextlib.contextmanager
def _machine(
    place: Place | None, ssh: str | None, config: Path | None, adb: str | None
) -> Iterator[tuple[str, System | None]]:
    """What a message calls the machine, and its files; None: this one."""
    from tsm_edge.power.system import OneAtATime

    if place is not None:
        from tsm_edge.rpc.device import open_device
        from tsm_edge.rpc.machine import RemoteSystem
        from tsm_edge.rpc.place import TimeLimits

        with contextlib.closing(open_device(place, TimeLimits())) as device:
            if device.info.tsm_edge is None:
                raise PowerError(
                    f"{device.name}: TVM's own server shows no power sensors of its board",
                    "serve with: tsm-edge serve; or: tsm-edge power --ssh USER@HOST",
                )
            yield f"on {device.name}", OneAtATime(RemoteSystem(device))
        return
    if ssh is None and adb is None:
        yield "here", None
        return
    from tsm_edge.bench.boards import open_system
    from tsm_edge.deploy.adb import adb_destination
    from tsm_edge.deploy.destination import parse_destination

    name, system = open_system(parse_destination(ssh, config) if ssh is not None else adb_destination(adb or ""))
    yield f"on {name}", OneAtATime(system)


def _read(sensor: str, system: System | None, seconds: float, as_json: bool) -> None:
    from tsm_edge.power.registry import open_sensor

    opened = open_sensor(sensor, system)
    with contextlib.closing(opened):
        [(trace, failure)] = _watch([opened], seconds)
    if failure is not None:
        raise failure
    if as_json:
        print_json(_as_json(trace))
    else:
        _print_traces([trace])


def _list(where: str, system: System | None, seconds: float, as_json: bool) -> None:
    from tsm_edge.power.registry import CSV_FORM, FAMILIES, find_sensors, sensor_forms

    found = find_sensors(system)
    with contextlib.ExitStack() as stack:
        sensors = [entry.sensor for entry in found if entry.sensor is not None]
        for sensor in sensors:
            stack.callback(sensor.close)
        read = _watch(sensors, seconds) if sensors else []
    problems: list[tuple[Family, TsmEdgeError]] = [
        (entry.family, entry.problem) for entry in found if entry.problem is not None
    ]
    usable = [entry.family for entry in found if entry.sensor is not None]
    problems += [(family, failure) for family, (_, failure) in zip(usable, read, strict=True) if failure is not None]
    traces = [trace for trace, failure in read if failure is None]
    named = [(family.form, family.device) for family in FAMILIES if not family.found_alone]
    if as_json:
        unusable = [
            {"sensor": family.form, "device": family.device, "problem": problem.problem, "hint": problem.hint}
            for family, problem in problems
        ]
        print_json({"found": list(map(_as_json, traces)), "not_found": unusable, "known": sensor_forms()})
        return
    if traces:
        _print_traces(traces)
        click.echo()
    rows = [(family.name, _without_name(family, problem)) for family, problem in problems]
    print_table("", (f"not found {where}", "why"), rows)
    print_table("\nfound by what you write", ("sensor", "device"), [*named, (CSV_FORM, "a log of any other meter")])
    if not traces:
        note(f"no power sensor was found {where}: `tsm-edge power SENSOR` reads a meter of yours")


def _watch(sensors: Sequence[Sensor], seconds: float) -> list[tuple[Trace, TsmEdgeError | None]]:
    """Sample all of them at once; what they read last is shown meanwhile. Each with its failure, if it had one."""
    from tsm_edge.power.sampler import SYSTEM_CLOCK, Sampler

    samplers = [Sampler(sensor) for sensor in sensors]
    with contextlib.ExitStack() as stack, status("reading") as show:
        for sampler in samplers:
            with contextlib.suppress(TsmEdgeError):  # kept as its failure: the others go on
                stack.enter_context(sampler)
        end = SYSTEM_CLOCK.now() + seconds
        while (left := end - SYSTEM_CLOCK.now()) > 0 and any(sampler.failure is None for sampler in samplers):
            SYSTEM_CLOCK.sleep(min(_REFRESH_S, left))
            show(", ".join(_now(sampler.latest) for sampler in samplers))
    return [(sampler.latest, sampler.failure) for sampler in samplers]


def _now(trace: Trace) -> str:
    watts = trace.watts()
    return f"{trace.info.name} {trace.info.total(watts[-1][1]):.2f} W" if watts else trace.info.name


def _print_traces(traces: Sequence[Trace]) -> None:
    rows: list[tuple[object, ...]] = []
    for trace in traces:
        name = trace.info.name
        for rail in trace.spread():
            counts = "yes" if rail.in_total else "no"
            rows.append((name, rail.rail, counts, *map(_watts, (rail.mean_w, rail.min_w, rail.max_w))))
        totals = [trace.info.total(values) for _, values in trace.watts()]
        if len(trace.info.rails) > 1 and totals:
            rows.append((name, "total", "", *map(_watts, (_mean_total(trace), min(totals), max(totals)))))
    print_table("", ("sensor", "rail", "counts", "mean (W)", "min (W)", "max (W)"), rows, optional=("counts",))
    for trace in traces:
        info = trace.info
        percent = "" if info.uncertainty_percent is None else f"±{info.uncertainty_percent:g} %, "
        note(f"{info.name}: {info.boundary}: {info.covers}")
        note(f"  {len(trace.samples)} samples in {_seconds(trace):.1f} s; uncertainty {percent}{info.uncertainty}")


def _show_log(path: Path, as_json: bool) -> None:
    from tsm_edge.power.csvlog import read_log

    report = read_log(path).report()
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: EnergyReport) -> None:
    rows = [
        ("gross", _watts(report.gross_w), f"{report.gross_j:.3f}"),
        ("idle", _watts(report.idle_w), f"{report.idle_j:.3f}"),
        ("net", _watts(report.net_w), f"{report.net_j:.3f}"),
    ]
    print_table("", ("between the markers", "power (W)", "energy (J)"), rows)
    rate = f"{report.rate_hz:.1f} Hz, jitter {report.jitter_ms:.1f} ms"
    idle = f"idle {report.idle_before_w:.3f} W before, {report.idle_after_w:.3f} W after"
    note(f"{report.seconds:.2f} s, {report.samples} samples ({rate}); {idle}")
    for remark in report.remarks:
        note(f"note: {remark}")


def _as_json(trace: Trace) -> dict[str, object]:
    return {
        **to_plain(trace.info),
        "seconds": _seconds(trace),
        "samples": len(trace.samples),
        "total_w": _mean_total(trace) if trace.spread() else None,
        "readings": to_plain(trace.spread()),
    }


def _mean_total(trace: Trace) -> float:
    return math.fsum(rail.mean_w for rail in trace.spread() if rail.in_total)


def _seconds(trace: Trace) -> float:
    return trace.samples[-1].seconds - trace.samples[0].seconds


def _watts(value: float) -> str:
    return f"{value:.3f}"


def _without_name(family: Family, problem: TsmEdgeError) -> str:
    from tsm_edge.power.sensor import LOOK

    reason = problem.problem.removeprefix(f"power sensor {family.name}: ")
    return reason if problem.hint == LOOK else f"{reason}; {problem.hint}"
