"""What the machine was like before, during and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsm_edge.bench.disturbances import fastest_mhz
from tsm_edge.bench.page.html import Html, element, join, section, table
from tsm_edge.bench.result import Environment, Refused, Result

Reader = Callable[[Environment], float | None]
_NONE = "–"
_DECIMALS = {"MHz": 0, "MB": 0, "°C": 1, "V": 3}


def environment(result: Result) -> Html:
    """A row a quantity; what could not be read, with the reason."""
    before, during, after = result.environment_before, result.environment_during, result.environment_after
    looks = [look for look in (before, *during, after) if look is not None]
    if not looks:
        return Html("")
    rows = [
        *_numbers(before, during, after),
        *_texts(before, during, after),
    ]
    filled = [row for row in rows if any(cell != _NONE for cell in row[1:])]
    listed = table(("", "before", "during", "after"), filled, "words")
    return section("Environment", listed, _clocks(looks[0]), _in_state(before, after), _unknown(looks))


def _numbers(
    before: Environment | None, during: Sequence[Environment], after: Environment | None
) -> list[tuple[str, str, str, str]]:
    zones = dict.fromkeys(item.zone for look in (before, *during, after) if look for item in look.temperatures)
    gpus = dict.fromkeys(gpu.name for look in (before, *during, after) if look for gpu in look.gpus)
    readers: list[tuple[str, Reader, str]] = [("CPU clock", fastest_mhz, "MHz")]
    readers += [(f"GPU clock, {name}", _gpu(name), "MHz") for name in gpus]
    readers += [(zone, _zone(zone), "°C") for zone in zones]
    readers += [
        ("load, mean of a minute", lambda look: look.load_1min, ""),
        ("memory to be had", lambda look: look.memory_available_mb, "MB"),
        ("swap used", lambda look: look.swap_used_mb, "MB"),
        ("supply", lambda look: look.supply_v, "V"),
    ]
    return [
        (
            name,
            _shown(None if before is None else read(before), unit),
            _range([value for look in during if (value := read(look)) is not None], unit),
            _shown(None if after is None else read(after), unit),
        )
        for name, read, unit in readers
    ]


def _gpu(name: str) -> Reader:
    return lambda look: next((gpu.current_mhz for gpu in look.gpus if gpu.name == name), None)


def _zone(zone: str) -> Reader:
    return lambda look: next((item.value_c for item in look.temperatures if item.zone == zone), None)


def _shown(value: float | None, unit: str) -> str:
    return _NONE if value is None else f"{_digits(value, unit)} {unit}".strip()


def _digits(value: float, unit: str) -> str:
    return f"{value:.{_DECIMALS.get(unit, 2)}f}"


def _range(values: list[float], unit: str) -> str:
    if not values:
        return _NONE
    ends = dict.fromkeys((_digits(min(values), unit), _digits(max(values), unit)))
    return f"{' – '.join(ends)} {unit}".strip()


def _texts(
    before: Environment | None, during: Sequence[Environment], after: Environment | None
) -> list[tuple[str, str, str, str]]:
    readers: list[tuple[str, Callable[[Environment], Sequence[str]]]] = [
        ("throttled", lambda look: look.throttled_now),
        ("throttled since boot", lambda look: look.throttled_since_boot),
        ("events since boot", lambda look: [f"{item.count} × {item.name}" for item in look.events if item.count]),
        ("other runs", lambda look: look.others),
    ]

    def words(looks: Sequence[Environment], read: Callable[[Environment], Sequence[str]]) -> str:
        return ", ".join(dict.fromkeys(word for look in looks for word in read(look))) or _NONE

    return [
        (
            name,
            words([before] if before else [], read),
            # They are counted: the last look has them all.
            words(during[-1:] if name.startswith("events") else during, read),
            words([after] if after else [], read),
        )
        for name, read in readers
    ]


def _clocks(look: Environment) -> Html:
    """Cores that are alike in one row."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for core in look.cores:
        groups.setdefault((core.online, core.governor, core.min_mhz, core.max_mhz, core.limit_mhz), []).append(
            core.number
        )
    rows = [
        (
            ", ".join(map(str, numbers)) if len(numbers) < 9 else f"{numbers[0]} … {numbers[-1]} ({len(numbers)})",
            "on" if online else "off",
            governor or _NONE,
            *(_shown(value if isinstance(value, float) else None, "MHz") for value in clocks),
        )
        for (online, governor, *clocks), numbers in groups.items()
    ]
    if not any(core.governor for core in look.cores):
        return Html("")
    columns = ("cores", "", "governor", "lowest", "highest", "hardware")
    return join([element("h4", "Clocks the governor may choose from"), table(columns, rows, "words")])


def _in_state(before: Environment | None, after: Environment | None) -> Html:
    """How long each clock was held between the looks before and after."""
    if before is None or after is None or not before.time_in_state or not after.time_in_state:
        return Html("")
    old = {(item.cores, item.clock_mhz): item.time_s for item in before.time_in_state}
    spent = [(item, item.time_s - old.get((item.cores, item.clock_mhz), 0.0)) for item in after.time_in_state]
    rows = [(item.cores, f"{item.clock_mhz:.0f} MHz", f"{seconds:.2f} s") for item, seconds in spent if seconds > 0]
    if not rows:
        return Html("")
    heading = element("h4", "Time at each clock, from before to after, idling included")
    return join([heading, table(("cores", "clock", "time"), rows, "words")])


def _unknown(looks: Sequence[Environment]) -> Html:
    refused = list(dict.fromkeys(item for look in looks for item in look.unknown))
    if not refused:
        return Html("")
    return element("p", "Not to be read here: ", join([_reason(item) for item in refused], "; "), ".", class_="note")


def _reason(item: Refused) -> Html:
    return join([element("b", item.key.replace("_", " ")), Html(""), element("span", f" ({item.reason})")], "")
