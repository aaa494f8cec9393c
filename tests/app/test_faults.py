"""What goes wrong on our side, or in the middle of a request: answered, logged once, and nothing left behind."""

import gc
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from serving import Server, encoded, picture, running
from streams import held_poses
from test_bad_input import PERSON, Held, assert_problem, in_background, refused, refused_while_busy, settings

import app.stage
from app.stage import FAILURES_UNTIL_UNREADY


def test_a_bug_of_ours_is_a_500_with_an_id_counted_and_logged(
    tiny_models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(data: bytes, deadline: float) -> None:
        raise RuntimeError("secret path /root")

    caplog.set_level("INFO", "app.access")
    with running(settings(tiny_models)) as server:
        server.app.state.pipeline.opened = broken
        before = [server.metric("pose_requests_total", endpoint="/pose", code=code) for code in ("500", "499")]
        with refused_while_busy(server, "internal"):
            answer = server.client.post("/pose", content=PERSON, headers={"x-request-id": "bug-1"})
        assert_problem(answer, 500)
        assert "secret" not in answer.text and answer.headers["x-request-id"] == "bug-1"
        after = [server.metric("pose_requests_total", endpoint="/pose", code=code) for code in ("500", "499")]
        assert after == [before[0] + 1, before[1]]
    traceback, line = (record for record in caplog.records if getattr(record, "id", "") == "bug-1")
    assert traceback.exc_info and "secret" in str(traceback.exc_info[1])
    assert line.message == "request" and line.__dict__["status"] == 500
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_a_connection_outlives_a_bug_of_ours(tiny_models: dict[str, Path]) -> None:
    def broken(data: bytes, deadline: float) -> None:
        raise RuntimeError

    with running(settings(tiny_models)) as server:
        server.app.state.pipeline.opened = broken
        with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=30)) as connection:
            for path, status in (("/pose", 500), ("/livez", 405), ("/pose", 500)):
                connection.request("POST", path, PERSON)
                answer = connection.getresponse()
                assert answer.read() and answer.status == status


def test_a_deadline_leaves_no_complaint_of_the_event_loop(
    tiny_models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with running(settings(tiny_models, request_deadline_ms=200)) as server:
        held = Held(server)
        assert server.client.post("/pose", content=PERSON).status_code == 504
        held.go.set()
    gc.collect()
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


def test_as_many_pictures_as_allowed_are_answered_by_an_idle_service_with_a_short_queue(
    tiny_models: dict[str, Path],
) -> None:
    two_people = encoded(picture(boxes=((10, 20, 34, 70), (80, 12, 104, 60))))
    with running(settings(tiny_models, max_images=8, max_people=2, tiles=1, max_tiles=1, max_waiting=4)) as server:
        answer = server.client.post("/pose", files=[("image", ("a.png", two_people))] * 8)
        assert answer.status_code == 200, answer.text
        assert [len(result["people"]) for result in answer.json()["results"]] == [2] * 8


def test_large_pictures_of_one_request_do_not_fill_the_detectors_queue(tiny_models: dict[str, Path]) -> None:
    large = encoded(picture(1600, 1600, boxes=((100, 80, 300, 350),)))
    with running(settings(tiny_models, max_images=8, max_people=1, max_waiting=21)) as server:
        batcher = server.app.state.pipeline._detect.batcher
        run = batcher._run

        def slow(looks: Any) -> Any:
            threading.Event().wait(0.05)  # time for the request's other pictures to come, were they let in
            return run(looks)

        batcher._run = slow
        answer = server.client.post("/pose?tiles=4", files=[("image", ("a.png", large))] * 8)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "query", ["boxes=0,0,9,9&boxes=1,1,9,9", "max_people=1&max_people=2", "render=json&render=json"]
)
def test_an_option_given_twice_is_refused_by_its_name(server: Server, query: str) -> None:
    assert_problem(server.client.post(f"/pose?{query}", content=PERSON), 422, query.partition("=")[0])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "GET", "HEAD"])
def test_an_unknown_path_is_unknown_to_every_method(server: Server, method: str) -> None:
    answer = server.client.request(method, "/no/such/path")
    assert answer.status_code == 404
    if method != "HEAD":
        assert_problem(answer, 404)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"])
def test_a_probe_may_ask_for_the_head_alone(server: Server, path: str) -> None:
    answer = server.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    wrong = server.client.post(path)
    assert_problem(wrong, 405)
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert list(server.client.get("/openapi.json").json()["paths"][path]) == ["get"]


