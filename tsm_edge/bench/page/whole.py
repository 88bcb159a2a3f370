"""The page: one HTML file that needs nothing but itself. No script, nothing fetched; charts are SVG."""

from __future__ import annotations

import json
from pathlib import Path

from tsm_edge.bench.page.beside import side_by_side, unique_names
from tsm_edge.bench.page.energy import energy
from tsm_edge.bench.page.frame import waterfall
from tsm_edge.bench.page.html import Html, element, join, page, section
from tsm_edge.bench.page.kernels import kernel_sections
from tsm_edge.bench.page.latency import histogram, percentiles
from tsm_edge.bench.page.machine import environment
from tsm_edge.bench.page.overview import device, figures, remarks, subtitle, verdict
from tsm_edge.bench.page.timeline import timeline
from tsm_edge.bench.result import Document, Result, to_json
from tsm_edge.files.atomic import write_atomic


def write_page(document: Document, path: Path) -> None:
    """Write :func:`render` to a file, atomically.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    write_atomic(path, render(document).encode("utf-8", "replace"))


def render(document: Document) -> str:
    """The report of one or several results."""
    results, names = document.results, unique_names(document.results)
    one = len(results) == 1
    title = f"{results[0].model.name} on {_place(results[0])}" if one else f"{len(results)} results side by side"
    heading = element("h1", title if results else "Nothing was measured")
    under = subtitle(results[0]) if one else " · ".join(dict.fromkeys(result.model.name for result in results))
    parts = [element("header", heading, element("p", under))]
    if len(results) > 1:
        links = [element("a", name, href=f"#result-{index}") for index, name in enumerate(names, 1)]
        parts += [element("nav", *links), side_by_side(results)]
    for index, (result, name) in enumerate(zip(results, names, strict=True), 1):
        above = Html("") if one else element("h2", name, id=f"result-{index}")
        parts.append(element("article", above, _article(result)))
    parts.append(_appendix(document))
    made = f"Made by tsm-edge {document.tsm_edge}. Bytes of kernels count inputs, weights and outputs once each."
    parts.append(element("footer", made))
    return page(f"{title}: tsm-edge bench", parts)


def _article(result: Result) -> Html:
    return join(
        [
            verdict(result),
            figures(result),
            device(result),
            histogram(result),
            timeline(result),
            percentiles(result),
            energy(result),
            waterfall(result),
            kernel_sections(result),
            environment(result),
            remarks(result),
        ]
    )


def _place(result: Result) -> str:
    board = result.environment_before.board if result.environment_before else None
    return board or result.address or ("this machine" if result.route == "local" else result.model.target)


def _appendix(document: Document) -> Html:
    commands = join([element("pre", result.command) for result in document.results])
    raw = element("pre", json.dumps(to_json(document), indent=1, ensure_ascii=False))
    return join(
        [
            section("Repeat it", commands),
            section("Raw figures", element("details", element("summary", f"JSON, {document.schema}"), raw)),
        ]
    )
