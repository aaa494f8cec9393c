"""POST /pose, health and models, asked of a real server on a real port."""

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
from pydantic import TypeAdapter
from serving import Server, encoded, picture, running

from app.schemas import CocoPerson, OpenPoseAnswer, OpenPoseAnswers, PoseAnswer, PoseAnswers
from app.settings import Settings
from app.skeleton import KEYPOINT_NAMES

LEFT_PERSON, RIGHT_PERSON = (10, 20, 34, 70), (80, 12, 104, 60)
TWO_PEOPLE = picture(120, 90, boxes=(LEFT_PERSON, RIGHT_PERSON))
NOBODY = picture(120, 90)


def ask(server: Server, image: Any = TWO_PEOPLE, **options: Any) -> Any:
    answer = server.client.post("/pose", params=options, content=encoded(image), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def middle(box: tuple[int, int, int, int]) -> list[float]:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]


def nose(person: dict[str, Any]) -> list[float]:
    return [person["keypoints"][0]["x"], person["keypoints"][0]["y"]]


def test_the_answer_is_what_the_documentation_promises(server: Server) -> None:
    answer = ask(server)
    PoseAnswer.model_validate(answer, strict=False)
    assert list(answer) == ["image", "model", "people", "timing_ms"]
    assert answer["image"] == {"width": 120, "height": 90}
    assert answer["model"] == {
        "detector": {"name": "detector", "version": "unknown"},
        "pose": {"name": "pose", "version": "unknown"},
    }
    assert [person["id"] for person in answer["people"]] == [0, 1]
    assert list(answer["people"][0]) == ["id", "score", "box", "keypoints"]
    assert [point["name"] for point in answer["people"][0]["keypoints"]] == list(KEYPOINT_NAMES)
    assert set(answer["timing_ms"]) == {"decode", "queue", "detect", "pose", "total"}
    assert answer["people"][0]["score"] == pytest.approx(tiny.DETECTOR_SCORE * tiny.POSE_SCORE, abs=1e-4)


def test_people_are_where_they_are_in_the_picture(server: Server) -> None:
    for person, box in zip(ask(server)["people"], (LEFT_PERSON, RIGHT_PERSON), strict=True):
        assert person["box"] == pytest.approx(box, abs=6)  # halfway to the tiny pose network's, whose arms are long
        assert middle(person["box"]) == pytest.approx(middle(box), abs=1)
        assert nose(person) == pytest.approx(middle(box), abs=1)


def test_nobody_in_the_picture_is_an_empty_list(server: Server) -> None:
    assert ask(server, NOBODY)["people"] == []
    assert ask(server, NOBODY, format="coco") == []
    assert ask(server, NOBODY, format="openpose") == {"version": 1.3, "people": []}


