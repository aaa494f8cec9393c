"""What a client may say of the picture that it sends, and how its base64 may look."""

import base64

import pytest
from serving import Server, encoded, picture

PERSON = encoded(picture(boxes=((20, 20, 44, 70),)))


@pytest.mark.parametrize(
    "content_type",
    ["image/webp", "image/x-unheard-of", "application/octet-stream", "IMAGE/PNG", "image/png; charset=binary"],
)
def test_a_picture_is_what_its_bytes_say(server: Server, content_type: str) -> None:
    answer = server.client.post("/pose", content=PERSON, headers={"content-type": content_type})
    assert answer.status_code == 200 and len(answer.json()["people"]) == 1


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=UTF-8", "application/json ;charset=UTF-8"])
def test_json_is_known_with_a_charset_and_in_capital_letters(server: Server, content_type: str) -> None:
    body = b'{"image": "' + base64.b64encode(PERSON) + b'"}'
    answer = server.client.post("/pose", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200 and len(answer.json()["people"]) == 1


@pytest.mark.parametrize("between", ["\n", "\r\n", "\t ", " "])
def test_base64_may_be_broken_into_lines(server: Server, between: str) -> None:
    text = base64.b64encode(PERSON).decode()
    lines = between.join(text[start : start + 76] for start in range(0, len(text), 76))
    assert len(server.client.post("/pose", json={"image": lines + between}).json()["people"]) == 1


@pytest.mark.parametrize("between", ["*", "=", "-_", "é"])
def test_a_letter_that_base64_has_not_is_not_passed_over(server: Server, between: str) -> None:
    text = base64.b64encode(PERSON).decode()
    answer = server.client.post("/pose", json={"image": text[:40] + between + text[40:]})
    assert (answer.status_code, answer.json()["detail"]) == (400, "the picture's base64 is not valid")


def test_of_what_a_client_made_up_an_answer_repeats_little(server: Server) -> None:
    long = "x" * 1000
    for answer in (
        server.client.post("/pose", content=PERSON, headers={"content-type": f"text/{long}"}),
        server.client.post("/pose", files={long: PERSON}),
        server.client.post(f"/pose?{long}=1&{long}y=1", content=PERSON),
    ):
        assert answer.status_code in (415, 422) and 90 < len(answer.json()["detail"]) <= 1000
