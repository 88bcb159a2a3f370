"""Results of bench as a board would give them, made up: every figure follows from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tsm_edge.bench import result
from tsm_edge.bench.result import Core, Environment, Result
from tsm_edge.bench.statistics import summary

LAYERS = ("features.0", *(f"features.{block}.{part}" for block in range(1, 18) for part in ("expand", "project")), "fc")


def a_result(
    frames: int = 800, ms: float = 12.0, name: str = "raspberry-pi-4", seed: int = 1, drift: float = 0.0
) -> Result:
    """A quiet run on a Raspberry Pi 4 of invented speed."""
    random = np.random.default_rng(seed)
    step = ms * (1 + 0.004 * random.standard_normal(frames) + drift * np.linspace(0, 1, frames))
    step[:: max(1, frames // 9)] *= 1.03
    start = np.concatenate([[0.0], np.cumsum(step)[:-1]]) / 1e3
    seconds = float(start[-1] + step[-1] / 1e3)
    return Result(
        name=name,
        route="ssh",
        address="pi@raspberrypi",
        server=None,
        started="2026-05-04T12:00:00Z",
        command="tsm-edge bench out --ssh pi@raspberrypi --threads 4",
        clock="CLOCK_MONOTONIC of the device",
        model=result.Model(
            "mobilenetv2-jester", name, "fp32", "out", "ab" * 32, (1, 3, 224, 224), 620_000_000, 66_000_000
        ),
        settings=result.Settings(frames, None, 2.0, 20, 4, None, 16, "auto"),
        startup=result.Startup(load_ms=31.0, first_frame_ms=24.0, first_label_ms=55.0),
        latency_ms=summary(step),
        fps=frames / seconds,
        samples=result.Samples(tuple(start), tuple(step)),
        kernels_ms=summary(step * 0.97),
        power=power(frames, seconds),
        environment_before=look(-2.0, 41.0, 600.0, busy_s=100.0),
        environment_during=tuple(
            look(at, 45.0 + at, 1500.0, busy_s=100 + 4 * at) for at in np.linspace(0.5, seconds, 8)
        ),
        environment_after=look(seconds + 2, 52.0, 600.0, busy_s=102.0 + 4 * seconds),
        watts=tuple(
            result.Watts(float(at), float(3.1 + (2.7 if 0 <= at <= seconds else 0) + 0.08 * random.standard_normal()))
            for at in np.arange(-2.0, seconds + 2.0, 0.05)
        ),
        yardstick=yardstick(seconds, random),
        kernels=kernels(ms),
        peak_gflops=94.0,
        verification=result.Verification(True, 8, "ONNX Runtime's golden frames", 4.1e-7, 1e-4),
    )


def yardstick(
    seconds: float, random: np.random.Generator, slow: tuple[float, float] = (1.0, 1.0), since_s: float = 0.0
) -> tuple[result.Yardstick, ...]:
    """The machine's speed every half second; from ``since_s`` on it is so much slower."""
    found = []
    for at in np.arange(-0.025, seconds + 0.25, 0.5):
        noise = 1 + 0.005 * random.standard_normal(2)
        factors = slow if at >= since_s else (1.0, 1.0)
        found.append(result.Yardstick(float(at), 0.4 * factors[0] * noise[0], 1.9 * factors[1] * noise[1]))
    return tuple(found)


def look(at_s: float, celsius: float, mhz: float, busy_s: float = 100.0, **changes: object) -> Environment:
    """A Raspberry Pi 4 at a moment."""
    environment = Environment(
        at_s=float(at_s),
        board="Raspberry Pi 4 Model B Rev 1.4",
        cpu_model="4 × Cortex-A72",
        architecture="aarch64",
        kernel="Linux 6.6.31+rpt-rpi-v8",
        kind="raspberry-pi",
        virtual=False,
        boot_id="one",
        cores=tuple(Core(number, True, "performance", 600.0, mhz, 1500.0, 1500.0) for number in range(4)),
        firmware_mhz=mhz,
        affinity=(0, 1, 2, 3),
        temperatures=(result.Temperature("cpu-thermal", float(celsius)),),
        load_1min=0.1,
        busy_s=float(busy_s),
        stolen_s=0.0,
        own_s=1.0,
        quota_waits=0,
        memory_total_mb=3977.6,
        memory_available_mb=3288.3,
        swap_used_mb=0.0,
    )
    return dataclasses.replace(environment, **changes)  # type: ignore[arg-type]


def power(frames: int, seconds: float) -> result.Power:
    """Of a meter at the wall."""
    gross, idle = 5.8, 3.1
    return result.Power(
        sensor="shelly",
        boundary="wall",
        covers="the power supply and all it feeds",
        gross_w=gross,
        idle_w=idle,
        net_w=gross - idle,
        idle_before_w=3.09,
        idle_after_w=3.11,
        gross_j=gross * seconds,
        net_j=(gross - idle) * seconds,
        gross_j_per_frame=gross * seconds / frames,
        net_j_per_frame=(gross - idle) * seconds / frames,
        frames=frames,
        duration_s=seconds,
        rails=(result.RailPower("apower", True, gross, idle, gross - idle),),
        uncertainty_percent=1.0,
        uncertainty="as its maker states it",
        samples=int(seconds * 20),
        rate_hz=20.0,
        jitter_ms=1.2,
        longest_gap_ms=61.0,
    )


def kernels(ms: float) -> tuple[result.KernelFigures, ...]:
    """Of a network whose layers get smaller."""
    weights = np.geomspace(3, 1, len(LAYERS))
    times = 970 * ms * weights / weights.sum()
    found = []
    for index, (layer, time) in enumerate(zip(LAYERS, times, strict=True)):
        fused = layer.endswith("expand")
        rule = "expand_depthwise" if fused else "conv3x3" if index == 0 else "pointwise"
        flops = int(time * (60_000 if not fused else 45_000))
        stages = (
            (
                result.StageFigures("expand", time * 0.7, flops * 3 // 4),
                result.StageFigures("depthwise", time * 0.3, flops // 4),
            )
            if fused
            else ()
        )
        peak = 60.0 if not fused else 48.0
        found.append(
            result.KernelFigures(
                layer, rule, "8×8", float(time), float(time) * 0.96, flops, int(time * 4000), peak, stages
            )
        )
    return tuple(found)


def changed(base: Result, **changes: object) -> Result:
    """The result with other fields; ``before``, ``after`` and ``during`` change those of its environments."""
    for key, field in (("before", "environment_before"), ("after", "environment_after")):
        if key in changes:
            environment = getattr(base, field)
            base = dataclasses.replace(base, **{field: dataclasses.replace(environment, **changes.pop(key))})  # type: ignore[arg-type]
    if "during" in changes:
        looks: Sequence[Environment] = base.environment_during
        during = changes.pop("during")
        base = dataclasses.replace(
            base,
            environment_during=(*looks[:-1], dataclasses.replace(looks[-1], **during)),  # type: ignore[arg-type]
        )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def document(*results: Result) -> result.Document:
    """With the verdicts on them."""
    from tsm_edge.bench.verdicts import verdicts

    judged = tuple(dataclasses.replace(item, verdicts=verdicts(item)) for item in results)
    return result.Document(result.SCHEMA, "0.1", judged)
