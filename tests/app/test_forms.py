"""Pictures as multipart/form-data: whole or not at all."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from serving import Server, encoded, picture
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.bodies import read_pictures

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


def received(*messages: Message) -> list[bytes]:
    """The pictures of a form that comes in these messages."""
    coming = iter(messages)

    async def receive() -> Message:
        return next(coming)

    headers = [(b"content-type", b"multipart/form-data; boundary=here")]
    return asyncio.run(read_pictures(Request({"type": "http", "headers": headers}, receive), max_images=8))


def body(part: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": part, "more_body": more}


FORM = b'--here\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nbytes\r\n--here--\r\n'


@pytest.mark.parametrize("epilogue", [b"", b"to be ignored"])
def test_a_form_is_whole_wherever_it_was_parted(epilogue: bytes) -> None:
    whole = FORM + epilogue
    for cut in range(len(whole) + 1):
        assert received(body(whole[:cut], more=True), body(whole[cut:])) == [b"bytes"], cut
    assert received(*(body(whole[at : at + 1], more=True) for at in range(len(whole))), body(b"")) == [b"bytes"]


def test_a_client_that_leaves_within_a_form_has_left_and_sent_no_bad_one() -> None:
    with pytest.raises(ClientDisconnect):
        received(body(FORM[:60], more=True), {"type": "http.disconnect"})


def test_a_form_of_nothing_has_no_picture(server: Server) -> None:
    answer = post(server, b"--here--\r\n", "multipart/form-data; boundary=here")
    assert (answer.status_code, answer.json()["detail"]) == (422, "the form has no file named image")


def test_a_boundary_in_quotes_is_understood(server: Server) -> None:
    whole = form(server, pictures=1)
    kind, _, boundary = whole.headers["content-type"].partition("boundary=")
    quoted = post(server, whole.content.replace(boundary.encode(), b"a b?c"), f'{kind}boundary="a b?c"')
    assert len(quoted.json()["people"]) == 1


@pytest.mark.parametrize("charset", ["undefined", "punycode", "utf-8"])
def test_a_form_s_charset_is_not_obeyed(server: Server, charset: str) -> None:
    """Python has some that fail, and one that takes half a minute for a megabyte."""
    whole = form(server)
    answer = post(server, whole.content, f"{whole.headers['content-type']}; charset={charset}")
    assert len(answer.json()["results"]) == 2
