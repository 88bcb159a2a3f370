"""The page's styles: light and dark, wide and on a phone, on paper."""

import zlib
from collections.abc import Mapping

# Colours that are told apart side by side; a rule that is not here gets one of its own from its name.
_RULES: Mapping[str, str] = {
    "pointwise": "#3d7fc1",
    "inverted_residual": "#7d63c9",
    "expand_depthwise": "#a98be0",
    "depthwise": "#dd8a2f",
    "convolution": "#2f9a74",
    "winograd": "#8fb02f",
    "grouped": "#1f9fa5",
    "max_pool": "#b09a35",
    "average_pool": "#b09a35",
    "elementwise": "#d0669a",
    "generic": "#c84a4a",
    "copy": "#8b929b",
    "shift": "#8b929b",
}
LATENCY, CLOCK, HEAT, POWER, GPU = "#3d7fc1", "#2f9a74", "#d0555a", "#d98a1f", "#7d63c9"
ARITHMETIC, MEMORY = "#1f9fa5", "#d0669a"
# Of results side by side.
SERIES = ("#3d7fc1", "#dd8a2f", "#2f9a74", "#7d63c9", "#d0669a", "#1f9fa5", "#b09a35", "#c84a4a")


def colour_of_rule(rule: str) -> str:
    """A rule's colour, the same in every report."""
    if rule.startswith("conv"):
        return _RULES["convolution"]
    return _RULES.get(rule) or f"hsl({zlib.crc32(rule.encode('utf-8', 'replace')) % 360} 45% 52%)"


STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #ffffff; --ink: #1b232d; --soft: #5b6775; --line: #e0e4e9;
  --track: #eef1f4; --good: #1e8a5a; --note: #b3730b; --bad: #c93b3b; --good-bg: #e9f6ef; --note-bg: #fdf4e3;
  --bad-bg: #fdecec; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161b; --card: #1a2027; --ink: #e7ebf0; --soft: #9aa6b3; --line: #2d353f; --track: #242b34;
    --good: #57c795; --note: #e5ad4f; --bad: #f08080; --good-bg: #16291f; --note-bg: #2d2413; --bad-bg: #331a1b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.2rem 1.25rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1, h2, h3 { line-height: 1.25; letter-spacing: -0.01em; }
h1 { margin: 0; font-size: 1.75rem; }
h2 { margin: 2.6rem 0 0; font-size: 1.35rem; }
h3 { margin: 0 0 0.7rem; font-size: 1.05rem; }
h4 { margin: 1.2rem 0 0.5rem; font-size: 0.92rem; }
header p, .note, footer { margin: 0.25rem 0 0; color: var(--soft); }
section > .note { margin: 0.7rem 0 0; }
section > h3 + .note { margin: -0.4rem 0 0.8rem; }
section, .verdict, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
section { margin-top: 1.1rem; padding: 1.15rem 1.3rem 1.3rem; }
section > :last-child { margin-bottom: 0; }
.verdict { margin-top: 1.1rem; padding: 1rem 1.3rem; border-left: 6px solid var(--good); background: var(--good-bg); }
.verdict.note { border-left-color: var(--note); background: var(--note-bg); color: inherit; }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-bg); }
.verdict > p { margin: 0; font-size: 1.18rem; font-weight: 600; line-height: 1.35; }
.verdict ul { margin: 0.7rem 0 0; padding: 0; list-style: none; font-size: 0.92rem; }
.verdict li { display: grid; grid-template-columns: 1.4rem 6.2rem 1fr; padding: 0.14rem 0; }
.verdict li span { color: var(--soft); }
.verdict li b { font-weight: 700; }
.good > b { color: var(--good); } .note > b { color: var(--note); } .bad > b { color: var(--bad); }
li.note, li.bad, li.good { color: inherit; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0.8rem; margin-top: 1.1rem; }
.tile { padding: 0.85rem 1.05rem; }
.tile b { display: block; font-size: 1.5rem; font-weight: 620; letter-spacing: -0.015em; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 0.85rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr max-content 1fr; gap: 0.35rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0 0 0.7rem; padding: 0; list-style: none;
  color: var(--soft); font-size: 0.87rem; }
