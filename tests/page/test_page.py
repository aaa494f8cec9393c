"""The page in a real browser, against the real service with the tiny networks."""

import re
from pathlib import Path

import pytest
from pages import PERSON, show
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
    page.wait_for_function("window.opened === 'slow.png'")
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
        expect(page.get_by_label("This server asks for an API key")).to_be_focused()
        page.keyboard.type("sécr€t")
        page.keyboard.press("Enter")
        page.click("#use-camera")
        expect(page.locator("#people")).to_have_text("1")
        page.click("#stop")
        show(page, encoded(picture(640, 480, (PERSON,))))
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


def test_a_phone_shows_everything_without_sideways_scrolling_and_with_large_buttons(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.click("#use-camera")
    expect(page.locator("#people")).to_have_text("1")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44
        assert button.bounding_box()["y"] + button.bounding_box()["height"] <= 844


@pytest.mark.parametrize("size", [(360, 740), (740, 360), (820, 1180), (1440, 900)], ids=str)
def test_the_dancer_leaves_the_headline_alone(open_page, size):
    page = open_page(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    drawn = """() => {
      const canvas = document.querySelector("canvas");
      const [frame, words] = [canvas, document.querySelector("h1")].map((it) => it.getBoundingClientRect());
      const scale = canvas.width / frame.width;
      const place = [words.left - frame.left, words.top - frame.top, words.width, words.height];
      const count = (pixels) => pixels.data.filter((value, index) => index % 4 === 3 && value > 0).length;
      const context = canvas.getContext("2d");
      return [
        count(context.getImageData(0, 0, canvas.width, canvas.height)),
        count(context.getImageData(...place.map((value) => Math.round(value * scale)))),
      ];
    }"""
    page.wait_for_function(f"({drawn})()[0] > 0")
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


def test_nothing_that_the_server_says_is_taken_for_markup():
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "static").glob("*.js")]
    assert sources and not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", s) for s in sources)
