"""Bytes to an upright RGB picture, guarded.

The order is the point: magic bytes, then the header, then the pixel cap, and only then decoding. A 1 MB PNG may claim
20000 x 20000 pixels, and would otherwise cost gigabytes before anybody could say no; what else a file may do to a
decoder is app.parts' matter.

Pillow reads the header and OpenCV decodes: on the same JPEG OpenCV gives the same pixels in half the time, without
holding the interpreter's lock. Orientation is applied here and nowhere else.
"""

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as PillowImage

from app.errors import BadImage, TooLarge, UnsupportedFormat
from app.geometry import Image
from app.parts import PNG_SIGNATURE, Pieces, check_scans, chunks, only_pixels

ORIENTATION_TAG = 0x0112
PillowImage.MAX_IMAGE_PIXELS = None  # our own cap below is the one that counts; Pillow's would only warn
warnings.filterwarnings(
    "ignore", category=UserWarning, module="PIL"
)  # a client's damaged EXIF is no operator's business


@dataclass(frozen=True)
class Header:
    """What a file says before a pixel is decoded: the size in pixels as stored, and EXIF's orientation 1..8."""

    width: int
    height: int
    orientation: int

    @property
    def pixels(self) -> int:
        """How many pixels decoding gives."""
        return self.width * self.height


def read_header(data: bytes, *, max_pixels: int) -> Header:
    """The header of the picture in `data`.

    Raises UnsupportedFormat (not JPEG, PNG or WebP by its first bytes), TooLarge (more than `max_pixels`) or BadImage.
    """
    format = _format(data)
    with _opened(data, format) as opened:
        width, height = opened.size
        if width * height > max_pixels:
            raise TooLarge(f"the picture has {width} x {height} pixels, more than the {max_pixels} allowed")
        if format == "JPEG":
            check_scans(data)
        return Header(width, height, _orientation(opened, data))


def decode(data: bytes, *, max_pixels: int) -> Image:
    """The picture in `data` as upright RGB (H, W, 3) uint8; of an animation the first frame; transparency is dropped.

    Raises as `read_header`.
    """
    return decode_as(data, read_header(data, max_pixels=max_pixels))


def decode_as(data: bytes, header: Header) -> Image:
    """The same, of a picture whose `header` was read. Raises BadImage."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if _format(data) == "PNG":
        data = only_pixels(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage("the picture cannot be decoded") from error
    if image is None:
        raise BadImage("the picture is truncated or damaged")
    if image.shape[:2] != (header.height, header.width):
        raise BadImage("the picture's header and content disagree")
    return upright(np.asarray(image, np.uint8), header.orientation)


def upright(image: Image, orientation: int) -> Image:
    """Undo one of EXIF's eight orientations (1: as it is), so that the top of the scene is row 0."""
    if orientation >= 5:  # 5, 6, 7, 8 are 1, 2, 3, 4 after exchanging rows and columns
        image = image.transpose(1, 0, 2)
        orientation -= 4
    if orientation in (2, 3):
        image = image[:, ::-1]
    if orientation in (3, 4):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _format(data: bytes) -> str:
    if not data:
        raise BadImage("the picture is empty")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise UnsupportedFormat("the picture is not a JPEG, PNG or WebP file")


def _opened(data: bytes, format: str) -> PillowImage.Image:
    """What Pillow knows before decoding a pixel: the size as stored, and the metadata before the pixels."""
    try:
        return PillowImage.open(Pieces(data), formats=(format,))
    except BadImage:
        raise
    except Exception as error:  # Pillow's readers raise anything from OSError to struct.error on damaged headers
        raise BadImage("the picture's header cannot be read") from error


def _orientation(opened: PillowImage.Image, data: bytes) -> int:
    """EXIF orientation 1..8, without decoding a pixel."""
    if opened.format == "PNG" and "exif" not in opened.info and b"eXIf" in data:  # after the pixels it may stand, too
        opened.info["exif"] = next((chunk[8:-4] for kind, chunk in chunks(data) if kind == b"eXIf"), None)
    return exif_orientation(opened)


def exif_orientation(opened: PillowImage.Image) -> int:
    """EXIF's orientation 1..8 of an opened picture: by which browsers turn it, and OpenCV.

    By nothing else: Pillow's getexif() believes XMP, too, and what ImageMagick writes into a PNG's text. Damaged EXIF
    says nothing about the pixels: 1.
    """
    exif = PillowImage.Exif()
    try:
        exif.load(opened.info.get("exif") or b"")
        orientation = exif.get(ORIENTATION_TAG, 1)
    except Exception:  # whatever Pillow makes of damaged bytes
        return 1
    return orientation if orientation in range(1, 9) else 1
