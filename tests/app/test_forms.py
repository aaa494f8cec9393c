"""Pictures as multipart/form-data: whole or not at all."""

from collections.abc import Iterator

import httpx
import pytest
from serving import Server, encoded, picture

PERSON = encoded(picture(boxes=((20, 20, 44, 70),)))


def form(server: Server, pictures: int = 2) -> httpx.Request:
    request = server.client.build_request("POST", "/pose", files=[("image", ("a.png", PERSON))] * pictures)
    request.read()
    return request


def post(server: Server, content: bytes | Iterator[bytes], content_type: str) -> httpx.Response:
    return server.client.post("/pose", content=content, headers={"content-type": content_type})


@pytest.mark.parametrize("missing", [1, 20, 500, len(PERSON) + 100])
def test_a_form_that_was_cut_short_is_refused_and_no_picture_of_it_lost_in_silence(
    server: Server, missing: int
) -> None:
    whole = form(server)
    answer = post(server, whole.content.rstrip(b"\r\n")[:-missing], whole.headers["content-type"])
    assert answer.status_code == 400
    assert answer.json()["detail"] == "The form is cut short: the boundary at its end is missing."


def test_a_form_is_whole_in_whatever_pieces_it_comes_and_whatever_follows_it(server: Server) -> None:
    whole = form(server)
    crumbs = (whole.content[at : at + 7] for at in range(0, len(whole.content), 7))
    assert len(post(server, crumbs, whole.headers["content-type"]).json()["results"]) == 2
    epilogue = whole.content + b"\r\nto be ignored (RFC 2046, 5.1.1)"
    assert len(post(server, epilogue, whole.headers["content-type"]).json()["results"]) == 2


def test_a_boundary_in_quotes_is_understood(server: Server) -> None:
    whole = form(server, pictures=1)
    kind, _, boundary = whole.headers["content-type"].partition("boundary=")
    quoted = post(server, whole.content.replace(boundary.encode(), b"a b?c"), f'{kind}boundary="a b?c"')
    assert len(quoted.json()["people"]) == 1