def test_every_way_to_send_a_picture_gives_the_same_people(server: Server) -> None:
    data, text = encoded(TWO_PEOPLE), base64.b64encode(encoded(TWO_PEOPLE)).decode()
    answers = [
        server.client.post("/pose", content=data, headers={"content-type": "image/png"}),
        server.client.post("/pose", content=data),
        server.client.post(
            "/pose", content=(part for part in (data[:50], data[50:])), headers={"content-type": "image/png"}
        ),
        server.client.post("/pose", files={"image": ("picture.png", data, "image/png")}),
        server.client.post("/pose", json={"image": text}),
        server.client.post("/pose", json={"image": f"data:image/png;base64,{text}"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert all(answer.json()["people"] == answers[0].json()["people"] for answer in answers)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_each_format_is_accepted(server: Server, extension: str) -> None:
    answer = server.client.post("/pose", files={"image": encoded(TWO_PEOPLE, extension)})
    assert len(answer.json()["people"]) == 2


def test_several_pictures_are_answered_in_their_order(server: Server) -> None:
    files = [("image", ("a.png", encoded(image))) for image in (TWO_PEOPLE, NOBODY, TWO_PEOPLE[:, :72])]
    answer = server.client.post("/pose", files=files).json()
    PoseAnswers.model_validate(answer)
    assert [len(result["people"]) for result in answer["results"]] == [2, 0, 1]
    assert [result["image"]["width"] for result in answer["results"]] == [120, 120, 72]
    rows = server.client.post("/pose", files=files, params={"format": "coco"}).json()
    assert [row["image_id"] for row in rows] == [0, 0, 2]
    shaped = server.client.post("/pose", files=files, params={"format": "openpose"}).json()
    assert [len(result["people"]) for result in shaped["results"]] == [2, 0, 1]


def test_given_boxes_get_one_person_each_in_their_order_whatever_the_scores(server: Server) -> None:
    boxes = [(60, 5, 75, 40), RIGHT_PERSON, (-20, -10, 8, 30), RIGHT_PERSON, LEFT_PERSON]
    text = ";".join(",".join(str(side) for side in box) for box in boxes)
    people = ask(server, boxes=text, min_score=1, max_people=1)["people"]
    assert [person["box"] for person in people] == [list(box) for box in boxes]
    assert [person["id"] for person in people] == [0, 1, 2, 3, 4]
    assert nose(people[1]) == pytest.approx(middle(RIGHT_PERSON), abs=0.5)
    assert nose(people[4]) == pytest.approx(middle(LEFT_PERSON), abs=0.5)
    assert people[0]["score"] == pytest.approx(tiny.POSE_SCORE, abs=1e-4)


def test_max_people_and_min_score_hold(server: Server) -> None:
    assert len(ask(server, max_people=1)["people"]) == 1
    combined = tiny.DETECTOR_SCORE * tiny.POSE_SCORE
    assert len(ask(server, min_score=combined - 0.01)["people"]) == 2
    assert ask(server, min_score=combined + 0.01)["people"] == []


def test_coco_results_are_what_coco_tools_read(server: Server) -> None:
    native, rows = ask(server)["people"], ask(server, format="coco")
    assert [set(row) for row in rows] == [{"image_id", "category_id", "bbox", "keypoints", "score"}] * 2
    for person, row in zip(native, rows, strict=True):
        x1, y1, x2, y2 = person["box"]
        assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.011)
        flat = [value for point in person["keypoints"] for value in (point["x"], point["y"], point["score"])]
        assert row["keypoints"] == flat and len(flat) == 51
        assert row["category_id"] == 1 and row["score"] == person["score"]


@pytest.mark.parametrize(
    ("format", "one", "several"),
    [
        ("native", PoseAnswer, PoseAnswers),
        ("coco", list[CocoPerson], list[CocoPerson]),
        ("openpose", OpenPoseAnswer, OpenPoseAnswers),
    ],
)
def test_every_format_is_as_the_openapi_document_has_it(server: Server, format: str, one: Any, several: Any) -> None:
    document = server.client.get("/openapi.json").json()
    declared = document["paths"]["/pose"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    files = [("image", ("a.png", encoded(TWO_PEOPLE), "image/png"))] * 2
    answers = ask(server, format=format), server.client.post("/pose", files=files, params={"format": format}).json()
    for answer, kind in zip(answers, (one, several), strict=True):
        TypeAdapter(kind).validate_python(answer, extra="forbid")
        schema = {"$ref": f"#/components/schemas/{getattr(kind, '__args__', (kind,))[0].__name__}"}
        assert any(schema in (entry, entry.get("items")) for entry in declared)


def test_openpose_has_eighteen_points_with_the_neck_between_the_shoulders(server: Server) -> None:
    native, shaped = ask(server)["people"], ask(server, format="openpose")
    assert shaped["version"] == 1.3
    order = (
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
        "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear"
    ).split()
    for person, found in zip(native, shaped["people"], strict=True):
        points = {point["name"]: [point["x"], point["y"], point["score"]] for point in person["keypoints"]}
        pairs = zip(points["left_shoulder"], points["right_shoulder"], strict=True)
        points["neck"] = [(left + right) / 2 for left, right in pairs]
        assert len(found["pose_keypoints_2d"]) == 54
        expected = [value for name in order for value in points[name]]
        assert found["pose_keypoints_2d"] == pytest.approx(expected, abs=0.011)
        assert found["face_keypoints_2d"] == [] and found["person_id"] == [-1]


def test_a_picture_wider_than_a_jpeg_can_be_is_not_drawn_but_answered(server: Server) -> None:
    wide = encoded(picture(65_501, 10))
    refused = server.client.post("/pose", params={"render": "jpeg"}, content=wide)
    assert refused.status_code == 422
    assert "65500 pixels a side, got 65501 x 10" in refused.json()["detail"]
    assert server.client.post("/pose", content=wide).json()["people"] == []


def test_render_gives_the_picture_with_the_people_drawn_into_it(server: Server) -> None:
    answer = server.client.post("/pose", params={"render": "jpeg"}, content=encoded(TWO_PEOPLE))
    assert answer.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert drawn.shape == TWO_PEOPLE.shape
    assert (abs(drawn.astype(int) - TWO_PEOPLE).max(-1) > 80).any()


def test_fifty_people_in_one_picture_are_all_answered(server: Server) -> None:
    boxes = ";".join(f"{x},{y},{x + 10},{y + 15}" for x in range(0, 100, 10) for y in range(0, 75, 15))
    assert len(ask(server, boxes=boxes)["people"]) == 50


def test_health_tells_the_provider_that_really_runs(server: Server) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"):
        assert server.client.get(path).status_code == 200, path
    assert server.client.get("/readyz").json() == {
        "ready": True,
        "draining": False,
        "provider_asked_for": "cpu",
        "models": {"detector": {"provider": "cpu"}, "pose": {"provider": "cpu"}},
    }
    assert server.metric("pose_execution_provider_info", model="pose", provider="cpu") == 1


def test_models_are_described(server: Server) -> None:
    cards = server.client.get("/models").json()["models"]
    assert [(card["task"], card["provider"], card["input"]) for card in cards] == [
        ("detector", "cpu", {"height": 64, "width": 64}),
        ("pose", "cpu", {"height": 64, "width": 48}),
    ]
    assert server.client.get("/v2/models/pose").json() == {
        "name": "pose",
        "versions": ["unknown"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "crops", "datatype": "UINT8", "shape": [-1, 64, 48, 3]}],
        "outputs": [
            {"name": "keypoints", "datatype": "FP32", "shape": [-1, 17, 2]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, 17]},
        ],
    }
    assert server.client.get("/v2/models/pose/ready").json() == {"name": "pose", "ready": True}
    assert server.client.get("/v2/models/nobody").status_code == 404


def test_a_model_that_does_not_exist_is_told_as_documented(server: Server) -> None:
    responses = server.client.get("/openapi.json").json()["paths"]["/v2/models/{name}"]["get"]["responses"]
    answer = server.client.get("/v2/models/hands")
    assert answer.status_code == 404 and answer.headers["content-type"] in responses["404"]["content"]
    assert server.client.get("/v2/models/hands/ready").status_code == 404


@pytest.mark.parametrize("path", ["/", "/main.js"])
def test_a_browser_asks_anew_for_the_page_and_is_told_when_it_has_not_changed(server: Server, path: str) -> None:
    first = server.client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = server.client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


def test_a_large_picture_is_looked_at_in_as_many_tiles_as_asked_for(serve: Callable[..., Server]) -> None:
    server = serve(max_tiles=3)
    corners = ((100, 80, 300, 350), (1300, 60, 1500, 340), (120, 1250, 320, 1500), (1350, 1200, 1550, 1500))
    body = encoded(picture(1600, 1600, boxes=corners))

    def looks(query: str) -> float:
        before = server.metric("pose_batch_size_sum", model="detector")
        assert (
            server.client.post(f"/pose{query}", content=body, headers={"content-type": "image/png"}).status_code == 200
        )
        return server.metric("pose_batch_size_sum", model="detector") - before

    assert [looks(query) for query in ("?tiles=1", "", "?tiles=2", "?tiles=3")] == [1, 5, 5, 14]
    refused = server.client.post("/pose?tiles=4", content=body, headers={"content-type": "image/png"})
    assert refused.status_code == 422 and refused.json()["detail"] == "tiles: at most 3 here"


def test_the_openapi_document_declares_inputs_answers_and_errors(server: Server) -> None:
    operation = server.client.get("/openapi.json").json()["paths"]["/pose"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data", "application/json", "image/jpeg", "image/png", "image/webp",
    }  # fmt: skip
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "max_people", "min_score", "boxes", "tiles", "format", "render",
    }  # fmt: skip
    for status in ("400", "401", "408", "413", "415", "422", "429", "500", "503", "504"):
        assert list(operation["responses"][status]["content"]) == ["application/problem+json"], status
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "image/jpeg"}


