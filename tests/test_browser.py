"""The book and JupyterLab in a real browser: what a reader sees, at a desk and on a phone, by day and by night."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from conftest import ROOT
from stpath_core import pairing

CHROMIUM = shutil.which("chromium")
WORDS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DRAWN = (
    """() => [...document.querySelectorAll('.jp-RenderedImage img')].some(i => i.complete && i.naturalWidth > 100)"""
)
LESSON = "01_bring_your_own_data"  # seconds at smoke, needs no other


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium with an empty profile; without it a skip, or a failure where STPATH_BROWSER says required."""
    if CHROMIUM is None:
        assert os.environ.get("STPATH_BROWSER") != "required", "CI must have chromium, and has not"
        pytest.skip("no chromium here: the book was not looked at (Debian's package chromium brings it)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        folder = str(tmp_path_factory.mktemp("profile"))
        environment = os.environ | {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=WORDS, env=environment)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(book):
    """The book, served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=book))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def open_page(browser):
    """Open pages of which every complaint is kept in `page.said`."""
    contexts = []

    def opened(viewport=DESK, **more):
        context = browser.new_context(viewport=viewport, **more)
        contexts.append(context)
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on(
            "requestfailed", lambda r: None if r.failure == "net::ERR_ABORTED" else page.said.append(f"failed: {r.url}")
        )
        page.on("response", lambda r: page.said.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        return page

    yield opened
    for context in contexts:
        context.close()


def names(book: Path) -> list[str]:
    """Every page, as it stands in an address."""
    return [str(path.relative_to(book)) for path in sorted(book.rglob("*.html")) if "_static" not in path.parts]


def sample(book: Path) -> list[str]:
    """Every page of prose and tables, two notebooks, the largest and the smallest room: they are made alike."""
    rooms = sorted(book.glob("reference/stpath_core.*.html"), key=lambda path: path.stat().st_size)
    lessons = sorted(book.glob("notebooks/[0-9]*.html"))
    shown = {str(path.relative_to(book)) for path in (rooms[0], rooms[-1], lessons[0], lessons[-1])}
    generated = ("genindex", "changes", "reference/stpath_core.", *(f"notebooks/{digit}" for digit in range(10)))
    return [name for name in names(book) if name in shown or not name.startswith(generated)]


LOOK = """() => ({
  figures: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
  wide: document.documentElement.scrollWidth - innerWidth,
})"""


def test_every_page_fits_a_phone_loads_its_figures_and_raises_no_error(book, address, open_page):
    page, wrong = open_page(PHONE), {}
    for name in names(book):
        page.goto(f"{address}/{name}", wait_until="load")
        seen = page.evaluate(LOOK)
        if seen["figures"] or seen["wide"] > 0 or page.said:
            wrong[name] = (seen, page.said)
        page.said = []
    assert not wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_is_found_by_axe(book, address, open_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page, found = open_page(DESK, color_scheme=scheme), {}
    options = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    chosen = sample(book) if scheme == "light" else [name for name in sample(book) if name.count("/") == 0][:4]
    for name in chosen:
        page.goto(f"{address}/{name}", wait_until="load")
        for one in Axe().run(page, options=options).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found.setdefault(one["id"], []).append((name, one["nodes"][0]["html"][:90], len(one["nodes"])))
    assert not found, {rule: pages[:2] for rule, pages in found.items()}


def test_search_finds_a_word_of_the_glossary(address, open_page):
    page = open_page()
    page.goto(f"{address}/search.html?q=deconvolution")
    page.wait_for_selector("#search-results a[href*='glossary']")
    assert not page.said


def test_the_search_field_leads_to_the_results(address, open_page):
    page = open_page()
    page.goto(f"{address}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("abstention")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results a[href*='glossary']")
    assert not page.said


def test_dark_mode_follows_the_reader_and_the_button(address, open_page):
    page = open_page(color_scheme="dark")
    page.goto(f"{address}/index.html")
    colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert max(page.evaluate(colour)) < 60
    page.locator("button.theme-switch-button:visible").click()
    page.locator("button.theme-change-button[data-mode=light]:visible").click()
    assert min(page.evaluate(colour)) > 200
    page.goto(f"{address}/glossary.html")
    assert min(page.evaluate(colour)) > 200, "the choice is kept"


def test_the_button_copies_the_code_without_prompts(address, open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/notebooks/{LESSON}.html")
    block = page.locator("div.highlight").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.length > 20)")
    assert page.evaluate("navigator.clipboard.readText()").strip() == block.locator("pre").inner_text().strip()
    page.goto(f"{address}/reference/stpath_core.parameters.html")
    block = page.locator("div.highlight-pycon").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('declared('))")
    assert ">>>" not in page.evaluate("navigator.clipboard.readText()")


def test_a_solution_is_shown_when_asked_for(address, open_page):
    page = open_page()
    page.goto(f"{address}/notebooks/{LESSON}.html")
    hidden = page.locator("details.hide pre").first
    assert not hidden.is_visible()
    page.locator("details.hide summary").first.click()
    assert hidden.is_visible()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a copy of one lesson whose profile is smoke."""
    if CHROMIUM is None:
        assert os.environ.get("STPATH_BROWSER") != "required", "CI must have chromium, and has not"
        pytest.skip("no chromium here: JupyterLab was not looked at (Debian's package chromium brings it)")
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    shutil.copytree(ROOT / "notebooks" / "params", home / "notebooks" / "params")
    shutil.copytree(ROOT / "data", home / "data", ignore=shutil.ignore_patterns("cache", "downloads", "results"))
    text = (ROOT / "notebooks" / f"{LESSON}.py").read_text().replace('profile: str = "cpu"', 'profile: str = "smoke"')
    source = home / "notebooks" / f"{LESSON}.py"
    source.write_text(text)
    pairing.write_pair(pairing.read_source(source), pairing.paired(source))
    words = re.search(r"^lab:.*\n\t\$\(BIN\)/jupyter (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    words += ["--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", "--IdentityProvider.token=tissue"]
    environment = os.environ | {
        "STPATH_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_RUNTIME_DIR": str(home / "rt"),
    }
    environment |= {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment.pop("STPATH_CACHE", None)
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", *words], cwd=home, env=environment, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port_of(process, home)}", home
    finally:
        process.terminate()
        process.wait(timeout=30)


def port_of(process: subprocess.Popen, home: Path) -> int:
    """The port of the server, when it answers."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for path in (home / "rt").glob("jpserver-*.json"):
            port = json.loads(path.read_text() or "{}").get("port")
            if port:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=tissue", timeout=30):
                    return port
        time.sleep(0.2)
    raise AssertionError((home / "log").read_text()[-2000:])


def take_the_kernel(page, *, wait_ms: int) -> None:
    """Say yes where JupyterLab asks which kernel."""
    from playwright.sync_api import TimeoutError as NotAsked

    with contextlib.suppress(NotAsked):
        page.locator(".jp-Dialog button.jp-mod-accept").first.click(timeout=wait_ms)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".ipynb", ".py"])
def test_jupyterlab_runs_a_lesson_to_its_end_with_figures(lab, open_page, suffix):
    """As a notebook, and as the text that is paired with it."""
    base, home = lab
    page = open_page()
    page.goto(
        f"{base}/lab/tree/{LESSON}.ipynb?token=tissue" if suffix == ".ipynb" else f"{base}/lab?token=tissue&reset"
    )
    if suffix == ".py":
        item = page.locator(".jp-DirListing-item", has_text=f"{LESSON}.py").first
        item.wait_for(timeout=60_000)
        item.click(button="right")
        page.get_by_text("Open With", exact=True).hover()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^(Jupytext )?Notebook$")).first.click()
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    take_the_kernel(page, wait_ms=3_000)
    runs = set((home / "runs").glob("*/manifest.json")) if (home / "runs").exists() else set()
    end, done, fresh, again = time.monotonic() + 180, [], set(), 0.0
    while time.monotonic() < end and not done:
        if (
            not fresh and time.monotonic() > again
        ):  # on a busy machine the kernel may not have been there the first time
            page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
            page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
            again = time.monotonic() + 60
        take_the_kernel(page, wait_ms=500)
        fresh = set((home / "runs").glob("*/manifest.json")) - runs if (home / "runs").exists() else set()
        done = [path for path in fresh if json.loads(path.read_text())["status"] == "complete"]
    assert done, page.locator(".jp-Notebook").inner_text()[-2000:]
    page.locator(".jp-RenderedImage img").first.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN)  # or the error of a time that was over
    assert not page.locator(
        ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']:has-text('Error')"
    ).count()
