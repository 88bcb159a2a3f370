"""Pieces of HTML that several sections use. Text is escaped here and nowhere else: pieces are :class:`Html`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from tsm_edge.bench.page.style import STYLE

# A browser that obeys it fetches nothing, whatever a board's name or a file of records may say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """Escape a value, unless it is HTML."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[Html], between: str = "\n") -> Html:
    """One piece of several."""
    return Html(between.join(parts))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """An element; ``class_`` stands for ``class``, ``data_x`` for ``data-x``, and what is None is left out."""
    listed = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{listed}>{''.join(map(text, content))}</{tag}>")


def section(title: str, *content: Html, note: str = "") -> Html:
    """A card with a heading; empty if it has no content."""
    filled = [part for part in content if part]
    if not filled:
        return Html("")
    return element("section", element("h3", title), element("p", note, class_="note") if note else Html(""), *filled)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], class_: str = "") -> Html:
    """A table that scrolls sideways where it is too wide, its first column in sight."""
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in columns)))
    body = join([element("tr", *(element("td", cell) for cell in row)) for row in rows])
    whole = element("table", head, element("tbody", body), class_=class_ or None)
    # A keyboard scrolls it, too.
    return element("div", whole, class_="scroll", tabindex="0")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, in columns."""
    return element(
        "dl", *(Html(f"{element('dt', name)}{element('dd', value)}") for name, value in pairs), class_="facts"
    )


def tiles(items: Iterable[tuple[str, str]]) -> Html:
    """Figures that stand out, each with what it means."""
    cells = [element("div", element("b", value), element("span", meaning), class_="tile") for value, meaning in items]
    return element("div", *cells, class_="tiles") if cells else Html("")


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Colours and their meaning."""
    items = [element("li", element("i", style=f"background:{colour}"), name) for colour, name in entries]
    return element("ul", *items, class_="legend")


def page(title: str, parts: Iterable[Html]) -> str:
    """A page that needs nothing but itself."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{join(parts)}
</body>
</html>
"""