def test_a_request_keeps_its_id_unless_it_is_unsafe(server: Server) -> None:
    given = server.client.get("/livez", headers={"x-request-id": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    unsafe = server.client.get("/livez", headers={"x-request-id": "a b\tc"})
    assert len(unsafe.headers["x-request-id"]) == 32


def test_work_is_counted(server: Server) -> None:
    before = {
        name: server.metric(name, **labels)
        for name, labels in (
            ("pose_people_per_image_count", {}),
            ("pose_people_per_image_sum", {}),
            ("pose_decode_duration_seconds_count", {}),
        )
    }
    ok_before = server.metric("pose_requests_total", endpoint="/pose", code="200")
    crops_before = server.metric("pose_batch_size_sum", model="pose")
    ask(server)
    assert {name: server.metric(name) - value for name, value in before.items()} == {
        "pose_people_per_image_count": 1,
        "pose_people_per_image_sum": 2,
        "pose_decode_duration_seconds_count": 1,
    }
    assert server.metric("pose_requests_total", endpoint="/pose", code="200") == ok_before + 1
    assert server.metric("pose_batch_size_sum", model="pose") == crops_before + 2
    assert server.metric("pose_queue_depth", model="pose") == 0


def test_crops_of_all_clients_share_batches(tiny_models: dict[str, Path]) -> None:
    """Eight pictures of one request stand for eight clients: their crops meet in the same queue."""
    with running(Settings(provider="cpu", max_delay_ms=50, **tiny_models)) as server:  # type: ignore[arg-type]
        runs = server.metric("pose_batch_size_count", model="pose")
        crops = server.metric("pose_batch_size_sum", model="pose")
        server.client.post("/pose", files=[("image", ("a.png", encoded(TWO_PEOPLE)))] * 8)
        assert server.metric("pose_batch_size_sum", model="pose") - crops == 16
        assert server.metric("pose_batch_size_count", model="pose") - runs <= 8


def test_serving_never_loads_pytorch() -> None:
    code = "import sys, app.main, app.cli; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    root = Path(__file__).parent.parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
