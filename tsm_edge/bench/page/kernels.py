"""Where the time of a step goes: kernel by kernel, and by the rules that wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tsm_edge.bench.page.html import Html, element, join, legend, section, table
from tsm_edge.bench.page.roofline import roofline
from tsm_edge.bench.page.style import colour_of_rule
from tsm_edge.bench.page.svg import box, title
from tsm_edge.bench.rates import RuleTime, giga_per_second, rule_times
from tsm_edge.bench.result import KernelFigures, Result, StageFigures


def kernel_sections(result: Result) -> Html:
    """Empty where the kernels were not timed."""
    kernels = result.kernels
    if not kernels:
        return Html("")
    fused = [kernel for kernel in kernels if kernel.stages]
    bars_note = (
        "The bar of a fused kernel has a part for each of its stages, paler from one to the next." if fused else ""
    )
    dots_note = "Each dot is a kernel, its area the time it takes. Diagonals are lines of equal memory traffic."
    if result.peak_gflops is not None:
        dots_note += " The dashed line is the machine's arithmetic peak, measured between the frames."
    colours = _legend(kernels)
    return join(
        [
            section("Where the time goes", _rules_bar(kernels)),
            section("Kernels in the order they run", colours, _bars(kernels), note=bars_note),
            section("Arithmetic and memory traffic", colours, roofline(kernels, result.peak_gflops), note=dots_note),
            section(
                "All kernels", element("details", element("summary", "the numbers"), _table(kernels), _stages(fused))
            ),
        ]
    )


def _rule_times(kernels: Iterable[KernelFigures]) -> tuple[RuleTime, ...]:
    return rule_times((kernel.rule, kernel.time_us, kernel.flops) for kernel in kernels)


def _legend(kernels: Sequence[KernelFigures]) -> Html:
    """The rules in the order of their time; rules of one colour together."""
    names: dict[str, list[str]] = {}
    for item in _rule_times(kernels):
        names.setdefault(colour_of_rule(item.rule), []).append(item.rule)
    return legend((colour, ", ".join(rules)) for colour, rules in names.items())


def _rules_bar(kernels: Sequence[KernelFigures]) -> Html:
    """One bar for the frame, a part for each rule, and a line of numbers for each."""
    width, x, parts, rows = 900.0, 0.0, [], []
    total = sum(kernel.time_us for kernel in kernels) or 1.0
    for item in _rule_times(kernels):
        share, fill = item.microseconds / total, colour_of_rule(item.rule)
        numbers = f"{item.microseconds / 1e3:.3f} ms, {100 * share:.1f} %"
        parts.append(box(x, 0, share * width - 1.5, 26, title(f"{item.rule}: {numbers}"), fill=fill, rx=3))
        x += share * width
        calls = f"{item.calls} call{'s' if item.calls > 1 else ''}"
        rate = f", {item.gflops:.1f} GFLOP/s" if item.flops else ""
        swatch = element("i", style=f"background:{fill}")
        rows.append(element("li", swatch, element("b", item.rule), f" {numbers}, {calls}{rate}"))
    frame = 'class="share" viewBox="0 0 900 26" preserveAspectRatio="none" role="img" aria-label="time by rule"'
    listed = element("ul", *rows, class_="legend", style="margin-top:0.8rem")
    return Html(f"<svg {frame}>{join(parts)}</svg>\n{listed}")


def _bars(kernels: Sequence[KernelFigures]) -> Html:
    longest = max(kernel.time_us for kernel in kernels)
    rows = []
    for kernel in kernels:
        rate = f" · {_rate(kernel, kernel.of_peak_percent)}" if kernel.flops else ""
        value = f"{kernel.time_us:.1f} µs{f' · {kernel.gflops:.0f} GFLOP/s' if kernel.flops else ''}"
        rows.append(
            element(
                "div",
                element("span", _short(kernel.layer), class_="name"),
                element("span", _bar(kernel, longest), class_="track"),
                element("span", value, class_="value"),
                title=f"{kernel.layer}: {kernel.rule} {kernel.tile}, {kernel.time_us:.1f} µs{rate}",
            )
        )
    return element("div", *rows, class_="rows")


def _bar(kernel: KernelFigures, longest: float) -> Html:
    """A kernel's bar; a fused kernel's has a part for each stage, paler from one to the next."""
    fill = colour_of_rule(kernel.rule)
    if not kernel.stages:
        return element("i", style=f"width:{_width(kernel.time_us, longest)};background:{fill}")
    parts = []
    for index, stage in enumerate(kernel.stages):
        words = f"{kernel.layer}, {stage.name}: {stage.time_us:.1f} µs · {_rate(stage, _of_peak(kernel, stage))}"
        style = f"width:{_width(stage.time_us, longest)};background:{fill};opacity:{1 - 0.25 * index:.2f}"
        parts.append(element("i", style=style, title=words))
    return join(parts, "")


def _width(microseconds: float, longest: float) -> str:
    return f"{max(0.3, 100 * microseconds / max(longest, 1e-9)):.2f}%"


def _rate(item: KernelFigures | StageFigures, of_peak: float | None) -> str:
    peak = "" if of_peak is None else f" · {of_peak:.0f} % of peak"
    return f"{item.gflops:.1f} GFLOP/s{peak}"


def _of_peak(kernel: KernelFigures, stage: StageFigures) -> float | None:
    """A stage's share of the peak follows from its kernel's: both have the same peak beside them."""
    rate = kernel.gflops
    return None if kernel.of_peak_percent is None or not rate else kernel.of_peak_percent * stage.gflops / rate


def _table(kernels: Sequence[KernelFigures]) -> Html:
    total = sum(kernel.time_us for kernel in kernels) or 1.0
    columns = (
        *("layer", "rule", "tile", "time (µs)", "fastest (µs)", "share (%)", "MFLOP", "kB", "FLOP/byte"),
        *("GFLOP/s", "peak (%)", "GB/s"),
    )
    rows = [
        (
            *(kernel.layer, kernel.rule, kernel.tile, f"{kernel.time_us:.1f}", f"{kernel.fastest_us:.1f}"),
            *(f"{100 * kernel.time_us / total:.1f}", f"{kernel.flops / 1e6:.2f}", f"{kernel.bytes / 1e3:.0f}"),
            f"{kernel.flops / kernel.bytes:.1f}" if kernel.bytes else "–",
            f"{kernel.gflops:.1f}" if kernel.flops else "–",
            "–" if kernel.of_peak_percent is None else f"{kernel.of_peak_percent:.1f}",
            f"{giga_per_second(kernel.bytes, kernel.time_us):.1f}" if kernel.time_us else "–",
        )
        for kernel in kernels
    ]
    return table(columns, rows, "kernels names")


def _stages(fused: Sequence[KernelFigures]) -> Html:
    if not fused:
        return Html("")
    rows = []
    for kernel in fused:
        for stage in kernel.stages:
            peak = _of_peak(kernel, stage)
            rows.append(
                (
                    *(kernel.layer, kernel.rule, stage.name, f"{stage.time_us:.1f}", f"{stage.flops / 1e6:.2f}"),
                    *(f"{stage.gflops:.1f}", "–" if peak is None else f"{peak:.1f}"),
                )
            )
    columns = ("layer", "rule", "stage", "time (µs)", "MFLOP", "GFLOP/s", "peak (%)")
    return join([element("h4", "Stages of fused kernels"), table(columns, rows, "kernels names")])


def _short(name: str, most: int = 26) -> str:
    """The end of a long tensor name, where names differ."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
