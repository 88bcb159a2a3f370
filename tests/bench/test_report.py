"""The HTML report: self-contained, complete, safe for any layer name."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tsm_edge.artifact import Artifact
from tsm_edge.bench.profile import KernelTime, Profile, StageTime
from tsm_edge.bench.report import colour, render, write_report
from tsm_edge.manifest import KernelInfo


class Reader(HTMLParser):
    """Checks that elements nest, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def profile(small_artifact: Artifact) -> Profile:
    kernels = tuple(
        KernelTime(info, 10.0 + index, 9.0 + index) for index, info in enumerate(small_artifact.manifest.kernels)
    )
    return Profile(small_artifact.path, small_artifact.manifest, 2, 50, kernels, 0.3, 0.2, 0.35, 123.0)


def test_it_has_a_bar_a_row_and_a_tooltip_for_every_kernel(profile: Profile) -> None:
    page = Reader(render(profile))
    assert page.open == []
    assert page.count("tr") == 1 + len(profile.kernels)
    assert sum(attributes.get("class") == "track" for _, attributes in page.tags) == len(profile.kernels)
    text = " ".join(page.text)
    for kernel in profile.kernels:
        assert kernel.info.layer in text
    assert "peak 123 GFLOP/s" in text


def test_a_fused_kernel_has_a_part_of_its_bar_and_a_row_for_every_stage(profile: Profile) -> None:
    first, *others = profile.kernels
    stages = (StageTime("expand", 3000, 6.0, 0.75), StageTime("depthwise", 1000, 4.0))
    page = Reader(render(dataclasses.replace(profile, kernels=(dataclasses.replace(first, stages=stages), *others))))
    plain = Reader(render(profile))
    assert page.open == []
    assert page.count("rect") == plain.count("rect") + 1
    assert page.count("tr") == plain.count("tr") + 1 + len(stages)
    assert "75.0" in page.text
    assert any("expand: 6.0 us · 0.5 GFLOP/s · 75 % of peak" in text for text in page.text)


def test_it_needs_nothing_but_itself(profile: Profile) -> None:
    text = render(profile)
    page = Reader(text)
    assert page.count("script") == page.count("link") == page.count("img") == 0
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_rule_has_one_colour_everywhere(profile: Profile) -> None:
    assert colour("conv3x3") == colour("conv7x7")
    assert len({colour(rule) for rule in ("pointwise", "depthwise", "winograd", "conv3x3", "a_rule_of_tomorrow")}) == 5
    page = Reader(render(profile))
    fills = {attributes["fill"] for tag, attributes in page.tags if tag == "rect" and "fill" in attributes}
    assert fills == {colour(kernel.info.rule) for kernel in profile.kernels}


def test_layer_names_cannot_break_out(profile: Profile) -> None:
    odd = KernelInfo("k", "generic", '</svg><script>alert("1")</script>&', 1, 100, 100, "<b>")
    page = Reader(render(dataclasses.replace(profile, kernels=(KernelTime(odd, 1.0, 1.0),))))
    assert page.open == []
    assert page.count("script") == 0
    assert page.count("b") == Reader(render(profile)).count("b") - len(profile.rules()) + 1


def test_without_a_peak_and_without_arithmetic_it_still_renders(profile: Profile) -> None:
    moved = KernelInfo("k", "cache", "shift_0_next", 4, 0, 1000)
    quiet = dataclasses.replace(profile, peak_gflops=None, kernels=(KernelTime(moved, 1.0, 1.0),))
    page = Reader(render(quiet))
    assert page.open == []
    assert "No kernel does arithmetic." in " ".join(page.text)


def test_it_is_written_whole(profile: Profile, tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "report.html", profile)
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == render(profile)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