def test_of_a_rush_only_a_few_pictures_are_decoded_at_a_time_and_all_are_answered(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_batch=1)) as server:
        pipeline = server.app.state.pipeline
        places, decoded = pipeline._places._small.free, server.metric("pose_decode_duration_seconds_count")
        held, answers = Held(server), list[Any]()
        clients = [in_background(server, answers) for _ in range(places + 4)]
        while server.metric("pose_queue_depth", model="place") < 4:
            threading.Event().wait(0.001)
        assert server.metric("pose_decode_duration_seconds_count") <= decoded + places
        held.go.set()
        for client in clients:
            client.join()
        assert [answer.status_code for answer in answers] == [200] * (places + 4)
        assert server.metric("pose_decode_duration_seconds_count") == decoded + places + 4
        assert pipeline._places._small.free == places


@pytest.mark.parametrize("failing, other, asked", [
    ("pose", "detector", "/readyz"), ("detector", "pose", "/v2/models/detector/ready"),
])  # fmt: skip
def test_a_failing_network_is_a_500_without_internals_and_later_unready(
    tiny_models: dict[str, Path], caplog: pytest.LogCaptureFixture, failing: str, other: str, asked: str
) -> None:
    def failures() -> list[dict[str, Any]]:
        return [vars(record) for record in caplog.records if record.message == "a network failed"]

    with running(settings(tiny_models)) as server:
        pipeline = server.app.state.pipeline
        batcher = {"pose": pipeline._pose, "detector": pipeline._detect}[failing].batcher
        run = batcher._run

        def fail(items: Any) -> Any:
            raise RuntimeError("secret path /root")

        batcher._run = fail
        for _ in range(3):
            assert server.metric("pose_ready", model=failing) == 1, "one or two failures may be chance"
            with refused_while_busy(server, "model_error"):
                answer = server.client.post("/pose", content=PERSON)
                assert_problem(answer, 500)
                assert "secret" not in answer.text
        assert [(line["model"], line["in_a_row"]) for line in failures()] == [(failing, number) for number in (1, 2, 3)]
        assert "secret path /root" in failures()[0]["why"] and all(line["exc_info"] for line in failures())
        assert (server.metric("pose_ready", model=failing), server.metric("pose_ready", model=other)) == (0, 1)
        assert server.client.get("/readyz").status_code == 503
        assert failures()[3:] and not failures()[-1]["exc_info"], "what is known is not logged at length for ever"
        assert server.client.get(f"/v2/models/{failing}/ready").status_code == 503
        assert server.client.get(f"/v2/models/{other}/ready").status_code == 200
        batcher._run = run  # an unready service is sent no pictures: asking whether it is ready must do
        assert server.client.get(asked).status_code == 200
        assert server.metric("pose_ready", model=failing) == 1
        assert server.client.post("/pose", content=PERSON).status_code == 200


def test_a_failing_network_that_then_hangs_is_unready_and_whoever_asks_is_told_so(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.stage, "PROBE_DEADLINE_S", 0.1)
    with running(settings(tiny_models)) as server:
        stage = server.app.state.pipeline._pose
        stage._failures = FAILURES_UNTIL_UNREADY
        with held_poses(server) as held:
            assert server.client.get("/readyz").status_code == 503
            assert held.entered.is_set()


def test_asking_whether_it_is_ready_costs_a_working_network_no_run(server: Server) -> None:
    def runs() -> list[float]:
        return [server.metric("pose_batch_size_count", model=model) for model in ("pose", "detector")]

    before = runs()
    assert server.client.get("/readyz").status_code == 200
    assert runs() == before


def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PERSON)}\r\n\r\n".encode()
    )
    for share in (0, len(PERSON) // 2, len(PERSON)):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + PERSON[:share])
    works = server.client.post("/pose", content=PERSON)
    assert works.status_code == 200


def test_the_picture_of_a_client_that_left_is_not_worked_on(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_batch=1)) as server:
        held, answers = Held(server), list[Any]()
        stays = in_background(server, answers)
        assert held.began.wait(30)
        crops = server.metric("pose_batch_size_sum", model="pose")
        left = server.metric("pose_rejected_total", reason="disconnected")
        requests = server.metric("pose_requests_total", endpoint="/pose", code="499")
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PERSON)}\r\n\r\n"
            connection.sendall(head.encode() + PERSON)
            while server.app.state.pipeline._pose.batcher.waiting == 0:
                threading.Event().wait(0.001)
        while server.metric("pose_rejected_total", reason="disconnected") == left:
            threading.Event().wait(0.001)
        held.go.set()
        stays.join()
        assert answers[0].status_code == 200
        assert server.client.post("/pose", content=PERSON).status_code == 200
        assert server.metric("pose_batch_size_sum", model="pose") - crops == 2
        assert server.metric("pose_requests_total", endpoint="/pose", code="499") == requests + 1


def test_a_body_that_never_ends_is_given_up(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, body_timeout_s=0.2)) as server, refused(server, "slow_body"):
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(
                b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc"
            )
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
