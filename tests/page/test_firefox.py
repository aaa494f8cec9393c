"""The page in Firefox, where it is installed: driven by WebDriver BiDi, as Playwright drives no system's Firefox."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from pages import PERSON
from serving import Server, picture
from websockets.sync.client import connect

FIREFOX = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)
PREFS = {"media.navigator.streams.fake": True, "media.navigator.permission.disabled": True}
WAIT_S = 45.0  # as long as it takes: a starved machine is no failure

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Sends one command of WebDriver BiDi and returns its result; its parameter: further preferences."""
    if FIREFOX is None:
        pytest.skip("no firefox here: apt-get install firefox-esr")
    profile = tmp_path / "profile"
    profile.mkdir()
    prefs = PREFS | getattr(request, "param", {})
    (profile / "user.js").write_text(
        "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items())
    )
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as firefox:
        try:
            listening = (re.search(r"BiDi listening on (ws://\S+)", line) for line in firefox.stderr or ())
            address = next(filter(None, listening))[1]
            with connect(f"{address}/session", max_size=None) as socket:

                def asked(method: str, **params: Any) -> Any:
                    socket.send(json.dumps({"id": 1, "method": method, "params": params}))
                    while "id" not in (answer := json.loads(socket.recv(timeout=WAIT_S))):
                        pass  # an event
                    assert answer["type"] == "success", answer
                    return answer["result"]

                asked("session.new", capabilities={})
                yield asked
        finally:
            firefox.kill()


class Page:
    """The service's page."""

    def __init__(self, ask: Ask, server: Server) -> None:
        self._ask = ask
        self.context = ask("browsingContext.getTree")["contexts"][0]["context"]
        ask("browsingContext.navigate", context=self.context, url=server.url, wait="complete")

    def run(self, script: str) -> Any:
        target = {"context": self.context}
        return self._ask("script.evaluate", expression=script, target=target, awaitPromise=False)["result"]

    def until(self, script: str) -> None:
        end = time.monotonic() + WAIT_S
        while self.run(script).get("value") is not True:
            assert time.monotonic() < end, f"never came true: {script}"


def test_firefox_shows_a_picture_s_people_and_streams_its_camera(ask: Ask, server: Server, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), picture(640, 480, (PERSON,)))
    page = Page(ask, server)
    page.run("window.errors = []; addEventListener('error', (event) => errors.push(event.message))")
    file = page.run("document.getElementById('file')")["sharedId"]
    ask("input.setFiles", context=page.context, element={"sharedId": file}, files=[str(tmp_path / "one.png")])
    page.until("document.getElementById('status').textContent === '1 person found.'")
    page.run("document.getElementById('use-camera').click()")
    page.until("/^[0-9]+$/.test(document.getElementById('fps').textContent)")
    page.until("document.getElementById('status').textContent === 'Connected.'")
    assert page.run("errors.length")["value"] == 0


@pytest.mark.parametrize("ask", [{"privacy.resistFingerprinting": True}], indirect=True)
def test_firefox_that_gives_noise_for_pictures_says_so(ask: Ask, server: Server) -> None:
    page = Page(ask, server)
    page.run("document.getElementById('use-camera').click()")
    page.until("document.getElementById('status').textContent.startsWith('This browser hides pictures')")
