"""The page of a result: self-contained, complete, safe for any name, true to its figures."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_results import a_result, changed, document, look

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench import result
from tsm_edge.bench.page import render, write_page
from tsm_edge.bench.page.latency import bins
from tsm_edge.bench.page.style import colour_of_rule
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.profile import KernelTime, Profile, StageTime
from tsm_edge.bench.profile_result import document_of
from tsm_edge.bench.result import KernelFigures, Refused, Result, to_json
from tsm_edge.bench.statistics import summary

VOID = ("meta",)


class Reader(HTMLParser):
    """Checks that elements nest, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def bars(self) -> list[dict[str, str]]:
        """The styles of the parts of the kernels' bars."""
        styles = [attributes.get("style") for tag, attributes in self.tags if tag == "i"]
        listed = [dict(item.split(":", 1) for item in style.split(";")) for style in styles if style]
        return [style for style in listed if "width" in style]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(*results: Result) -> Reader:
    page = Reader(render(document(*results)))
    assert page.open == []
    return page


ONE = a_result()
VIDEO = result.CameraToLabel(summary([4.0] * 99), summary([2.0] * 99), summary([12.0] * 99), summary([18.0] * 99))


def test_a_result_has_all_its_parts() -> None:
    page = page_of(dataclasses.replace(ONE, camera_to_label=VIDEO))
    for heading in (
        *("Device and model", "How long a frame takes", "Over time", "Percentiles", "Energy", "One frame"),
        *("Where the time goes", "Kernels in the order they run", "Arithmetic and memory traffic", "Environment"),
        *("Repeat it", "Raw figures"),
    ):
        assert heading in page.text, heading
    for words in (
        "nothing speaks against it",
        "Raspberry Pi 4 Model B Rev 1.4",
        "p50 12.00 ms",
        "32.4 mJ",
        "peak 94 GFLOP/s",
    ):
        assert words in page.text, words
    assert ONE.command in page.text


def test_the_raw_figures_are_the_document() -> None:
    whole = document(ONE)
    text = render(whole)
    raw = Reader(text).words[-1:]
    found = re.search(r"<pre>(\{.*?\})</pre>", text, re.DOTALL)
    assert found, raw
    assert json.loads(Reader(f"<pre>{found[1]}</pre>").words[0]) == json.loads(json.dumps(to_json(whole)))


def test_it_needs_nothing_but_itself() -> None:
    text = render(document(ONE, a_result(ms=9)))
    page = Reader(text)
    assert page.count("script") == page.count("link") == page.count("img") == page.count("iframe") == 0
    assert not re.search(r"https?://|@import|url\(|src=", text)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.tags)
    (policy,) = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'"), "a browser is told so, too"


def test_bad_news_stand_first_and_are_marked() -> None:
    page = page_of(changed(ONE, during={"throttled_now": ("under-voltage",)}))
    banners = [attributes["class"] for _, attributes in page.tags if str(attributes.get("class")).startswith("verdict")]
    assert banners == ["verdict bad"]
    assert "do not rely on it (throttled)" in page.text
    assert any(attributes.get("class") == "alarm" for _, attributes in page.tags), "and where on the time axis"
    assert page.text.index("held itself back") < page.text.index("no drift")


NASTY = '</svg></pre><script>alert("1")</script>&\x1b[31m\ud800'


def test_no_name_breaks_out() -> None:
    """Boards, zones, sensors, layers and errors name themselves."""
    kernel = KernelFigures(NASTY, NASTY, NASTY, 1.0, 1.0, 100, 100, None, (result.StageFigures(NASTY, 1.0, 100),))
    nasty = dataclasses.replace(
        changed(
            ONE,
            before={"board": NASTY, "power_mode": NASTY, "others": (NASTY,), "unknown": (Refused(NASTY, NASTY),)},
            during={"temperatures": (result.Temperature(NASTY, 40.0),), "throttled_now": (NASTY,)},
        ),
        **{"name": NASTY, "address": NASTY, "server": NASTY, "command": NASTY, "partial": NASTY},  # type: ignore[arg-type]
        kernels=(kernel, kernel),
        unavailable=(Refused(NASTY, NASTY),),
    )
    page = page_of(nasty, nasty)
    assert page.count("script") == 0
    assert "alert" in page.text


def test_bars_of_kernels_are_as_long_as_their_times() -> None:
    page = page_of(ONE)
    longest = max(kernel.time_us for kernel in ONE.kernels)
    parts = [part for kernel in ONE.kernels for part in (kernel.stages or (kernel,))]
    widths = [float(bar["width"].removesuffix("%")) for bar in page.bars]
    assert widths == pytest.approx([100 * part.time_us / longest for part in parts], abs=0.01)
    assert {bar["background"] for bar in page.bars} == {colour_of_rule(kernel.rule) for kernel in ONE.kernels}
    titles = [attributes.get("title") or "" for tag, attributes in page.tags if tag == "i"]
    assert any("features.1.expand, expand: " in words and "51 % of peak" in words for words in titles)


def test_a_rule_has_one_colour_everywhere() -> None:
    assert colour_of_rule("conv3x3") == colour_of_rule("conv7x7")
    names = ("pointwise", "depthwise", "winograd", "conv3x3", "a_rule_of_tomorrow")
    assert len(set(map(colour_of_rule, names))) == len(names)


