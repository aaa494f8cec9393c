"""A real browser on the page, with a fake camera that shows somebody."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import Server, encoded, picture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream"]
WAIT_MS = 45_000  # as long as it takes: a starved machine is no failure

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need the package playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    frames = [encoded(picture(640, 480, ((x, 120, x + 110, 400),)), ".jpg") for x in range(60, 160, 5)]
    camera = tmp_path_factory.mktemp("camera") / "person.mjpeg"
    camera.write_bytes(b"".join(frames + frames[::-1]))
    with playwright.sync_playwright() as driver:
        args = [*ARGS, f"--use-file-for-fake-video-capture={camera}"]
        playwright.expect.set_options(timeout=WAIT_MS)
        running_browser = driver.chromium.launch(executable_path=CHROMIUM, args=args)
        yield running_browser
        running_browser.close()


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Open]:
    """Opens the page, by default of the shared service and with the camera allowed; fails on any script error."""
    contexts, errors = [], []

    def opened(url: str = server.url, *, camera: bool = True, script: str = "", **options: Any) -> Any:
        context = browser.new_context(permissions=["camera"] if camera else [], **options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.add_init_script(script)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
