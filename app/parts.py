"""The parts that a picture's file is made of: how many there may be, and which of them a decoder gets to see.

A file within the limits on bytes and pixels may still hold a decoder up for minutes: by millions of empty parts in its
header, by scans of a few bytes that each go over the whole picture again (LJT-01-004 in libjpeg-turbo's list), or by
texts that are unpacked and thrown away. And a length alone may fill the memory.
"""

import io
import re
from collections.abc import Iterator

from app.errors import BadImage

MOST_READS = 2000  # of a header, some four for each of its parts; metadata of 20 MB are 320 of a JPEG's
MOST_SCANS = 50  # of a JPEG; ordinary progressive ones have ten
MOST_PARTS = 50_000  # of a file: a PNG of the largest size allowed has a tenth of them
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # of a JPEG: all that begin a part, but for those without a length
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what of a PNG is drawn
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Pieces(io.BytesIO):
    """A file of which a header is read in few pieces. `read` raises BadImage after MOST_READS."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MOST_READS:
            raise BadImage("the picture's header has too many parts")
        return super().read(size)


def check_scans(jpeg: bytes) -> None:
    """Raises BadImage for a JPEG of more than MOST_SCANS scans; parts are told apart as libjpeg does."""
    start, scans = 2, 0
    for _ in range(MOST_PARTS):
        marker = MARKER.search(jpeg, start)
        if marker is None or (kind := jpeg[marker.end() - 1]) == END_OF_IMAGE:
            return
        scans += kind == START_OF_SCAN
        if scans > MOST_SCANS:
            raise BadImage(f"the picture has more than {MOST_SCANS} scans")
        start = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    raise BadImage("the picture has too many parts")


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's kind and its bytes, length and checksum included, to the end. Raises BadImage after MOST_PARTS."""
    start = len(PNG_SIGNATURE)
    for _ in range(MOST_PARTS):
        length, kind = int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
        if len(kind) < 4:
            return
        yield kind, png[start : start + 12 + length]
        if kind == b"IEND":
            return
        start += 12 + length
    raise BadImage("the picture has too many parts")


def only_pixels(png: bytes) -> bytes:
    """The PNG without what is not drawn: profiles and texts, which OpenCV unpacks and does not use, and animation.

    For an animation it holds all of several canvases, up to 19 bytes a pixel; a first frame is an ordinary picture.
    Raises BadImage where a part says that it is longer than the file: OpenCV takes memory for all that it says, 4 GB at
    most, before it finds that the bytes are missing.
    """
    pixels = [chunk for kind, chunk in chunks(png) if kind in PIXELS]
    if any(len(chunk) < 8 + int.from_bytes(chunk[:4]) for chunk in pixels):  # length and kind stand before it
        raise BadImage("the picture is truncated or damaged")
    return PNG_SIGNATURE + b"".join(pixels)
