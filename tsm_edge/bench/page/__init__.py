"""The report of a bench: one HTML file, a module for each of its parts (``whole`` puts them together)."""

from tsm_edge.bench.page.whole import render as render
from tsm_edge.bench.page.whole import write_page as write_page
