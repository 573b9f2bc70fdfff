"""The page of a run in a browser: nothing sticks out on a telephone, and dark is dark."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vistill import api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--hide-scrollbars", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
]
DARK = "--blink-settings=preferredColorScheme=0"
PROBE = (
    "<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth, "
    "document.images.length, [...document.images].every(i => i.naturalWidth > 0)], '*')</script>"
)
FRAME = (
    "<title>nothing</title><script>onmessage = told => document.title = told.data</script>"
    "<iframe src='{page}' style='border: 0; width: {width}px; height: 900px'></iframe>"
)
"""Chromium has no window below 500 pixels, but frames."""
Browse = Callable[..., str]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="pages are looked at with chromium"),
]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    def run(page: Path, *words: str) -> str:
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *words, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def page(mae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.report(mae_run, out=tmp_path_factory.mktemp("page") / "run.html")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page: Path, browse: Browse, width: int) -> None:
    probed, frame = page.with_name("probed.html"), page.with_name("frame.html")
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    frame.write_text(FRAME.format(page=probed.name, width=width))
    shown = browse(frame, "--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom")
    told = re.search(r"<title>(\d+),(\d+),(\d+),(\w+)</title>", shown)
    assert told is not None
    whole, window, pictures, loaded = told.groups()
    assert int(window) == width
    assert int(whole) <= width
    assert int(pictures) >= 6
    assert loaded == "true"


@pytest.mark.parametrize(("word", "paper", "most", "least"), [("--lang=en", 255, 110, 0),
                                                                (DARK, 24, 255, 180)])  # fmt: skip
def test_words_and_curves_stand_out_from_the_paper(
    page: Path, browse: Browse, word: str, paper: int, most: int, least: int
) -> None:
    picture = page.with_name("shot.png")
    browse(page, "--window-size=1280,1000", word, f"--screenshot={picture}")
    with Image.open(picture) as shot:
        grey = shot.convert("L")
        colours = {colour for _, colour in shot.convert("RGB").getcolors(2**24)}
    assert abs(grey.getpixel((2, 2)) - paper) <= 3
    darkest, lightest = grey.getextrema()
    assert darkest <= most
    assert lightest >= least
    first = (0x0B, 0x6E, 0x4F) if paper == 255 else (0x4F, 0xC7, 0x9B)
    assert first in colours  # of the first line


def test_it_prints_on_white_paper(page: Path, browse: Browse) -> None:
    printed = page.with_name("run.pdf")
    browse(page, DARK, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
