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
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Sends one command of WebDriver BiDi and returns its result."""
    if FIREFOX is None:
        pytest.skip("no firefox here: apt-get install firefox-esr")
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(
        "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFS.items())
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


def test_firefox_shows_a_picture_s_people_and_streams_its_camera(ask: Ask, server: Server, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), picture(640, 480, (PERSON,)))
    context = ask("browsingContext.getTree")["contexts"][0]["context"]

    def run(script: str) -> Any:
        return ask("script.evaluate", expression=script, target={"context": context}, awaitPromise=False)["result"]

    def until(script: str) -> None:
        end = time.monotonic() + WAIT_S
        while run(script).get("value") is not True:
            assert time.monotonic() < end, f"never came true: {script}"

    ask("browsingContext.navigate", context=context, url=server.url, wait="complete")
    run("window.errors = []; addEventListener('error', (event) => errors.push(event.message))")
    file = run("document.getElementById('file')")["sharedId"]
    ask("input.setFiles", context=context, element={"sharedId": file}, files=[str(tmp_path / "one.png")])
    until("document.getElementById('status').textContent === '1 person found.'")
    run("document.getElementById('use-camera').click()")
    until("/^[0-9]+$/.test(document.getElementById('fps').textContent)")
    assert run("errors.length")["value"] == 0
