"""What happened to the machine during a run, in words: throttling, clocks, others on its cores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tsm_edge.bench.result import AlarmCount, Core, Environment, Residency, Result, Verdict

# Clocks that differ by less are the same; a governor's steps are 100 MHz apart.
_SAME_CLOCK = 0.03
# Cores' worth of work of others; CPU time given to other virtual machines.
_OTHERS_CORES, _STOLEN = 0.25, 0.01
_BUSY_BEFORE = 0.5  # of a core, in the minute before
_SWAPPED_MB = 1.0
# A process that computes a frame uses at least so much of its time; one that only looks on uses none.
_OWN_SHARE = 0.5
_NAMED = 2  # of many other runs
_SHORTEST_S = 0.2  # CPU time is counted in steps of 10 ms


def machine_verdicts(result: Result) -> Iterator[Verdict]:
    """All that the environments of a result tell."""
    before, after = result.environment_before, result.environment_after
    looks = [look for look in (before, *result.environment_during, after) if look is not None]
    if before is None or not looks[1:]:
        yield Verdict("shared", "note", "the machine was not looked at: whether it throttled or was shared is unknown")
        return
    last = looks[-1]
    if before.boot_id and after is not None and after.boot_id and before.boot_id != after.boot_id:
        yield Verdict("rebooted", "bad", "the board restarted during the run")
        return
    yield from _throttled(before, looks)
    yield from _clock(before, looks, result)
    yield from _gpu(looks, result)
    yield from _shared(before, last, result)
    yield from _memory(before, last)


def _throttled(before: Environment, looks: Sequence[Environment]) -> Iterator[Verdict]:
    later = looks[1:]
    now = list(dict.fromkeys(word for look in later for word in look.throttled_now))
    fresh = [
        word
        for word in dict.fromkeys(word for look in later for word in look.throttled_since_boot)
        if word not in before.throttled_since_boot and word not in now
    ]
    counts = _counted(before.events, later)
    lowered = _lowered(before.cores, later)
    reasons = [*now, *fresh, *counts, *lowered]
    if reasons:
        text = f"the machine held itself back during the run: {', '.join(reasons)}{_heat(looks)}"
        yield Verdict("throttled", "bad", text)
        return
    blind = next((item.reason for item in before.unknown if item.key == "throttled_now"), None)
    if blind is not None:
        yield Verdict("throttled", "note", f"whether it throttled cannot be told: {blind}{_heat(looks)}")
    elif before.throttled_since_boot:
        earlier = ", ".join(before.throttled_since_boot)
        yield Verdict("throttled", "note", f"no throttling was seen; before the run there was, since boot: {earlier}")
    else:
        yield Verdict("throttled", "good", f"no throttling{_heat(looks)}")


def _counted(before: Sequence[AlarmCount], later: Sequence[Environment]) -> list[str]:
    old = {event.name: event.count for event in before}
    most = {event.name: event.count for look in later for event in look.events}
    return [f"{count - old[name]} × {name}" for name, count in most.items() if name in old and count > old[name]]


def _lowered(before: Sequence[Core], later: Sequence[Environment]) -> list[str]:
    """A highest clock that sank: so the thermal framework holds back a CPU."""
    old = {core.number: core.max_mhz for core in before}
    sunk: dict[tuple[float, float], list[int]] = defaultdict(list)
    for number, high in old.items():
        seen = [core.max_mhz for look in later for core in look.cores if core.number == number and core.max_mhz]
        if high and seen and min(seen) < high * (1 - _SAME_CLOCK):
            sunk[high, min(seen)].append(number)
    return [f"the highest clock sank from {high:.0f} to {low:.0f} MHz" for high, low in sunk]


def _heat(looks: Sequence[Environment]) -> str:
    hottest = [max((item.value_c for item in look.temperatures), default=None) for look in looks]
    known = [value for value in hottest if value is not None]
    return f" ({known[0]:.0f} °C before, {max(known):.0f} °C at most)" if known else ""


def fastest_mhz(look: Environment) -> float | None:
    """The clock that a busy core has: what a Raspberry Pi's firmware measures, else the fastest core's."""
    clocks = [core.current_mhz for core in look.cores if core.current_mhz is not None]
    return look.firmware_mhz or max(clocks, default=None)


def _clock(before: Environment, looks: Sequence[Environment], result: Result) -> Iterator[Verdict]:
    # Before and after the machine idles.
    clocks = [mhz for look in result.environment_during if (mhz := fastest_mhz(look)) is not None]
    limit = max((core.limit_mhz for core in before.cores if core.limit_mhz), default=None)
    if not clocks:
        reason = next((item.reason for item in before.unknown if item.key == "cores"), "nobody looked during the run")
        yield Verdict("clock", "note", f"the clock cannot be seen: {reason}")
        return
    low, high = min(clocks), max(clocks)
    below = _time_below(before.time_in_state, looks[-1].time_in_state)
    if low < high * (1 - _SAME_CLOCK):
        text = f"the clock moved between {low:.0f} and {high:.0f} MHz{below}: tsm-edge bench --fix-clocks"
        yield Verdict("clock", "bad", text)
    elif limit and high < limit * (1 - _SAME_CLOCK):
        mode = f" in power mode {before.power_mode}" if before.power_mode else ""
        yield Verdict("clock", "note", f"the clock stood at {high:.0f} of {limit:.0f} MHz{mode}")
    else:
        yield Verdict("clock", "good", f"the clock stood at {high:.0f} MHz in {len(clocks)} looks{below}")
    governors = sorted({core.governor for core in before.cores if core.governor} - {"performance"})
    if governors:
        text = f"governor {', '.join(governors)}: the clock follows the load; tsm-edge bench --fix-clocks holds it"
        yield Verdict("governor", "note", text)


def _time_below(before: Sequence[Residency], after: Sequence[Residency]) -> str:
    """Part of the time that the fastest cluster was below its highest clock, idle moments included."""
    if not before or not after:
        return ""
    fastest = max(before, key=lambda item: item.clock_mhz)
    old = {item.clock_mhz: item.time_s for item in before if item.cores == fastest.cores}
    spent = {
        item.clock_mhz: item.time_s - old.get(item.clock_mhz, 0.0) for item in after if item.cores == fastest.cores
    }
    total = sum(spent.values())
    if total <= 0 or min(spent.values()) < 0:
        return ""
    share = 1 - spent.get(fastest.clock_mhz, 0.0) / total
    return f", {100 * share:.0f} % of the time below {fastest.clock_mhz:.0f} MHz" if share > 0.01 else ""


def _gpu(looks: Sequence[Environment], result: Result) -> Iterator[Verdict]:
    if result.model.device != "cuda":
        return
    gpus = [gpu for look in result.environment_during or looks for gpu in look.gpus if gpu.current_mhz]
    if not gpus:
        yield Verdict("gpu", "note", "the GPU's clock cannot be seen")
        return
    slowest = min(gpus, key=lambda gpu: gpu.current_mhz or 0.0)
    now, most, limit = slowest.current_mhz or 0.0, slowest.max_mhz, slowest.limit_mhz
    if most and now < most * (1 - _SAME_CLOCK):
        text = f"the GPU ran at {now:.0f} MHz, not at its {most:.0f}: tsm-edge bench --fix-clocks"
        yield Verdict("gpu", "bad", text)
    elif limit and now < limit * (1 - _SAME_CLOCK):
        mode = f" in power mode {looks[0].power_mode}" if looks[0].power_mode else ""
        allowed = f", its most{mode}" if most else ""
        yield Verdict("gpu", "note", f"the GPU ran at {now:.0f} MHz{allowed}; the hardware can {limit:.0f}")
    else:
        yield Verdict("gpu", "good", f"the GPU ran at {now:.0f} MHz, its most")


def _shared(before: Environment, last: Environment, result: Result) -> Iterator[Verdict]:
    others = _cores_of_others(before, last, result)
    found = list(_sharing(before, last, result))
    if others is not None and others > _OTHERS_CORES:
        found.append(f"other programs used {others:.1f} of {_online(before)} cores during the run")
    for text in found:
        yield Verdict("shared", "bad", text)
    if found:
        return
    if before.load_1min is not None and before.load_1min > _BUSY_BEFORE:
        yield Verdict("shared", "note", f"the machine was busy in the minute before: load {before.load_1min:.2f}")
    elif others is None:
        yield Verdict("shared", "note", "how much others used the cores cannot be told")
    else:
        yield Verdict("shared", "good", f"the cores were its own: others used {others:.2f} of {_online(before)}")


def _sharing(before: Environment, last: Environment, result: Result) -> Iterator[str]:
    others = list(dict.fromkeys((*before.others, *last.others)))
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        yield f"another run of this project was there: {', '.join(others[:_NAMED])}{more}"
    seconds = last.at_s - before.at_s
    stolen = _grown(before.stolen_s, last.stolen_s) / seconds if seconds > 0 else 0.0
    if stolen > _STOLEN:
        yield f"the hypervisor gave {100 * stolen:.1f} % of a core's time to other machines"
    waits = _grown(before.quota_waits, last.quota_waits)
    if waits:
        yield f"the container used up its CPU quota {waits:.0f} times"
    threads = result.settings.threads
    if threads and before.affinity and threads > len(before.affinity):
        yield f"{threads} threads shared the {len(before.affinity)} cores that the process may use"
    if last.cores and _switched_on(before) != _switched_on(last):
        yield "cores were switched on or off during the run"


def _cores_of_others(before: Environment, last: Environment, result: Result) -> float | None:
    """Cores' worth of CPU time that others used; None: not to be told from the run's own."""
    # Loading and warming up lie between the looks before and after.
    inner = result.environment_during if len(result.environment_during) > 1 else ()
    first, final = (inner[0], inner[-1]) if inner else (before, last)
    seconds = final.at_s - first.at_s
    if first.busy_s is None or final.busy_s is None or seconds < _SHORTEST_S:
        return None
    times = zip(result.samples.start_s, result.samples.step_ms, strict=True)
    computed = sum(step for start, step in times if first.at_s <= start < final.at_s) / 1e3
    own = _grown(first.own_s, final.own_s)
    if own < _OWN_SHARE * computed:
        # Another process looked than the one that computed, of which is known that a step keeps its threads busy.
        if not inner:
            return None
        own = computed * (result.settings.threads or _online(before))
    return max(0.0, final.busy_s - first.busy_s - own) / seconds


def _switched_on(look: Environment) -> set[int]:
    return {core.number for core in look.cores if core.online}


def _online(look: Environment) -> int:
    return sum(core.online for core in look.cores) or 1


def _grown(old: float | None, new: float | None) -> float:
    return 0.0 if old is None or new is None else max(0.0, new - old)


def _memory(before: Environment, last: Environment) -> Iterator[Verdict]:
    swapped = _grown(before.swap_used_mb, last.swap_used_mb)
    if swapped > _SWAPPED_MB:
        yield Verdict("memory", "bad", f"the machine swapped {swapped:.0f} MB out during the run")
