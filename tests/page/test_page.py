"""The page in a real browser, against the real service with the tiny networks."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving import Server, encoded, picture, running

from app.main import create_app
from app.settings import Settings
from app.skeleton import KEYPOINT_NAMES, LIMBS
from app.websocket import WebSocketProtocol

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need the package playwright")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream"]
PERSON = (150, 120, 260, 400)  # a white rectangle is a person to the tiny networks
WAIT_MS = 45_000  # as long as it takes: a starved machine is no failure

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    frames = [encoded(picture(640, 480, ((x, 120, x + 110, 400),)), ".jpg") for x in range(60, 160, 5)]
    camera = tmp_path_factory.mktemp("camera") / "person.mjpeg"
    camera.write_bytes(b"".join(frames + frames[::-1]))
    with playwright.sync_playwright() as driver:
        args = [*ARGS, f"--use-file-for-fake-video-capture={camera}"]
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

    expect.set_options(timeout=WAIT_MS)
    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def show(page: Any, data: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_chosen_picture_shows_its_people(open_page):
    page = open_page()
    show(page, encoded(picture(640, 480, (PERSON,))))
    expect(page.locator("#people")).to_have_text("1")
    expect(page.get_by_role("img", name="1 person")).to_be_visible()
    assert re.fullmatch(r"\d+", page.inner_text("#latency")) and re.fullmatch(r"\d+", page.inner_text("#age"))
    page.click("#stop")
    expect(page.locator("h1")).to_be_visible()


def test_a_dropped_picture_works_like_a_chosen_one(open_page):
    page = open_page()
    data = list(encoded(picture(640, 480, (PERSON, (400, 100, 520, 420)))))
    page.evaluate(
        """(data) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(data)], "two.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
        }""",
        data,
    )
    expect(page.locator("#people")).to_have_text("2")


def test_a_picture_with_nobody_says_so(open_page):
    page = open_page()
    show(page, encoded(picture(640, 480)))
    expect(page.get_by_role("status")).to_have_text("Nobody was found in this picture.")


@pytest.mark.parametrize(
    ("data", "name", "kind", "sentence"),
    [
        (b"no picture", "a.png", "image/png", "cannot open that picture"),
        (b"no video", "a.mp4", "video/mp4", "cannot play that video"),
        (b"words", "a.txt", "text/plain", "neither a picture nor a video"),
    ],
)
def test_a_file_that_is_no_use_gets_a_sentence(open_page, data, name, kind, sentence):
    page = open_page()
    show(page, data, name, kind)
    expect(page.get_by_role("alert")).to_contain_text(sentence)


def test_what_the_server_refuses_is_told_in_its_words(open_page, tiny_models):
    with running(Settings(provider="cpu", max_pixels=1000, **tiny_models)) as small:
        page = open_page(small.url)
        show(page, encoded(picture(640, 480)))
        expect(page.get_by_role("alert")).to_contain_text("640 x 480 pixels")


# --- live -----------------------------------------------------------------------------------------------------------

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


def test_a_video_file_is_played_and_analysed(open_page, tmp_path):
    page = open_page()
    show(page, webm_of_a_person(page), "clip.webm", "video/webm")
    expect(page.locator("#people")).to_have_text("1")
    expect(page.locator("#fps")).to_have_text(re.compile(r"^\d+$"))


def webm_of_a_person(page: Any) -> bytes:
    """A second of video, recorded by the browser itself."""
    data = page.evaluate(
        """async ([x1, y1, x2, y2]) => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
          const context = canvas.getContext("2d");
          const recorder = new MediaRecorder(canvas.captureStream(20), { mimeType: "video/webm" });
          const chunks = [];
          recorder.ondataavailable = (event) => chunks.push(event.data);
          const ended = new Promise((resolve) => { recorder.onstop = resolve; });
          recorder.start();
          for (let frame = 0; frame < 15; frame += 1) {
            context.fillStyle = "#202020";
            context.fillRect(0, 0, 640, 480);
            context.fillStyle = "#ffffff";
            context.fillRect(x1 + frame, y1, x2 - x1, y2 - y1);
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
          recorder.stop();
          await ended;
          return [...new Uint8Array(await new Blob(chunks).arrayBuffer())];
        }""",
        PERSON,
    )
    return bytes(data)


def test_a_slow_server_does_not_freeze_the_video(open_page, tiny_models):
    with running(Settings(provider="cpu", **tiny_models)) as slow:
        release, batcher = threading.Event(), slow.app.state.pipeline._pose_batcher
        run = batcher._run
        batcher._run = lambda crops: (release.wait(60), run(crops))[1]
        try:
            page = open_page(slow.url)
            page.click("#use-camera")
            shot = "() => document.querySelector('canvas').toDataURL('image/jpeg', 0.3)"
            expect(page.get_by_role("status")).to_have_text("Connected.")
            first = page.evaluate(shot)
            page.wait_for_function(f"(first) => ({shot})() !== first", arg=first)
            expect(page.locator("#dropped")).not_to_have_text("0")
            expect(page.locator("#fps")).to_have_text("–")
        finally:
            release.set()
        expect(page.locator("#people")).to_have_text("1")


def test_a_hidden_tab_sends_nothing_and_goes_on_when_shown(open_page, tiny_models):
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with running(Settings(provider="cpu", **tiny_models)) as quiet:
        page = open_page(quiet.url)
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
        page.evaluate(hide, True)
        pause = threading.Event()
        assert any(quiet.metric("pose_stream_sessions") == 0 or pause.wait(0.05) for _ in range(200))
        page.evaluate(hide, False)
        assert any(quiet.metric("pose_stream_sessions") == 1 or pause.wait(0.05) for _ in range(200))


@contextmanager
def serving_on(port: int, settings: Settings) -> Iterator[int]:
    """The service on this port (0: a free one) until the block ends."""
    config = uvicorn.Config(create_app(settings), port=port, log_level="warning", ws=WebSocketProtocol)
    server, socket = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


def test_a_lost_connection_is_told_and_mended(open_page, tiny_models):
    settings = Settings(provider="cpu", **tiny_models)
    with running(settings) as first:
        port = int(first.url.rpartition(":")[2])
        page = open_page(first.url)
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
    expect(page.locator("#toast")).to_contain_text("Trying again")
    expect(page.locator("#status")).to_contain_text("Trying again")
    with serving_on(port, settings):
        expect(page.locator("#status")).to_have_text("Connected.")
        expect(page.locator("#toast")).to_be_hidden()
        expect(page.locator("#fps")).to_have_text(re.compile(r"^\d+$"))
        page.close()


# --- the camera's troubles ------------------------------------------------------------------------------------------


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


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_server_with_keys_asks_for_one_and_then_works_for_pictures_and_camera(open_page, tiny_models):
    with running(Settings(provider="cpu", api_keys="sécret", **tiny_models)) as locked:
        page = open_page(locked.url)
        page.click("#use-camera")
        expect(page.get_by_label("This server asks for an API key")).to_be_focused()
        page.keyboard.type("sécret")
        page.keyboard.press("Enter")
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
        page.click("#stop")


# --- the page itself ------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(open_page, server):
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.wait_for_load_state("networkidle")
    assert asked and all(url.startswith(server.url) for url in asked)


def test_a_phone_shows_everything_without_sideways_scrolling_and_with_large_buttons(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44
        assert button.bounding_box()["y"] + button.bounding_box()["height"] <= 844


def test_page_and_service_agree_on_the_skeleton(open_page):
    page = open_page()
    names, limbs = page.evaluate("import('/skeleton.js').then((module) => [module.NAMES, module.LIMBS])")
    assert tuple(names) == KEYPOINT_NAMES
    assert {frozenset(limb) for limb in limbs} == {frozenset(KEYPOINT_NAMES[end] for end in limb) for limb in LIMBS}


def test_a_view_fits_the_picture_and_mirrors_left_and_right_only(open_page):
    corners = """import('/draw.js').then(({ makeView }) => [false, true].map((mirrored) => {
      const view = makeView({ width: 100, height: 50 }, { width: 400, height: 400 }, mirrored);
      return [view.x(0), view.x(100), view.y(0), view.y(50)];
    }))"""
    assert open_page().evaluate(corners) == [[0, 400, 100, 300], [400, 0, 100, 300]]


def test_nothing_that_the_server_says_is_taken_for_markup():
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "static").glob("*.js")]
    assert sources and not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", s) for s in sources)
