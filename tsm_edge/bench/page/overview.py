"""The top of a result: its verdict, its figures, the device."""

from __future__ import annotations

from collections.abc import Iterator

from tsm_edge.bench.page.html import Html, element, facts, join, section, tiles
from tsm_edge.bench.result import Environment, Result
from tsm_edge.bench.verdicts import headline, shown_ms, shown_rate

_SIGNS = {"good": "✓", "note": "!", "bad": "✕"}


def verdict(result: Result) -> Html:
    """The verdict in a line, and what it rests on."""
    if not result.verdicts and result.latency_ms.p50 is not None:
        return Html("")  # nothing was judged, as in a profile
    levels = [item.level for item in result.verdicts]
    worst = next((level for level in ("bad", "note") if level in levels), "good")
    items = [
        element(
            "li",
            element("b", _SIGNS[item.level]),
            element("span", item.name),
            element("em", item.text),
            class_=item.level,
        )
        for item in result.verdicts
    ]
    listed = element("ul", *items) if items else Html("")
    return element("div", element("p", headline(result)), listed, class_=f"verdict {worst}")


def figures(result: Result) -> Html:
    """What people look for first."""
    return tiles(_figures(result))


def _figures(result: Result) -> Iterator[tuple[str, str]]:
    latency, unit = result.latency_ms, result.model.unit
    if latency.p50 is not None:
        interval = ""
        if latency.p50_low is not None and latency.p50_high is not None:
            interval = f"; 99 % interval {latency.p50_low:.5g} to {latency.p50_high:.5g}"
        yield shown_ms(latency.p50), f"a {unit}, median of {latency.count} {unit}s{interval}"
    for name, value in (("p90", latency.p90), ("p99", latency.p99)):
        if value is not None:
            yield shown_ms(value), f"{name}: no slower are {name[1:]} % of {unit}s, with 99 % confidence"
    if result.fps is not None:
        yield (
            f"{shown_rate(result.fps)} {'fps' if unit == 'frame' else 'a second'}",
            f"{unit}s a second" + (" (paced)" if result.settings.fps else ", one after the other"),
        )
    if result.power is not None:
        yield f"{1e3 * result.power.net_j_per_frame:.3g} mJ", f"a {unit} above idle"
        yield (
            f"{result.power.net_w:.2f} W",
            f"above idle; {result.power.gross_w:.2f} W in all ({result.power.boundary})",
        )
    if result.kernels and latency.p50:
        rate = result.model.flops / latency.p50 / 1e6
        words = f"over the {unit}'s {result.model.flops / 1e9:.3f} GFLOP"
        if result.peak_gflops:
            words = f"{100 * rate / result.peak_gflops:.0f} % of this machine's {result.peak_gflops:.0f} GFLOP/s"
        yield f"{rate:.1f} GFLOP/s", words
    if result.startup.first_label_ms is not None:
        yield shown_ms(result.startup.first_label_ms), "from nothing to the first label"


def device(result: Result) -> Html:
    """The card of what was measured, and where."""
    return section("Device and model", facts(_device(result)))


def _device(result: Result) -> Iterator[tuple[str, object]]:
    found = result.environment_before or Environment(0.0)
    model, settings = result.model, result.settings
    if result.environment_before is not None:
        yield "board", found.board or ("a virtual machine" if found.virtual else "not told")
    if found.cpu_model:
        yield "processor", found.cpu_model
    if found.kernel:
        yield "system", " ".join(filter(None, (found.kernel, found.architecture)))
    governors = sorted({core.governor for core in found.cores if core.governor})
    if governors:
        yield "governor", ", ".join(governors)
    if found.power_mode:
        yield "power mode", found.power_mode
    where = {"local": "on the machine itself", "rpc": "over RPC", "ssh": "over ssh", "adb": "over adb"}[result.route]
    yield "measured", f"{where}{f', {result.address}' if result.address else ''}, {result.started}"
    if result.server:
        yield "server", result.server
    yield "clock", result.clock
    frames = f"frames {' × '.join(map(str, model.frame_shape[-2:]))}"
    at_once = f", {model.frame_shape[0]} a step" if model.unit == "step" else ""
    yield "model", f"{model.name}, {model.precision}, {frames}{at_once}"
    yield "target", f"{model.target} ({'GPU' if model.device == 'cuda' else 'CPU'})"
    yield "threads", "as the server decides" if settings.threads is None else settings.threads
    unit = model.unit
    paced = f"{settings.fps:g} {unit}s a second" if settings.fps else f"each {unit} follows the last at once"
    yield f"{unit}s", f"{result.latency_ms.count}, {settings.different_frames} different; {paced}"
    yield "warm-up", f"{settings.warmup_s:g} s and {settings.warmup_frames} {unit}s"
    for name, value in (("load", result.startup.load_ms), (f"first {unit}", result.startup.first_frame_ms)):
        if value is not None:
            yield name, shown_ms(value)
    if result.startup.upload_ms is not None:
        yield "upload", f"{shown_ms(result.startup.upload_ms)} (network, not in any latency)"
    if result.network_ms is not None and result.network_ms.p50 is not None:
        yield "round trip", f"{shown_ms(result.network_ms.p50)} (network, not in any latency)"
    if model.sha256:
        yield "model.so", f"sha256 {model.sha256[:16]}…"


def subtitle(result: Result) -> str:
    """What a heading leaves out, in a line."""
    environment, threads = result.environment_before or Environment(0.0), result.settings.threads
    board = environment.board or ("a virtual machine" if environment.virtual else "")
    count = "" if threads is None else f"{threads} thread{'s' if threads > 1 else ''}"
    return " · ".join(filter(None, [board, environment.cpu_model, count, result.model.precision, result.started]))


def remarks(result: Result) -> Html:
    """What this run cannot tell."""
    if not result.unavailable:
        return Html("")
    items = [element("li", element("b", item.key), f": {item.reason}") for item in result.unavailable]
    return section("Not measured", element("ul", join(items), class_="legend"))
