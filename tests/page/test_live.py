"""Camera and video on the page in a real browser, against the real service with the tiny networks."""

import re
import threading
from pathlib import Path

import cv2
import pytest
from pages import PERSON, proxy_with_its_own_host, show, until
from serving import Server, encoded, picture, running

from app.settings import Settings

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need the package playwright")
expect = playwright.expect


# --- live ------------------------------------------------------------------------------------------------------------

REMEMBER_CAMERA = """
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => (window.camera = await open(wish));
"""


def test_the_camera_is_shown_with_people_and_figures_and_stops_when_told(open_page, server):
    page = open_page(script=REMEMBER_CAMERA)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    for figure in ("#fps", "#latency", "#age", "#dropped"):
        expect(page.locator(figure)).to_have_text(re.compile(r"^\d+$"))
    page.click("#stop")
    assert page.evaluate("camera.getTracks().map((track) => track.readyState)") == ["ended"]
    expect(page.get_by_role("button", name="Use camera")).to_be_focused()


def test_whoever_uses_the_keyboard_finds_the_focus_where_the_controls_are(open_page):
    page = open_page()
    page.focus("#use-camera")
    page.keyboard.press("Enter")
    expect(page.locator("#people")).to_have_text("1")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()


def test_a_camera_that_the_system_paused_goes_on(open_page):
    page = open_page()
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    page.evaluate("document.querySelector('video').pause()")
    until(page, "!document.querySelector('video').paused")


def test_a_camera_that_sends_no_pictures_is_told_and_shows_nobody(open_page):
    page = open_page(script=REMEMBER_CAMERA)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    page.evaluate("""() => {
      Object.defineProperty(document.querySelector("video"), "paused", { value: true });  // no frame is new
      Object.defineProperty(camera.getTracks()[0], "muted", { value: true });
    }""")
    expect(page.locator("#people")).to_have_text("0")
    expect(page.locator("#toast")).to_have_text("The camera sends no pictures.")
    expect(page.locator("#fps")).to_have_text("–")


def test_a_file_of_no_use_does_not_end_what_is_live(open_page):
    page = open_page()
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    show(page, b"words", "a.txt", "text/plain")
    expect(page.locator("#toast")).to_have_text("That is neither a picture nor a video.")
    expect(page.locator("#toast")).to_be_hidden()
    show(page, b"no picture", "a.png", "image/png")
    expect(page.locator("#toast")).to_contain_text("cannot open that picture")
    assert page.locator("body").get_attribute("data-state") == "live"
    page.click("#stop")
    expect(page.locator("#toast")).to_be_hidden(timeout=1000)  # before its time: there is nothing that it would be over


def test_a_video_file_is_played_and_analysed(open_page, tmp_path):
    page = open_page()
    show(page, webm_of_a_person(tmp_path / "clip.webm"), "clip.webm", "video/webm")
    expect(page.locator("#people")).to_have_text("1")
    expect(page.locator("#fps")).to_have_text(re.compile(r"^\d+$"))


def webm_of_a_person(path: Path) -> bytes:
    """A second of video. Not recorded by the browser: on a busy machine it often could not play its own recording."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 15, (640, 480))
    x1, y1, x2, y2 = PERSON
    for frame in range(15):
        writer.write(picture(640, 480, ((x1 + frame, y1, x2 + frame, y2),)))
    writer.release()
    return path.read_bytes()


def test_a_slow_server_does_not_freeze_the_video(open_page, tiny_models):
    with running(Settings(provider="cpu", **tiny_models)) as slow:
        release, batcher = threading.Event(), slow.app.state.pipeline._pose.batcher
        run = batcher._run
        batcher._run = lambda crops: (release.wait(60), run(crops))[1]
        try:
            page = open_page(slow.url)
            page.click("#use-camera")
            shot = "() => document.querySelector('canvas').toDataURL('image/jpeg', 0.3)"
            expect(page.locator("#dropped")).not_to_have_text("0")
            first = page.evaluate(shot)
            until(page, f"(first) => ({shot})() !== first", arg=first)
            expect(page.locator("#fps")).to_have_text("–")
        finally:
            release.set()
        expect(page.locator("#people")).to_have_text("1")


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def sessions_become(server: Server, count: int) -> bool:
    """Whether that many streams are open before long."""
    pause = threading.Event()
    return any(server.metric("pose_stream_sessions") == count or pause.wait(0.05) for _ in range(200))


def test_a_hidden_tab_sends_nothing_and_goes_on_when_shown(open_page, tiny_models):
    with running(Settings(provider="cpu", **tiny_models)) as quiet:
        page = open_page(quiet.url)
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
        page.evaluate(HIDE, True)
        assert sessions_become(quiet, 0)
        page.evaluate(HIDE, False)
        assert sessions_become(quiet, 1)


def test_a_camera_that_starts_in_a_hidden_tab_waits_and_leaves_no_stream_behind(open_page, tiny_models):
    with running(Settings(provider="cpu", **tiny_models)) as quiet:
        page = open_page(quiet.url)
        page.evaluate(HIDE, True)  # the user looked elsewhere while the browser asked
        page.click("#use-camera")
        expect(page.locator("body")).to_have_attribute("data-state", "live")
        assert quiet.metric("pose_stream_sessions") == 0
        page.evaluate(HIDE, False)
        expect(page.locator("#people")).to_have_text("1")
        page.click("#stop")
        assert sessions_become(quiet, 0)


NEVER_PLAYS = "HTMLMediaElement.prototype.play = () => new Promise((_, reject) => { window.giveUp = reject; });"


def test_what_is_chosen_while_a_video_is_opened_stays(open_page):
    page = open_page(script=NEVER_PLAYS)
    show(page, b"slow", "slow.webm", "video/webm")
    expect(page.get_by_role("status")).to_have_text("Opening the video…")
    show(page, encoded(picture(640, 480, (PERSON,))))
    expect(page.locator("#people")).to_have_text("1")
    page.evaluate("giveUp(new DOMException('interrupted', 'AbortError'))")
    page.wait_for_timeout(100)
    assert page.locator("body").get_attribute("data-state") == "picture"


SLOW_CAMERA = """
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => {
    await new Promise((resolve) => (window.allow = resolve));
    return (window.camera = await open(wish));
  };