.legend b { color: var(--ink); font-weight: 600; }
.legend i { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem; border-radius: 3px;
  vertical-align: -0.08rem; }
svg { display: block; width: 100%; height: auto; }
svg.share { height: 26px; }
.narrow { display: none; }
svg text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
svg .soft { fill: var(--soft); }
svg .head { font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .zero { stroke: var(--soft); stroke-width: 1; }
svg .mark { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 3; }
svg .guide { stroke: var(--soft); stroke-width: 0.8; stroke-dasharray: 2 5; }
svg .peak { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .range { stroke-width: 1; stroke-opacity: 0.4; }
svg .active { fill: var(--track); opacity: 0.55; }
svg .alarm { fill: var(--bad); opacity: 0.16; }
.rows { display: grid; grid-template-columns: 12rem 1fr 12rem; gap: 0 0.7rem; align-items: center; font-size: 12px;
  line-height: 19px; }
.rows > div { display: contents; }
.rows .name { text-align: right; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.rows .value { color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums; }
.track { display: flex; gap: 1px; height: 14px; overflow: hidden; background: var(--track); border-radius: 3px;
  print-color-adjust: exact; }
.track i { flex: none; }
.scroll { overflow-x: auto; margin: 0 -0.3rem; padding: 0 0.3rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.86rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
tbody tr:last-child td { border-bottom: 0; }
table.names td:nth-child(-n+3), table.names th:nth-child(-n+3) { text-align: left; }
table.kernels { font-size: 0.8rem; }
table.beside td, table.beside th { min-width: 6.4rem; white-space: normal; }
table.words td, table.words th { text-align: left; vertical-align: top; white-space: normal;
  min-width: 5rem; }
table.words td:first-child { min-width: 8.5rem; }
details { margin-top: 0.6rem; }
summary { cursor: pointer; color: var(--soft); }
pre { margin: 0.6rem 0 0; padding: 0.8rem 1rem; max-height: 26rem; overflow: auto; background: var(--track);
  border-radius: 8px; font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; margin-top: 0.8rem; }
a { color: #3d7fc1; }
footer { margin-top: 1.8rem; font-size: 0.85rem; overflow-wrap: anywhere; }
/* A phone: charts drawn for it, not the wide ones made small; of a table the names stay in sight. */
@media (max-width: 44rem) {
  body { padding: 1.1rem 0.7rem 2rem; }
  h1 { font-size: 1.4rem; }
  section { padding: 0.85rem 0.8rem 1rem; }
  .verdict { padding: 0.85rem 0.9rem; }
  .verdict > p { font-size: 1.05rem; }
  .verdict li { grid-template-columns: 1.2rem 1fr; }
  .verdict li span { font-size: 0.8rem; }
  .verdict li em { grid-column: 2; }
  .wide { display: none; }
  .narrow { display: block; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 0.55rem; }
  .tile { padding: 0.7rem 0.8rem; }
  .tile b { font-size: 1.15rem; white-space: nowrap; }
  dl.facts { grid-template-columns: max-content 1fr; }
  .rows { grid-template-columns: 1fr auto; }
  .rows .name { text-align: left; }
  .rows .track { grid-row: auto; grid-column: 1 / -1; margin-bottom: 5px; order: 3; }
  .rows > div { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--card) padding-box; }
  table.kernels td:first-child { min-width: 7rem; max-width: 9rem; white-space: normal; overflow-wrap: anywhere; }
}
@media print { body { max-width: none; background: #fff; } section, .verdict, .tile { break-inside: avoid; }
  pre { max-height: none; } }
.verdict li em { font-style: normal; }
"""
