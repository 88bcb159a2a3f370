"""The page in a real browser without network: nothing on its console, in windows of both kinds and both schemes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from bench_results import a_result, changed, document

from tsm_edge.bench.page import render

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to open the page in"),
]


def console_of(page: Path, width: int = 1200, dark: bool = False) -> list[str]:
    """What the browser says of the page; a picture of it lies beside."""
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *("--enable-logging=stderr", "--v=0", f"--blink-settings=preferredColorScheme={0 if dark else 1}"),
            *(f"--window-size={width},2400", f"--screenshot={page.with_suffix('.png')}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False), (500, True)])
def test_the_console_stays_empty(width: int, dark: bool, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    throttled = changed(a_result(ms=19, name="hot"), during={"throttled_now": ("throttled",)})
    page.write_text(render(document(a_result(), throttled)), "utf-8")
    assert console_of(page, width, dark) == []
    picture = page.with_suffix(".png").read_bytes()
    assert struct.unpack(">I", picture[16:20])[0] == width


def test_a_browser_that_obeys_fetches_nothing(tmp_path: Path) -> None:
    """So the test above can fail: what would be fetched is refused, and said on the console."""
    page = tmp_path / "report.html"
    inside = '<img src="https://example.org/x.png"><script>fetch("https://example.org")</script></body>'
    page.write_text(render(document(a_result())).replace("</body>", inside), "utf-8")
    console = " ".join(console_of(page))
    assert "Content Security Policy" in console
    assert "example.org/x.png" in console