"""


def test_what_is_chosen_while_the_browser_asks_for_the_camera_stays(open_page):
    slow_picture = "const decode = createImageBitmap; window.createImageBitmap = async (file) => {" + (
        "await new Promise((resolve) => (window.goOn = resolve)); return decode(file); };"
    )
    page = open_page(script=SLOW_CAMERA + slow_picture)
    page.click("#use-camera")
    expect(page.get_by_role("status")).to_have_text("Waiting for the camera…")
    show(page, encoded(picture(640, 480, (PERSON,))))
    page.evaluate("allow()")
    until(page, "window.camera?.getTracks()[0].readyState === 'ended'")
    page.evaluate("goOn()")
    expect(page.get_by_role("status")).to_have_text("1 person found.")
    assert page.locator("body").get_attribute("data-state") == "picture"


def test_a_browser_that_keeps_no_site_data_still_shows_the_camera(open_page):
    blocked = (
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError'); } });"
    )
    page = open_page(script=blocked)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")


def test_a_lost_connection_is_told_and_mended(open_page, tiny_models):
    settings = Settings(provider="cpu", **tiny_models)
    with running(settings) as first:
        port = int(first.url.rpartition(":")[2])
        page = open_page(first.url)
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
    expect(page.locator("#toast")).to_contain_text("Trying again")
    expect(page.locator("#status")).to_contain_text("Trying again")
    expect(page.get_by_role("img", name="0 people")).to_be_visible()
    for figure in ("#fps", "#latency", "#age"):
        expect(page.locator(figure)).to_have_text("–")  # and not what was measured while there was a server
    with running(settings, port):
        expect(page.locator("#status")).to_have_text("Connected.")
        expect(page.locator("#toast")).to_be_hidden()
        expect(page.locator("#fps")).to_have_text(re.compile(r"^\d+$"))
        page.close()


def test_a_proxy_that_keeps_the_pages_streams_away_is_told(open_page, server):
    with proxy_with_its_own_host(int(server.url.rpartition(":")[2])) as url:
        page = open_page(url)
        page.click("#use-camera")
        expect(page.locator("#toast")).to_contain_text("a proxy must pass Host, Upgrade and Connection on")
        page.close()


def test_a_server_about_to_stop_is_never_called_connected(open_page, tiny_models):
    noted = """addEventListener("DOMContentLoaded", () => {
      window.said = [];
      const status = document.getElementById("status");
      new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true });
    });"""
    with running(Settings(provider="cpu", **tiny_models)) as stopping:
        stopping.app.state.pipeline.drain()
        page = open_page(stopping.url, script=noted)
        page.click("#use-camera")
        expect(page.locator("#toast")).to_have_text("The server is restarting. Trying again…")
        assert "Connected." not in page.evaluate("said")


# --- the camera's troubles -------------------------------------------------------------------------------------------


def test_a_refused_camera_gets_a_sentence_and_the_page_goes_on(open_page):
    page = open_page(camera=False)
    page.click("#use-camera")
    expect(page.get_by_role("alert")).to_contain_text("The camera is blocked for this page")
    show(page, encoded(picture(640, 480, (PERSON,))))
    expect(page.locator("#people")).to_have_text("1")


def test_every_camera_problem_has_its_own_sentence(open_page):
    page = open_page()
    names = [
        "NotAllowedError",
        "NotFoundError",
        "NotReadableError",
        "OverconstrainedError",
        "SecurityError",
        "AbortError",
    ]
    sentences = set()
    for name in names:
        page.evaluate(
            "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name); }; }",
            name,
        )
        page.click("#use-camera")
        expect(page.get_by_role("alert")).to_be_visible()
        sentences.add(page.get_by_role("alert").inner_text())
    assert len(sentences) == len(names) and all(sentence.endswith(".") for sentence in sentences)


def test_a_page_that_is_not_secure_says_what_would_help(open_page):
    page = open_page(script="Object.defineProperty(window, 'isSecureContext', { value: false });")
    page.click("#use-camera")
    expect(page.get_by_role("alert")).to_contain_text("https")


def test_a_browser_without_cameras_says_so(open_page):
    page = open_page(script="Object.defineProperty(navigator, 'mediaDevices', { value: undefined });")
    page.click("#use-camera")
    expect(page.get_by_role("alert")).to_contain_text("no camera access")


def test_a_camera_that_is_pulled_out_is_told(open_page):
    page = open_page(script=REMEMBER_CAMERA)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    page.evaluate("camera.getTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.get_by_role("alert")).to_have_text("The camera was disconnected.")
    expect(page.get_by_role("button", name="Use camera")).to_be_focused()  # as the button that had the focus is gone
