"""The HTML report: self-contained, complete, safe for any layer name."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.manifest import KernelInfo
from tsm_edge.bench.profile import KernelTime, Profile, StageTime
from tsm_edge.bench.report import colour, render, write_report


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

    @property
    def bars(self) -> list[dict[str, str]]:
        """The styles of the parts of the kernels' bars."""
        styles = [attributes.get("style") for tag, attributes in self.tags if tag == "i"]
        listed = [dict(item.split(":", 1) for item in style.split(";")) for style in styles if style]
        return [style for style in listed if "width" in style]

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
    assert len(page.bars) == len(plain.bars) + 1
    assert [bar["opacity"] for bar in page.bars[:2]] == ["1.00", "0.75"]
    assert page.count("tr") == plain.count("tr") + 1 + len(stages)
    assert "75.0" in page.text
    titles = [attributes.get("title") or "" for tag, attributes in page.tags if tag == "i"]
    assert any("expand: 6.0 us · 0.5 GFLOP/s · 75 % of peak" in title for title in titles)


def test_it_needs_nothing_but_itself(profile: Profile) -> None:
    text = render(profile)
    page = Reader(text)
    assert page.count("script") == page.count("link") == page.count("img") == 0
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_rule_has_one_colour_everywhere(profile: Profile) -> None:
    assert colour("conv3x3") == colour("conv7x7")
    assert len({colour(rule) for rule in ("pointwise", "depthwise", "winograd", "conv3x3", "a_rule_of_tomorrow")}) == 5
    page = Reader(render(profile))
    expected = {colour(kernel.info.rule) for kernel in profile.kernels}
    for shape in ("rect", "circle"):
        fills = {attributes["fill"] for tag, attributes in page.tags if tag == shape and "fill" in attributes}
        assert fills <= expected
    assert {bar["background"] for bar in page.bars} == expected


def test_bars_are_as_long_as_their_times(profile: Profile) -> None:
    widths = [float(bar["width"].removesuffix("%")) for bar in Reader(render(profile)).bars]
    longest = max(kernel.microseconds for kernel in profile.kernels)
    assert widths == pytest.approx([100 * kernel.microseconds / longest for kernel in profile.kernels], abs=0.01)


def test_no_chart_is_a_wide_one_made_small_on_a_phone(profile: Profile) -> None:
    """Text of 12 units stays readable where a window of 390 pixels shows the drawing: see the styles for .wide."""
    page = Reader(render(profile))
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    widths = {str(drawing.get("class")): int(str(drawing["viewbox"]).split()[2]) for drawing in drawings}
    assert set(widths) == {"share", "wide", "narrow"}  # "share" has no text
    assert 12 * 342 / widths["narrow"] > 10
    style = "".join(page.text)
    assert re.search(r"@media \(max-width: 40rem\) \{.*?\.wide \{ display: none; \}", style, re.DOTALL)
    assert re.search(r"\n\.narrow \{ display: none; \}", style)


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
