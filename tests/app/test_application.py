"""The application as a whole: its documentation, and what it leaves behind."""

import threading
from pathlib import Path

from serving import Server, encoded, picture, running

from app.metrics import package_version
from app.settings import Settings

PERSON = encoded(picture(boxes=((20, 20, 44, 70),)))


def test_the_documentation_is_read_without_the_internet(server: Server) -> None:
    page = server.client.get("/docs").text
    assert "swagger-ui" in page and "https://" not in page


def test_the_openapi_document_says_what_the_service_is_and_of_which_version(server: Server) -> None:
    info = server.client.get("/openapi.json").json()["info"]
    assert (info["title"], info["version"]) == ("okdhp", package_version())
    assert "17 COCO keypoints" in info["description"]


def test_the_page_is_served_with_a_type_that_a_browser_shows(server: Server) -> None:
    page = server.client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")


def test_a_service_that_ended_leaves_no_thread_behind(tiny_models: dict[str, Path]) -> None:
    before = set(threading.enumerate())
    with running(Settings(provider="cpu", **tiny_models)) as server:  # type: ignore[arg-type]
        assert server.client.post("/pose", content=PERSON).status_code == 200
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