def test_every_frame_is_in_the_histogram() -> None:
    samples = ONE.samples.step_ms
    low, high, counts = bins(samples)
    assert (low, high, sum(counts)) == (min(samples), max(samples), len(samples))
    low, high, counts = bins([*samples, 900.0])
    assert (high, sum(counts)) == (max(samples), len(samples)), "one that is far out does not squeeze the others"
    page = page_of(dataclasses.replace(ONE, samples=result.Samples((*ONE.samples.start_s, 99.0), (*samples, 900.0))))
    assert "Slower than the drawing shows: 1, up to 900 ms" in page.text
    assert sum(bins([5.0] * 20)[2]) == 20, "all alike"


def test_no_chart_is_a_wide_one_made_small_on_a_phone() -> None:
    """Text of 12 units stays readable where a window of 390 pixels shows the drawing: see the styles for .wide."""
    page = page_of(ONE, a_result(ms=9, name="other"))
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    widths = {(str(drawing.get("class")), int(str(drawing["viewbox"]).split()[2])) for drawing in drawings}
    assert widths == {("share", 900), ("wide", 920), ("narrow", 360)}  # "share" has no text
    assert 12 * 342 / 360 > 10
    style = page.words[page.words.index(next(words for words in page.words if ":root" in words))]
    assert re.search(r"@media \(max-width: 44rem\) \{.*?\.wide \{ display: none; \}", style, re.DOTALL)
    assert re.search(r"\n\.narrow \{ display: none; \}", style)
    assert "prefers-color-scheme: dark" in style


def test_drawings_stay_inside_their_frames() -> None:
    """All that is drawn of a run with every kind of panel, in both sizes."""
    text = render(document(dataclasses.replace(ONE, camera_to_label=VIDEO), a_result(frames=30, ms=3)))
    found = re.findall(r'<svg class="\w+" viewBox="0 0 (\d+) (\d+)"[^>]*>(.*?)</svg>', text, re.DOTALL)
    assert len(found) > 10
    for width, height, inner in found:
        xs = [float(value) for value in re.findall(r'\b(?:x|x1|x2|cx)="([^"]+)"', inner)]
        ys = [float(value) for value in re.findall(r'\b(?:y|y1|y2|cy)="([^"]+)"', inner)]
        assert min(xs) >= -1
        assert max(xs) <= float(width) + 1
        assert min(ys) >= -1
        assert max(ys) <= float(height) + 1
        assert "nan" not in inner


def test_several_results_stand_side_by_side() -> None:
    page = page_of(ONE, a_result(ms=9, name="other"), a_result(ms=9, name="other"))
    for words in ("3 results side by side", "raspberry-pi-4", "other (1)", "other (2)", "Frames side by side"):
        assert words in page.text
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{attributes['id']}" for _, attributes in page.tags if attributes.get("id")}


@pytest.mark.parametrize("frames", [0, 1, 2, 9])
def test_a_run_that_ended_at_once_has_a_page(frames: int) -> None:
    samples = result.Samples(tuple(range(frames)), (12.0,) * frames)
    bare = dataclasses.replace(
        ONE,
        samples=samples,
        latency_ms=summary(samples.step_ms),
        **{"fps": None, "kernels_ms": None, "power": None, "peak_gflops": None, "environment_before": None},  # type: ignore[arg-type]
        **{"environment_after": None, "verification": None},  # type: ignore[arg-type]
        environment_during=(),
        watts=(),
        kernels=(),
        partial="the server is gone",
    )
    page = page_of(bare)
    assert "the server is gone" in page.text
    page_of(bare, ONE)


def test_what_a_machine_does_not_show_is_said() -> None:
    quiet = changed(
        ONE,
        before={"unknown": (Refused("temperatures", "no thermal zone can be read"),), "temperatures": ()},
        environment_during=(look(1, 45, 1500.0, temperatures=()),),
        after={"temperatures": ()},
        watts=(),
    )
    text = page_of(quiet).text
    assert "Not seen on this machine: temperature, power." in text
    assert "Not to be read here: temperatures (no thermal zone can be read)" in text


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    whole = document(ONE)
    write_page(whole, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == render(whole)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 10.0, 4, [0, 2, 4, 6, 8, 10]),
        (-3.0, 3.0, 4, [-2, 0, 2]),
        (11.9, 12.1, 4, [11.9, 11.95, 12.0, 12.05, 12.1]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert Axis(low, high, 0, 100).ticks(count) == pytest.approx(expected)


def a_profile(artifact: Artifact) -> Profile:
    kernels = tuple(
        KernelTime(info, 10.0 + index, 9.0 + index, 0.5) for index, info in enumerate(artifact.manifest.kernels)
    )
    first = dataclasses.replace(kernels[0], stages=(StageTime("expand", 3000, 6.0), StageTime("depthwise", 1000, 4.0)))
    plain = tuple((0.001 * index, 0.0003) for index in range(50))
    return Profile(artifact.path, artifact.manifest, 2, 50, (first, *kernels[1:]), 0.3, 0.2, 0.35, 123.0, plain)


def test_a_profile_has_the_same_page(small_artifact: Artifact) -> None:
    profile = a_profile(small_artifact)
    page = Reader(render(document_of(profile)))
    assert page.open == []
    for kernel in profile.kernels:
        assert kernel.info.layer in page.text
    assert "peak 123 GFLOP/s" in page.text
    assert sum(attributes.get("class") == "track" for _, attributes in page.tags) == len(profile.kernels)
    assert f"tsm-edge profile {small_artifact.path} --threads 2 --frames 50" in page.text
    assert not any(str(attributes.get("class")).startswith("verdict") for _, attributes in page.tags), (
        "nothing is judged"
    )
    assert "Not seen on this machine" not in page.text, "nobody looked"
