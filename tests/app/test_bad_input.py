"""Whatever a client sends: its documented status, counted, and the next request works."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server, encoded, picture, running
from streams import eventually
from test_images import png_claiming

from app.settings import Settings

PERSON = encoded(picture(boxes=((10, 20, 34, 70),)))
PNG = {"content-type": "image/png"}


def settings(models: dict[str, Path], **values: Any) -> Settings:
    return Settings(provider="cpu", **models, **values)  # type: ignore[arg-type]


@contextmanager
def refused(server: Server, reason: str, times: int = 1) -> Iterator[None]:
    """What happens inside is counted as `reason`, and the service works afterwards."""
    before = server.metric("pose_rejected_total", reason=reason)
    yield
    assert server.metric("pose_rejected_total", reason=reason) == before + times
    works = server.client.post("/pose", content=PERSON)
    assert works.status_code == 200 and len(works.json()["people"]) == 1


def assert_problem(answer: Any, status: int, words: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "reason"} and problem["status"] == status
    assert words in problem["detail"] and "Traceback" not in answer.text


@pytest.mark.parametrize("kind, content, status, reason", [
    ("empty", b"", 400, "bad_image"),
    ("half", PERSON[: len(PERSON) // 2], 400, "bad_image"),
    ("header only", PERSON[:20], 400, "bad_image"),
    ("text", b"hello, this is no picture", 415, "unsupported_format"),
    ("gif", b"GIF89a" + b"\0" * 50, 415, "unsupported_format"),
    ("bomb", png_claiming(20_000, 20_000), 413, "too_large"),
])  # fmt: skip
@pytest.mark.parametrize("way", ["raw", "multipart", "json"])
def test_a_bad_picture(server: Server, kind: str, content: bytes, status: int, reason: str, way: str) -> None:
    """`kind` names the case."""
    with refused(server, reason):
        match way:
            case "raw":
                answer = server.client.post("/pose", content=content, headers=PNG)
            case "multipart":
                answer = server.client.post("/pose", files={"image": ("picture.png", content)})
            case _:
                answer = server.client.post("/pose", json={"image": base64.b64encode(content).decode()})
        assert_problem(answer, status)


@pytest.mark.parametrize("query", [
    "min_score=nan", "min_score=inf", "min_score=-0.1", "min_score=1.1", "min_score=high", "max_people=0",
    "tiles=0", "tiles=5", "tiles=two",
    "max_people=51", "max_people=1.5", "max_people=", "format=xml", "render=gif", "unknown=1", "Min_score=0.5",
    "boxes=", "boxes=1,2,3", "boxes=1,2,3,4,5", "boxes=a,b,c,d", "boxes=nan,0,10,10", "boxes=0,0,inf,10",
    "boxes=10,10,5,20", "boxes=0,0,0.5,10", "boxes=0,0,1e9,10", "boxes=0,0,9,9;;1,1,5,5", "boxes=" + "0,0,9,9;" * 51,
])  # fmt: skip
def test_a_bad_option(server: Server, query: str) -> None:
    with refused(server, "bad_parameter"):
        assert_problem(server.client.post(f"/pose?{query}", content=PERSON, headers=PNG), 422, query.partition("=")[0])


def test_every_bad_option_is_told_by_its_name_alone(server: Server) -> None:
    answer = server.client.post("/pose?max_people=0&unknown=1", content=PERSON, headers=PNG)
    wanted = "max_people: Input should be greater than or equal to 1; unknown: no such option"
    assert_problem(answer, 422, wanted)
    assert answer.json()["detail"] == wanted


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "video/mp4", "?"])
def test_a_wrong_content_type(server: Server, content_type: str) -> None:
    with refused(server, "unsupported_format"):
        assert_problem(server.client.post("/pose", content=PERSON, headers={"content-type": content_type}), 415)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"image": 5}', b'{"image": "", "more": 1}', b"\xff\xfe"])
def test_json_that_is_not_as_documented(server: Server, body: bytes) -> None:
    with refused(server, "bad_parameter"):
        answer = server.client.post("/pose", content=body, headers={"content-type": "application/json"})
        assert_problem(answer, 422, '{"image"')


def test_json_of_more_members_than_a_picture_has_is_not_read(server: Server) -> None:
    """A million keys would keep the event loop, and all other clients, waiting for seconds."""
    body = b"{" + b", ".join([b'"image": ""'] * 102) + b"}"
    with refused(server, "bad_parameter"):
        answer = server.client.post("/pose", content=body, headers={"content-type": "application/json"})
        assert_problem(answer, 422, '{"image"')


def test_a_key_that_json_should_not_have_is_named(server: Server) -> None:
    with refused(server, "bad_parameter"):
        answer = server.client.post("/pose", json={"image": "", "min_score": 0.5})
        assert_problem(answer, 422, """the body must be JSON like {"image": "<base64>"}, without 'min_score'""")


@pytest.mark.parametrize("text", ["***", "AAA", "é", "data:image/png;base64"])
def test_base64_that_is_none(server: Server, text: str) -> None:
    with refused(server, "bad_image"):
        assert_problem(server.client.post("/pose", json={"image": text}), 400)


def test_a_form_without_a_picture_or_with_strange_fields(server: Server) -> None:
    with refused(server, "bad_parameter", times=3):
        assert_problem(server.client.post("/pose", files={"photo": PERSON}), 422, "photo")
        assert_problem(
            server.client.post("/pose", files={"image": PERSON}, data={"min_score": "0.5"}), 422, "min_score"
        )
        assert_problem(server.client.post("/pose", files={"image": (None, "text")}), 422, "is text, not a file")
    with refused(server, "bad_request", times=2):
        for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
            answer = server.client.post("/pose", content=b"--y\r\nnonsense", headers={"content-type": content_type})
            assert_problem(answer, 400)


def test_too_many_pictures(server: Server) -> None:
    with refused(server, "too_large"):
        assert_problem(server.client.post("/pose", files=[("image", ("a.png", PERSON))] * 9), 413, "9 pictures")


def test_one_bad_picture_among_several_refuses_the_request_and_is_told_apart(server: Server) -> None:
    with refused(server, "bad_image"):
        files = [("image", ("a.png", data)) for data in (PERSON, PERSON[:50], PERSON)]
        assert_problem(server.client.post("/pose", files=files), 400, "picture 2 of 3: ")


@pytest.mark.parametrize("option", ["render=jpeg", "boxes=10,10,60,80"])
def test_what_is_of_one_picture_is_refused_with_several(server: Server, option: str) -> None:
    files = [("image", ("a.png", PERSON))] * 2
    with refused(server, "bad_parameter"):
        answer = server.client.post(f"/pose?{option}", files=files)
        assert_problem(answer, 422, "boxes and render=jpeg are for one picture at a time")
    assert server.client.post(f"/pose?{option}", files=files[:1]).status_code == 200


def test_of_more_options_than_anybody_has_none_is_looked_at(server: Server) -> None:
    """Ten thousand unknown ones would hold all others up, if each had its place in the answer."""
    options = "&".join(f"unknown{number}" for number in range(101))
    with refused(server, "bad_parameter"):
        answer = server.client.post(f"/pose?{options}", content=PERSON, headers=PNG)
    assert_problem(answer, 422, "more than 100 options")


def test_unknown_paths_and_methods(server: Server) -> None:
    with refused(server, "not_found"):
        assert_problem(server.client.get("/no/such/path"), 404)
    with refused(server, "method"):
        answer = server.client.get("/pose")
        assert_problem(answer, 405)
        assert answer.headers["allow"] == "POST"


def test_made_up_paths_make_no_new_metric_labels(server: Server) -> None:
    for number in range(20):
        server.client.get(f"/made/up/{number}")
        server.client.request(f"METHOD{number}", "/pose")
    assert "made" not in server.client.get("/metrics").text


def test_a_body_over_the_limit_is_refused_whatever_it_claims(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_body_bytes=10_000)) as server:
        large = PERSON + b"\0" * 10_000
        pieces = (large[start : start + 1000] for start in range(0, len(large), 1000))
        with refused(server, "too_large", times=4):
            assert_problem(server.client.post("/pose", content=large, headers=PNG), 413)
            assert_problem(server.client.post("/pose", content=pieces, headers=PNG), 413)  # no Content-Length
            assert_problem(server.client.post("/pose", files={"image": large}), 413)
            text = base64.b64encode(large).decode()
            assert_problem(server.client.post("/pose", json={"image": text}), 413)


def test_a_body_that_claims_too_much_is_refused_before_it_is_sent(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_body_bytes=10_000, body_timeout_s=1.0)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_keys_are_asked_for_where_they_are_set(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, api_keys=("first", "second"))) as server:
        for headers in ({}, {"x-api-key": "third"}, {"authorization": "Bearer fi"}, {"authorization": "Basic first"}):
            before = server.metric("pose_rejected_total", reason="unauthorized")
            answer = server.client.post("/pose?bad=1", content=b"", headers=headers)
            assert_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert server.metric("pose_rejected_total", reason="unauthorized") == before + 1
        for headers in ({"x-api-key": "first"}, {"authorization": "Bearer second"}):
            assert server.client.post("/pose", content=PERSON, headers=headers).status_code == 200
        for path in ("/livez", "/readyz", "/metrics", "/models"):
            assert server.client.get(path).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_back(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, rate_limit_per_minute=3)) as server:
        answers = [server.client.post("/pose", content=PERSON) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert_problem(answers[-1], 429)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 21
        assert server.metric("pose_rejected_total", reason="rate_limited") >= 2
        assert server.client.get("/livez").status_code == 200


def test_two_keys_behind_one_address_have_a_limit_each(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, api_keys=("first", "second"), rate_limit_per_minute=1)) as server:
        asked = [{"x-api-key": key} for key in ("first", "second", "first")]
        answers = [server.client.post("/pose", content=PERSON, headers=headers) for headers in asked]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


class Held:
    """Holds back the pose network of a server: `hold` before a run, `let_go` after."""

    def __init__(self, server: Server) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        batcher = server.app.state.pipeline._pose.batcher
        run = batcher._run

        def held(items: Any) -> Any:
            self.began.set()
            assert self.go.wait(30)
            return run(items)

        batcher._run = held


def in_background(server: Server, answers: list[Any]) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(server.client.post("/pose", content=PERSON)))
    thread.start()
    return thread


def test_a_full_queue_says_when_to_come_back(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_waiting=1, max_people=1, tiles=1, max_tiles=1)) as server:
        held, answers = Held(server), list[Any]()
        first = in_background(server, answers)
        assert held.began.wait(30)
        second = in_background(server, answers)
        while server.metric("pose_queue_depth", model="pose room") == 0:
            threading.Event().wait(0.001)
        with refused_while_busy(server, "overloaded"):
            full = server.client.post("/pose", content=PERSON)
            assert_problem(full, 503)
            assert full.headers["retry-after"] == "1"
        held.go.set()
        first.join()
        second.join()
        assert [answer.status_code for answer in answers] == [200, 200]


@contextmanager
def refused_while_busy(server: Server, reason: str) -> Iterator[None]:
    before = server.metric("pose_rejected_total", reason=reason)
    yield
    assert server.metric("pose_rejected_total", reason=reason) == before + 1


def test_no_answer_in_time_is_a_504_and_the_network_goes_on(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, request_deadline_ms=200)) as server:
        held = Held(server)
        with refused_while_busy(server, "deadline"):
            late = server.client.post("/pose", content=PERSON)
            assert_problem(late, 504)
            assert late.headers["retry-after"] == "1"
        held.go.set()
        assert server.client.post("/pose", content=PERSON).status_code == 200


def test_while_shutting_down_new_pictures_are_refused_and_readiness_fails(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models)) as server:
        server.app.state.pipeline.drain()
        with refused_while_busy(server, "draining"):
            answer = server.client.post("/pose", content=PERSON)
            assert_problem(answer, 503)
            assert "retry-after" in answer.headers
        ready = server.client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["draining"] is True
        assert server.client.get("/livez").status_code == 200


def test_bodies_of_all_requests_are_held_up_to_a_limit(tiny_models: dict[str, Path]) -> None:
    most = len(PERSON) + 100
    with running(settings(tiny_models, max_body_bytes=most, max_held_body_bytes=most)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PERSON)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head.encode() + PERSON[:200])
            refused = first_answer(server, unlike=200)  # until the slow one's bytes are there
            assert_problem(refused, 503)
            assert "retry-after" in refused.headers
            assert server.client.get("/livez").status_code == 200
        assert first_answer(server, unlike=503).status_code == 200  # until its bytes are no longer counted


def first_answer(server: Server, unlike: int) -> httpx.Response:
    """The first answer of another status, or after 20 seconds the last one."""
    answers = list[httpx.Response]()

    def another() -> bool:
        answers.append(server.client.post("/pose", content=PERSON))
        return answers[-1].status_code != unlike

    eventually(another)
    return answers[-1]
