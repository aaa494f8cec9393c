"""The page in a real browser, against the real service with the tiny networks."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import PERSON, show, until
from serving import encoded, picture, running

from app.settings import Settings
from app.skeleton import KEYPOINT_NAMES, LIMBS

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need the package playwright")
expect = playwright.expect


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_chosen_picture_shows_its_people(open_page):
    page = open_page()
    show(page, encoded(picture(640, 480, (PERSON,))))
    expect(page.locator("#people")).to_have_text("1")
    expect(page.get_by_role("img", name="1 person")).to_be_visible()
    assert re.fullmatch(r"\d+", page.inner_text("#latency")) and re.fullmatch(r"\d+", page.inner_text("#age"))
    expect(page.get_by_role("status")).to_have_text("1 person found.")
    page.click("#stop")
    expect(page.locator("#heading")).to_be_visible()


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


@pytest.mark.parametrize("then", ["another picture", "camera", "stop"])
def test_a_picture_that_takes_long_to_open_gives_way_to_what_is_chosen_next(open_page, then):
    page = open_page()
    page.evaluate("""() => {
      const decode = createImageBitmap;
      window.createImageBitmap = async (file) => {
        if (file.name === "slow.png") await new Promise((resolve) => (window.goOn = resolve));
        window.opened = file.name;
        return decode(file);
      };
    }""")
    show(page, encoded(picture(640, 480)), "slow.png")
    if then == "another picture":
        show(page, encoded(picture(640, 480, (PERSON,))))
    else:
        page.evaluate("(id) => document.getElementById(id).click()", "use-camera" if then == "camera" else "stop")
    if then != "stop":
        expect(page.locator("#people")).to_have_text("1")
    page.evaluate("window.goOn()")
    until(page, "window.opened === 'slow.png'")
    page.wait_for_timeout(300)  # in which it would be shown
    assert page.evaluate("document.body.dataset.state") == {"stop": "idle", "camera": "live"}.get(then, "picture")
    expect(page.locator("#people")).to_have_text("0" if then == "stop" else "1")


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


def test_a_picture_that_is_too_large_for_the_server_is_sent_smaller(open_page, tiny_models):
    with running(Settings(provider="cpu", max_pixels=5_000_000, max_body_bytes=300_000, **tiny_models)) as small:
        page = open_page(small.url)
        show(page, encoded(picture(2560, 2560, ((600, 480, 1040, 1600),))))
        expect(page.get_by_role("status")).to_have_text("1 person found.")
        many_bytes = picture(640, 480, (PERSON,)) // 2 + np.random.default_rng(0).integers(
            0, 120, (480, 640, 3), np.uint8
        )
        show(page, encoded(many_bytes.astype(np.uint8)))
        expect(page.get_by_role("status")).to_have_text(re.compile("found|Nobody"))


def test_a_picture_is_drawn_once_and_not_with_every_frame(open_page):
    page = open_page()
    show(page, encoded(picture(640, 480, (PERSON,))))
    expect(page.get_by_role("status")).to_have_text("1 person found.")
    drawn = """() => new Promise((resolve) => {
      let count = 0;
      const draw = CanvasRenderingContext2D.prototype.drawImage;
      CanvasRenderingContext2D.prototype.drawImage = function (...all) { count += 1; return draw.apply(this, all); };
      let frames = 0;
      const step = () => ((frames += 1) < 10 ? requestAnimationFrame(step) : resolve(count));
      requestAnimationFrame(step);
    })"""
    page.evaluate(drawn)  # what the answer brought is drawn by then
    assert page.evaluate(drawn) == 0
    page.set_viewport_size({"width": 700, "height": 600})
    until(page, "document.querySelector('canvas').width < 700")
    pixel = "[...document.querySelector('canvas').getContext('2d').getImageData(5, 5, 1, 1).data]"
    assert page.evaluate(pixel)[3] == 255  # drawn anew for the new size


def test_words_dragged_over_the_page_are_no_file(open_page):
    page = open_page()
    drag = """(kind) => {
      const dragged = new DataTransfer();
      if (kind === "file") dragged.items.add(new File(["x"], "x.png"));
      else dragged.setData("text/plain", "words");
      dispatchEvent(new DragEvent("dragenter", { dataTransfer: dragged }));
      return document.body.classList.contains("dropping");
    }"""
    assert page.evaluate(drag, "words") is False
    assert page.evaluate(drag, "file") is True


def test_what_the_server_refuses_is_told_in_its_words(open_page, tiny_models):
    with running(Settings(provider="cpu", max_pixels=1000, **tiny_models)) as small:
        page = open_page(small.url)
        show(page, encoded(picture(640, 480)))
        expect(page.get_by_role("alert")).to_contain_text("640 x 480 pixels")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_server_with_keys_asks_for_one_and_then_works_for_pictures_and_camera(open_page, tiny_models):
    with running(Settings(provider="cpu", api_keys="sécr€t", **tiny_models)) as locked:
        page = open_page(locked.url)
        page.click("#use-camera")
        expect(page.get_by_label("API key")).to_be_focused()
        expect(page.get_by_role("alert")).to_have_text("This server asks for an API key.")
        page.keyboard.type("sécr€t")
        page.keyboard.press("Enter")
        expect(page.locator("#people")).to_have_text("1")  # what was chosen is shown at once
        page.click("#stop")
        show(page, encoded(picture(640, 480, (PERSON,))))
        expect(page.locator("#people")).to_have_text("1")


def test_a_wrong_key_is_told_and_the_picture_is_kept(open_page, tiny_models):
    with running(Settings(provider="cpu", api_keys="right", **tiny_models)) as locked:
        page = open_page(locked.url)
        show(page, encoded(picture(640, 480, (PERSON,))))
        page.get_by_label("API key").fill("half a k")
        show(page, b"words", "a.txt", "text/plain")
        expect(page.get_by_label("API key")).to_have_value("half a k")
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The server does not accept that API key.")
        page.get_by_label("API key").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#people")).to_have_text("1")


# --- the page itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_load_nothing_from_elsewhere(open_page, server, path):
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url + path)
    page.wait_for_load_state("networkidle")
    assert asked and all(url.startswith((server.url, "data:")) for url in asked)


def test_the_api_page_shows_every_operation(open_page, server):
    page = open_page(server.url + "/docs")
    for path in ("/pose", "/healthz", "/readyz", "/metrics"):
        expect(page.locator(f'[data-path="{path}"]')).to_be_visible()


SIZES = [(360, 740), (740, 360), (720, 450), (820, 1180), (1440, 900)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shown", [(1280, 720), (720, 1280)], ids=["wide", "upright"])
def test_whatever_is_shown_the_controls_are_in_view_and_large(open_page, size, shown):
    page = open_page(viewport={"width": size[0], "height": size[1]}, has_touch=True)
    for state in ("idle", "picture"):
        if state == "picture":
            show(page, encoded(picture(*shown, ((100, 100, 400, 650),))))
            expect(page.get_by_role("status")).to_have_text(re.compile("found.$"))
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [*size]
        for button in page.locator("button:visible").all():
            box = button.bounding_box()
            assert box["height"] >= 44 and 0 <= box["y"] and box["y"] + box["height"] <= size[1]
    stage = page.locator("#stage").bounding_box()
    assert stage["width"] / stage["height"] == pytest.approx(shown[0] / shown[1], rel=0.02)
    assert stage["height"] > 0.45 * min(size[1], size[0] * shown[1] / shown[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_dancer_leaves_the_headline_alone(open_page, size):
    page = open_page(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    drawn = """() => {
      const canvas = document.querySelector("canvas");
      const [frame, words] = [canvas, document.querySelector("#heading")].map((it) => it.getBoundingClientRect());
      const scale = canvas.width / frame.width;
      const place = [words.left - frame.left, words.top - frame.top, words.width, words.height];
      const count = (pixels) => pixels.data.filter((value, index) => index % 4 === 3 && value > 0).length;
      const context = canvas.getContext("2d");
      return [
        count(context.getImageData(0, 0, canvas.width, canvas.height)),
        count(context.getImageData(...place.map((value) => Math.round(value * scale)))),
      ];
    }"""
    until(page, f"({drawn})()[0] > 0")
    assert page.evaluate(drawn)[1] == 0


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


def test_no_skeleton_is_drawn_over_a_label_which_is_above_the_head(open_page):
    order, label_y = open_page().evaluate("""import('/draw.js').then(({ drawPeople, makeView }) => {
      const calls = [];
      const record = (_, name) => (...all) => {
        calls.push([name, ...all]);
        return name === "measureText" ? { width: 8 } : undefined;
      };
      const context = new Proxy({}, { get: record, set: () => true });
      const keypoints = [{ name: "nose", x: 50, y: 60, score: 1 }, { name: "left_eye", x: 54, y: 56, score: 1 }];
      const people = [1, 2].map((id) => ({ id, box: [20, 40, 80, 300], keypoints }));
      drawPeople(context, people, makeView({ width: 100, height: 400 }, { width: 100, height: 400 }, false));
      return [calls.map(([name]) => name), calls.find(([name]) => name === "fillText")[3]];
    })""")
    assert order.count("fillText") == 2 and order.index("fillText") > max(
        place for place, name in enumerate(order) if name in ("lineTo", "arc")
    )
    assert label_y < 40  # where the box begins, not on the forehead


def test_answers_of_a_moment_are_no_rate(open_page):
    rates = """import('/meter.js').then(({ Meter }) => {
      const meter = new Meter();
      const rates = [];
      for (const at of [0, 10, 20, 500, 1000]) {
        meter.add({ ageMs: 1 }, at);
        rates.push(meter.rate(at));
      }
      return rates;
    })"""
    assert open_page().evaluate(rates) == [None, None, None, 6, 4]


def test_nothing_that_the_server_says_is_taken_for_markup():
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "static").glob("*.js")]
    assert sources and not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", s) for s in sources)
