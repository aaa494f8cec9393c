"""The ways to send a picture: multipart, raw bytes, JSON with base64."""

import binascii

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.types import Message, Scope

from app.errors import BadImage, BadParameter, TooLarge, UnsupportedFormat
from app.schemas import ImageBody

WHITE = b" \t\r\n"
MOST_COMMAS = 100  # in JSON; base64 has none. To read a million keys holds all clients up for seconds


async def read_pictures(request: Request, max_images: int) -> list[bytes]:
    """The encoded pictures of a request, at least one. Raises the ClientError that fits."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _from_form(request, max_images)
    if content_type == "application/json":
        return [_from_json(await request.body())]
    if content_type.startswith("image/") or content_type in ("", "application/octet-stream"):
        return [await request.body()]
    raise UnsupportedFormat(
        f"send the picture as multipart/form-data, image/jpeg, image/png, image/webp or application/json, "
        f"not {content_type[:100]}"
    )


class Whole:
    """A form's way to its parser: the last boundary, which ends in two dashes (RFC 2046), must have come by.

    The parser does not miss it: a form that was cut short would only have fewer pictures.
    """

    def __init__(self, request: Request, boundary: bytes) -> None:
        self._mark = b"--" + boundary + b"--"
        self._tail = b""
        self._ended = False
        self._receive = request.receive

    async def receive(self) -> Message:
        """Raises MultiPartException, at which the parser closes its files, and the client gets a 400."""
        message = await self._receive()
        seen = self._tail + message.get("body", b"")
        self._ended = self._ended or self._mark in seen
        self._tail = seen[-len(self._mark) :]
        if message["type"] == "http.request" and not message.get("more_body") and not self._ended:
            raise MultiPartException("The form is cut short: the boundary at its end is missing.")
        return message


def _plain(scope: Scope, boundary: bytes) -> Scope:
    """The request without its form's charset, which the parser would obey: Punycode takes half a minute a megabyte."""
    quoted = boundary.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    named = b'; boundary="%s"' % quoted if boundary else b""
    return {**scope, "headers": [(b"content-type", b"multipart/form-data" + named)]}


async def _from_form(request: Request, max_images: int) -> list[bytes]:
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    async with Request(_plain(request.scope, boundary), Whole(request, boundary).receive).form() as form:
        for name, value in form.multi_items():
            if name != "image":
                raise BadParameter(f"the form's fields are files named image, {name[:100]!r} is not")
            if not isinstance(value, UploadFile):
                raise BadParameter("the form's image is text, not a file (with curl: -F image=@picture.jpg)")
        uploads = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
        if not uploads:
            raise BadParameter("the form has no file named image")
        if len(uploads) > max_images:
            raise TooLarge(f"{len(uploads)} pictures in one request, at most {max_images} allowed")
        return [await upload.read() for upload in uploads]


def _from_json(body: bytes) -> bytes:
    try:
        if body.count(b",") > MOST_COMMAS:
            raise ValueError("more members than any picture has")
        text = ImageBody.model_validate_json(body).image
    except ValueError as error:  # pydantic's are
        raise BadParameter('the body must be JSON like {"image": "<base64>"}') from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return binascii.a2b_base64(text.encode("ascii").translate(None, WHITE), strict_mode=True)
    except ValueError as error:  # also for letters beyond ASCII
        raise BadImage("the picture's base64 is not valid") from error
