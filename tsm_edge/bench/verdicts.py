"""What the figures of a run mean, in words; from its result alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tsm_edge.bench.disturbances import machine_verdicts
from tsm_edge.bench.result import Latency, Level, Result, Verdict
from tsm_edge.bench.speed import spread
from tsm_edge.bench.statistics import trend

# Coefficient of variation, percent. trtexec warns from 1 % on, which hardly any CPU keeps.
_STEADY_PERCENT, _WILD_PERCENT = 3.0, 15.0
# Part of the step that is not in kernels; part of the machine's peak.
_MUCH_OUTSIDE, _NEAR_PEAK = 0.25, 0.5
_MANY_MISSED = 0.01
# Of the interval of a drift, percent of the median: within a wider one much could hide.
_WIDE_PERCENT = 20.0
# How far the yardstick's readings of a run may lie apart, percent: arithmetic, memory.
_SAME_SPEED, _OTHER_SPEED = (4.0, 8.0), (10.0, 25.0)
_HOW_TO_HOLD = "tsm-edge bench --fix-clocks prints how to hold the clocks"


def verdicts(result: Result) -> tuple[Verdict, ...]:
    """All that is to be said of a result, the bad first."""
    readers: tuple[Callable[[Result], Iterator[Verdict]], ...] = (
        _partial,
        _verified,
        machine_verdicts,
        _speed,
        _stationary,
        _variation,
        _deadlines,
        _power,
        _bound,
    )
    found = [verdict for read in readers for verdict in read(result)]
    return tuple(sorted(found, key=lambda verdict: ("bad", "note", "good").index(verdict.level)))


def headline(result: Result) -> str:
    """The result in a line: how long, how much energy, and whether to believe it."""
    latency = result.latency_ms
    if latency.p50 is None:
        return f"{result.name}: nothing was measured{f' ({result.partial})' if result.partial else ''}"
    tail = next(
        ((name, value) for name, value in (("p99", latency.p99), ("p90", latency.p90)) if value is not None), None
    )
    parts = [f"{shown_ms(latency.p50)} a {result.model.unit}"]
    if tail is not None:
        parts.append(f"{tail[0]} {shown_ms(tail[1])}")
    if result.fps is not None:
        parts.append(f"{shown_rate(result.fps)} a second")
    if result.power is not None:
        parts.append(f"{1e3 * result.power.net_j_per_frame:.3g} mJ above idle")
    return f"{', '.join(parts)}: {_trust(result)}"


def shown_ms(value: float) -> str:
    """Four digits and the unit."""
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f} ms"


def shown_rate(value: float) -> str:
    """Four digits, or all of a large number."""
    return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"


def _trust(result: Result) -> str:
    bad = list(dict.fromkeys(verdict.name for verdict in result.verdicts if verdict.level == "bad"))
    if bad:
        words = [_WORDS[name].format(unit=result.model.unit) if name in _WORDS else name for name in bad]
        return f"do not rely on it ({', '.join(words)})"
    notes = sum(verdict.level == "note" for verdict in result.verdicts)
    return f"{notes} note{'s' if notes > 1 else ''}" if notes else "nothing speaks against it"


_WORDS = {
    "partial": "it ended early",
    "verified": "its answers are wrong",
    "throttled": "throttled",
    "clock": "the clock moved",
    "gpu": "the GPU was not at its clock",
    "shared": "others used the cores",
    "speed": "the machine's speed changed",
    "rebooted": "the board restarted",
    "memory": "it swapped",
    "stationary": "it drifted",
    "variation": "{unit}s vary",
    "deadlines": "deadlines were missed",
    "power": "power is doubtful",
}


def _partial(result: Result) -> Iterator[Verdict]:
    if result.partial is not None:
        yield Verdict("partial", "bad", f"the run ended early: {result.partial}")


def _verified(result: Result) -> Iterator[Verdict]:
    check = result.verification
    if check is None:
        yield Verdict("verified", "note", "the answers were not checked: a fast wrong answer is no result")
        return
    error = (
        "" if check.relative_error is None else f", largest difference {check.relative_error:.1e} of the largest value"
    )
    if check.passed:
        yield Verdict("verified", "good", f"{check.frames} {result.model.unit}s agree with {check.against}{error}")
    else:
        yield Verdict("verified", "bad", f"the answers differ from {check.against}{error}: the times mean nothing")


def _speed(result: Result) -> Iterator[Verdict]:
    """Whether fixed work always took the same time."""
    if not result.yardstick:
        return
    found = spread(result)
    if found is None:
        text = f"{len(result.yardstick)} looks at the machine's speed are too few to tell whether it changed"
        yield Verdict("speed", "note", text)
        return
    both = (found.arithmetic_percent, found.memory_percent)
    figures = f"fixed work within {both[0]:.1f} %, reading memory within {both[1]:.1f} %"
    if all(value <= most for value, most in zip(both, _SAME_SPEED, strict=True)):
        yield Verdict("speed", "good", f"the machine kept its speed: {figures}")
        return
    level: Level = "bad" if any(value > most for value, most in zip(both, _OTHER_SPEED, strict=True)) else "note"
    yield Verdict("speed", level, f"the machine's own speed changed during the run: {figures}")


def _stationary(result: Result) -> Iterator[Verdict]:
    found = trend(result.samples.step_ms)
    if found is None:
        few = f"{result.latency_ms.count} {result.model.unit}s are too few to see a drift"
        yield Verdict("stationary", "note", few)
        return
    interval = f"99 % interval {_signed(found.low_percent)} to {_signed(found.high_percent)}"
    halves = f"second half against first {_signed(found.halves_percent)}"
    if found.is_stationary and found.high_percent - found.low_percent > _WIDE_PERCENT:
        wide = f"the {result.model.unit}s vary too much to see a drift ({interval}; {halves})"
        yield Verdict("stationary", "note", wide)
        return
    if found.is_stationary:
        yield Verdict(
            "stationary", "good", f"no drift: {_signed(found.drift_percent)} over the run ({interval}; {halves})"
        )
        return
    way = "rose" if found.drift_percent > 0 else "fell"
    advice = "let it warm up longer, or cool it" if found.drift_percent > 0 else "warm up longer: --warmup"
    text = f"the latency {way} by {abs(found.drift_percent):.1f} % over the run ({interval}; {halves}): {advice}"
    yield Verdict("stationary", "bad", text)


def _signed(percent: float) -> str:
    rounded = round(percent, 1)
    return f"{rounded:+.1f} %" if rounded else "0.0 %"


def _variation(result: Result) -> Iterator[Verdict]:
    latency = result.latency_ms
    if latency.cv_percent is None or latency.p50 is None or latency.max is None:
        return
    unit = result.model.unit
    slowest = f"the slowest {unit} {latency.max / latency.p50:.2f} × the median"
    text = f"coefficient of variation {latency.cv_percent:.1f} %, {slowest}"
    if latency.cv_percent <= _STEADY_PERCENT:
        yield Verdict("variation", "good", f"{unit}s are alike: {text}")
    else:
        level: Level = "note" if latency.cv_percent <= _WILD_PERCENT else "bad"
        yield Verdict("variation", level, f"{unit}s vary: {text}; {_HOW_TO_HOLD}")


def _deadlines(result: Result) -> Iterator[Verdict]:
    paced = result.deadlines
    if paced is None:
        return
    late, unit = f"the latest began {shown_ms(paced.late_start_ms)} after it was due", result.model.unit
    if not paced.missed:
        yield Verdict(
            "deadlines", "good", f"all {paced.frames} {unit}s were done within {shown_ms(paced.period_ms)}; {late}"
        )
        return
    level: Level = "bad" if paced.missed > _MANY_MISSED * paced.frames else "note"
    yield Verdict(
        "deadlines", level, f"{paced.missed} of {paced.frames} {unit}s missed {shown_ms(paced.period_ms)}; {late}"
    )


def _power(result: Result) -> Iterator[Verdict]:
    power = result.power
    if power is None:
        if result.settings.power != "none":
            reason = next((item.reason for item in result.unavailable if item.key == "power"), "no sensor was found")
            yield Verdict("power", "note", f"power was not measured: {reason}")
        return
    percent = "not stated" if power.uncertainty_percent is None else f"±{power.uncertainty_percent:g} %"
    text = f"{power.net_w:.2f} W above idle ({power.gross_w:.2f} W in all), {power.boundary} by {power.sensor}"
    yield Verdict("power", "good", f"{text}; uncertainty {percent}, {power.samples} samples")
    for remark in power.remarks:
        yield Verdict("power", "note", remark)


def _bound(result: Result) -> Iterator[Verdict]:
    """Which of decoding, calls, arithmetic and memory takes the time."""
    video = result.camera_to_label
    if video is not None and _p50(video.decode_ms) > _p50(video.step_ms) > 0:
        text = f"decoding ({_p50(video.decode_ms):.1f} ms) takes longer than the network ({_p50(video.step_ms):.1f} ms)"
        yield Verdict("bound", "note", f"bound by decoding: {text}")
        return
    step, kernels = result.latency_ms.p50, _p50(result.kernels_ms) or sum(item.time_us for item in result.kernels) / 1e3
    if not step or not kernels:
        return
    if any(verdict.level == "bad" for verdict in machine_verdicts(result)):
        # The step, its kernels and the peak are timed one after the other.
        yield Verdict("bound", "note", "what bounds it cannot be told: the machine was disturbed between its parts")
        return
    outside = max(0.0, 1 - kernels / step)
    if outside > _MUCH_OUTSIDE:
        text = f"{100 * outside:.0f} % of a step is not in its {len(result.kernels) or ''} kernels"
        yield Verdict("bound", "note", f"bound by launches and copies: {' '.join(text.split())}")
        return
    gflops, gbytes = result.model.flops / step / 1e6, result.model.bytes / step / 1e6
    rates = f"{gflops:.1f} GFLOP/s and {gbytes:.1f} GB/s"
    if result.peak_gflops is None:
        yield Verdict("bound", "good", f"the kernels do {rates}; the machine's peak was not measured beside them")
        return
    share = gflops / result.peak_gflops
    text = f"{rates}, {100 * share:.0f} % of the {result.peak_gflops:.0f} GFLOP/s measured between the frames"
    if share >= _NEAR_PEAK:
        yield Verdict("bound", "good", f"bound by arithmetic: {text}")
    else:
        yield Verdict("bound", "good", f"bound by memory, or by layers too small to fill the machine: {text}")


def _p50(latency: Latency | None) -> float:
    return 0.0 if latency is None or latency.p50 is None else latency.p50
