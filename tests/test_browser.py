"""Explorer and report in a real browser: Chromium, driven by Playwright (`make test-browser`).

Whatever asks for an address off loopback, or prints an error, fails the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from rapipe.config.schema import Params

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1600, "height": 1000}, {"width": 400, "height": 900}
SHOTS = os.environ.get("RAPIPE_SCREENSHOTS", "")
"""A folder for pictures of every view; none unless it is named."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with playwright.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium")
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tiny: tuple[Path, Params]) -> Iterator[str]:
    """Of an explorer of the tiny pipeline, served as a user would."""
    command = [sys.executable, "-m", "rapipe", "explore", "--port", "0"]
    with subprocess.Popen(command, cwd=tiny[0], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


class Screen:
    """A page of the browser, and everything that went wrong in it."""

    def __init__(self, browser: Any, size: dict[str, int], scheme: str = "light") -> None:
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error" and "404" not in message.text and "400" not in message.text:
            self.faults.append(message.text)

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.faults.append(f"{request.url} is off loopback")

    def open(self, address: str) -> Any:
        """Open an address, and wait for the first answer."""
        self.page.goto(address)
        self.page.wait_for_selector(".prediction")
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture, if that is wanted."""
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)

    def close(self) -> None:
        """Close it; nothing must have gone wrong, and nothing be wider than the screen."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        self.page.close()
        assert not self.faults
        assert wide <= 1


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def screen(browser: Any, request: pytest.FixtureRequest) -> Iterator[Screen]:
    screen = Screen(browser, request.param)
    yield screen
    screen.close()


def why(page: Any) -> str:
    return str(page.text_content("#why"))


def ids(page: Any) -> list[str]:
    titles = page.eval_on_selector_all("#neighbours button", "all => all.map(b => b.title)")
    return [title.rpartition("id ")[2] for title in titles]


def test_ask_and_what_if(screen: Screen, address: str, request: pytest.FixtureRequest) -> None:
    page, name = screen.open(address), request.node.callspec.id
    screen.shoot(f"ask-{name}")
    before, asked = ids(page), page.get_attribute("#asked-picture", "src")
    assert len(before) == 4
    page.click("#neighbours button >> nth=0")  # hides it
    page.wait_for_function(
        "id => !document.querySelector('#neighbours').innerHTML.includes(id)", arg=before[0]
    )
    assert ids(page)[:3] == before[1:]
    page.wait_for_selector("#hidden-ids button")
    page.click("#show-all")
    page.wait_for_function("() => !document.querySelector('#hidden-ids button')")
    assert ids(page) == before
    page.fill("#noise", "0.3")
    page.wait_for_function("src => document.querySelector('#asked-picture').src !== src", arg=asked)
    page.select_option("#corruption", "fog")
    page.fill("#severity", "5")
    page.fill("#k", "2")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelectorAll('#neighbours button').length === 2")
    page.select_option("#sort", "effect")
    screen.shoot(f"what-if-{name}")


def test_bring_an_image(screen: Screen, address: str, tmp_path: Path) -> None:
    page = screen.open(address)
    picture = tmp_path / "own.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(picture)
    page.set_input_files("#file", str(picture))
    page.wait_for_function("() => document.querySelector('#why').textContent.startsWith('It says')")
    answered = why(page)
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.set_input_files("#file", str(tmp_path / "bad.png"))
    page.wait_for_function("() => !document.querySelector('#message').hidden")
    assert "this file is no image that can be read" in page.text_content("#message")
    assert why(page) == answered
    page.click("#test-images button >> nth=1")
    page.wait_for_function("() => document.querySelector('#message').hidden")


def test_drop_and_paste(screen: Screen, address: str) -> None:
    page = screen.open(address)
    bring = """async kind => {
        const canvas = new OffscreenCanvas(20, 20);
        canvas.getContext('2d').fillRect(0, 0, kind === 'drop' ? 9 : 3, 20);
        const file = new File([await canvas.convertToBlob()], 'x.png', {type: 'image/png'});
        const data = new DataTransfer();
        data.items.add(file);
        const event = kind === 'drop' ? new DragEvent('drop', {dataTransfer: data, bubbles: true})
            : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    captions = set()
    for kind in ("drop", "paste"):
        before = page.text_content("#asked-id")
        page.evaluate(bring, kind)
        page.wait_for_function(
            "text => document.querySelector('#asked-id').textContent !== text", arg=before
        )
        captions.add(page.text_content("#asked-id"))
    assert len(captions) == 2
    assert "not known" in page.text_content("#asked-caption")


def test_the_map(screen: Screen, address: str, request: pytest.FixtureRequest) -> None:
    page, name = screen.open(address), request.node.callspec.id
    page.click("#tab-map")
    page.wait_for_function("() => document.querySelector('#legend').children.length > 2")
    shown = "() => { const c = document.querySelector('#points'); return c.width > 100; }"
    page.wait_for_function(shown)
    screen.shoot(f"map-{name}")
    box = page.locator("#points").bounding_box()
    page.click("#lasso")
    x, y, w, h = box["x"], box["y"], box["width"], box["height"]
    page.mouse.move(x + 0.1 * w, y + 0.1 * h)
    page.mouse.down()
    for dx, dy in ((0.9, 0.1), (0.9, 0.9), (0.1, 0.9), (0.1, 0.2)):
        page.mouse.move(x + dx * w, y + dy * h, steps=4)
    page.mouse.up()
    page.wait_for_selector("#selected button")
    assert page.input_value("#command").startswith("rapipe store remove --id ")
    page.select_option("#colour", "outcome")
    page.wait_for_function("() => document.querySelector('#legend').textContent.includes('others')")
    screen.shoot(f"map-selection-{name}")
    page.click("#selected button >> nth=0")
    page.wait_for_selector("#ask:not([hidden])")


def test_mistakes(screen: Screen, address: str, request: pytest.FixtureRequest) -> None:
    page, name = screen.open(address), request.node.callspec.id
    page.click("#tab-mistakes")
    page.wait_for_selector("#mistake-images button")
    screen.shoot(f"mistakes-{name}")
    page.click("#confusion td button >> nth=0")
    assert page.input_value("#truth") == "0"
    page.select_option("#outcome", "retrieval failed")
    page.select_option("#truth", "")
    page.select_option("#said", "")
    image = page.get_attribute("#mistake-images button >> nth=0", "title")
    page.click("#mistake-images button >> nth=0")
    caption = "() => document.querySelector('#asked-id').textContent"
    page.wait_for_function(f"id => ({caption})().endsWith(id)", arg=image.removeprefix("id "))
    assert "Retrieval failed" in why(page)


def test_by_keyboard_alone(browser: Any, address: str) -> None:
    screen = Screen(browser, WIDE)
    page = screen.open(address)
    page.focus("#tab-ask")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#map:not([hidden])")
    page.wait_for_selector("#legend span")
    page.focus("#points")
    for key in ("ArrowLeft", "ArrowUp", "+", "+", "-"):
        page.keyboard.press(key)
    page.focus("#select-view")
    page.keyboard.press("Enter")
    page.wait_for_selector("#selected button")
    page.focus("#selected button >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")
    page.focus("#neighbours button >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hidden-ids button")
    screen.close()


def test_a_static_copy_opens_from_disk(
    browser: Any, tiny: tuple[Path, Params], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    command = [sys.executable, "-m", "rapipe", "explore", "--export", folder, "--images", "3"]
    subprocess.run(command, cwd=tiny[0], check=True)
    screen = Screen(browser, WIDE, "dark")
    page = screen.open((folder / "index.html").as_uri())
    assert page.locator("#test-images button").count() == 3
    page.click("#test-images button >> nth=2")
    page.select_option("#noise", "0.1")
    page.wait_for_function("() => document.querySelector('#message').hidden")
    screen.shoot("static-dark")
    for view, selector in (("map", "#legend span"), ("mistakes", "#mistake-images button")):
        page.click(f"#tab-{view}")
        page.wait_for_selector(selector)
        screen.shoot(f"static-{view}-dark")
    screen.close()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_the_report_needs_no_network_and_sorts_by_keyboard(
    browser: Any, tiny: tuple[Path, Params], size: dict[str, int], scheme: str
) -> None:
    screen = Screen(browser, size, scheme)
    page = screen.page
    page.goto((tiny[0] / "results/index.html").as_uri())
    screen.shoot(f"report-{scheme}")
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    head = "#accuracy details:has-text('more than chance') thead th:has-text('points')"
    points = "#accuracy details:has-text('more than chance') tbody tr td:nth-child(5)"
    before = page.locator(points).all_inner_texts()
    for key, order, expected in (
        ("Enter", "ascending", sorted(before, key=float)),
        ("Space", "descending", sorted(before, key=float, reverse=True)),
        ("Enter", "none", before),
    ):
        page.focus(f"{head} >> button")
        page.keyboard.press(key)
        assert page.get_attribute(head, "aria-sort") == order
        assert page.locator(points).all_inner_texts() == expected
    screen.close()
