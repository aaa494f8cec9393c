"""The ways to send a picture: multipart, raw bytes, JSON with base64."""

import binascii

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from app.errors import BadImage, BadParameter, TooLarge, UnsupportedFormat
from app.schemas import ImageBody

WHITE = b" \t\r\n"


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


async def _from_form(request: Request, max_images: int) -> list[bytes]:
    async with request.form() as form:
        for name, value in form.multi_items():
            if name != "image":
                raise BadParameter(f"the form's fields are files named image, {name[:100]!r} is not")
            if not isinstance(value, UploadFile):
                raise BadParameter("the form's image is text, not a file (with curl: -F image=@picture.jpg)")
        uploads = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
        if not uploads:
            raise BadParameter("the form has no file named image, or it is cut short")
        if len(uploads) > max_images:
            raise TooLarge(f"{len(uploads)} pictures in one request, at most {max_images} allowed")
        return [await upload.read() for upload in uploads]


def _from_json(body: bytes) -> bytes:
    try:
        text = ImageBody.model_validate_json(body).image
    except ValidationError as error:
        raise BadParameter('the body must be JSON like {"image": "<base64>"}') from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return binascii.a2b_base64(text.encode("ascii").translate(None, WHITE), strict_mode=True)
    except ValueError as error:  # also for letters beyond ASCII
        raise BadImage("the picture's base64 is not valid") from error
