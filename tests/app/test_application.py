"""The application as a whole: its documentation, and what it leaves behind."""

import threading
from pathlib import Path

import pytest
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


def test_the_page_is_for_those_who_read(server: Server) -> None:
    head = server.client.head("/")
    assert (head.status_code, head.content) == (200, b"") and int(head.headers["content-length"]) > 0
    assert [server.client.request(method, "/main.js").status_code for method in ("POST", "PUT", "DELETE")] == [404] * 3


def test_nobody_is_sent_elsewhere_with_a_key(server: Server) -> None:
    """A redirect names scheme and host as the service sees them: behind a proxy that it does not know, http://."""
    answers = [server.client.request(method, path) for method, path in (("POST", "/pose/"), ("GET", "/livez/"))]
    assert [answer.status_code for answer in answers] == [404, 404]


@pytest.mark.parametrize(("method", "path", "status", "title"), [
    ("GET", "/no/such/path", 404, "Not found"), ("DELETE", "/pose", 405, "Method not allowed"),
    ("POST", "/pose", 400, "Bad request"),
])  # fmt: skip
def test_what_the_framework_refuses_is_told_as_a_problem(
    server: Server, method: str, path: str, status: int, title: str
) -> None:
    cut_short = {"content-type": "multipart/form-data; boundary=here"}
    answer = server.client.request(method, path, content=b"--here", headers=cut_short)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, status)


def test_a_service_that_ended_leaves_no_thread_behind(tiny_models: dict[str, Path]) -> None:
    before = set(threading.enumerate())
    with running(Settings(provider="cpu", **tiny_models)) as server:  # type: ignore[arg-type]
        assert server.client.post("/pose", content=PERSON).status_code == 200
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
