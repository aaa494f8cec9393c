"""A file within the limits on bytes and pixels holds no decoder up, whatever it is made of."""

import io
import struct
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image as PillowImage
from test_images import chunk

from app.errors import BadImage
from app.images import decode
from app.parts import only_pixels

LIMIT = 10**6
AFTER_START = {"JPEG": 2, "PNG": 33}  # where a header's further parts may begin


def saved(format: str, **options: object) -> bytes:
    colours = np.random.default_rng(0).integers(0, 255, (28, 40, 3), np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(colours).save(buffer, format, **options)
    return buffer.getvalue()


def with_parts(data: bytes, parts: bytes) -> bytes:
    """The same picture with `parts` in its header."""
    after = AFTER_START["PNG" if data.startswith(b"\x89") else "JPEG"]
    return data[:after] + parts + data[after:]


def segment(kind: int, data: bytes) -> bytes:
    """One of a JPEG's."""
    return struct.pack(">BBH", 0xFF, kind, 2 + len(data)) + data


def with_scans(count: int) -> bytes:
    """A progressive JPEG of so many scans: the last one again and again."""
    data = saved("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize(("format", "part"), [
    ("JPEG", segment(0xEF, b"")), ("JPEG", b"\xff"), ("PNG", chunk(b"prVt", b"")),
])  # fmt: skip
def test_a_header_of_more_parts_than_any_has_is_not_read_to_its_end(format: str, part: bytes) -> None:
    """20 MB of empty ones would hold the interpreter's lock for ten seconds."""
    with pytest.raises(BadImage, match="too many parts"):
        decode(with_parts(saved(format), part * 10_000), max_pixels=LIMIT)


@pytest.mark.parametrize(("format", "part"), [
    ("JPEG", segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0".ljust(65_000, b"x"))),
    ("PNG", chunk(b"tEXt", b"Comment\0".ljust(1000, b"x"))),
])  # fmt: skip
def test_a_header_with_as_much_metadata_as_pictures_have_is_read(format: str, part: bytes) -> None:
    """Phones put depth maps of megabytes into a JPEG's header, in segments of 64 KB."""
    plain = saved(format)
    assert (decode(with_parts(plain, part * 300), max_pixels=LIMIT) == decode(plain, max_pixels=LIMIT)).all()


def test_a_jpeg_of_more_scans_than_any_has_is_refused() -> None:
    """Each of 14 bytes goes over all pixels again: 20 MB of them would take hours."""
    decode(with_scans(50), max_pixels=LIMIT)
    with pytest.raises(BadImage, match="more than 50 scans"):
        decode(with_scans(51), max_pixels=LIMIT)


@pytest.mark.parametrize(("filled", "restarts"), [(b"\xff\xff\xff", 0), (b"", 1)])
def test_scans_are_counted_behind_bytes_that_fill_and_marks_to_restart_at(filled: bytes, restarts: int) -> None:
    """Neither has a length, whatever comes next: nothing is skipped for it."""
    data = saved("JPEG", progressive=True, restart_marker_blocks=restarts)
    last = filled + data[data.rindex(b"\xff\xda") : -2]
    assert (b"\xff\xd0" in last) == (restarts > 0)
    for count, allowed in ((50, True), (51, False)):
        many = data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]
        with nullcontext() if allowed else pytest.raises(BadImage, match="more than 50 scans"):
            decode(many, max_pixels=LIMIT)


def test_parts_between_scans_are_no_scans_but_there_are_not_any_number_of_them() -> None:
    data = saved("JPEG", progressive=True)
    decode(data[:-2] + segment(0xFE, b"") * 1000 + data[-2:], max_pixels=LIMIT)
    with pytest.raises(BadImage, match="too many parts"):
        decode(data[:-2] + segment(0xFE, b"") * 50_000 + data[-2:], max_pixels=LIMIT)


def test_what_looks_like_a_scan_in_metadata_or_behind_the_picture_is_none() -> None:
    """Thumbnails have scans of their own, and so have the pictures that some cameras put behind the first."""
    plain = saved("JPEG")
    many = with_parts(plain, segment(0xE1, b"\xff\xda" * 100)) + plain * 3000
    assert (decode(many, max_pixels=LIMIT) == decode(plain, max_pixels=LIMIT)).all()


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"prVt"])
def test_a_decoder_gets_of_a_png_what_is_drawn(kind: bytes) -> None:
    """A thousand texts that are each unpacked to 8 MB would take a minute."""
    plain, end = saved("PNG"), chunk(b"IEND", b"")
    text = chunk(kind, b"name\0\0" + zlib.compress(bytes(100)))
    noisy = plain.removesuffix(end) + text * 3 + end
    assert only_pixels(noisy) == plain
    assert (decode(noisy, max_pixels=LIMIT) == decode(plain, max_pixels=LIMIT)).all()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_decoder_gets_of_an_animation_an_ordinary_picture(hidden: bool) -> None:
    """OpenCV holds several canvases for an animation: 0.9 GB for 0.4 MB of 50 megapixels."""
    buffer, plain = io.BytesIO(), saved("PNG")
    frames = [PillowImage.new("RGB", (40, 28), colour) for colour in ("red", "blue")]
    first = PillowImage.open(io.BytesIO(plain))
    first.save(buffer, "PNG", save_all=True, append_images=frames, default_image=hidden)
    assert b"acTL" in buffer.getvalue() and b"acTL" not in only_pixels(buffer.getvalue())
    assert (decode(buffer.getvalue(), max_pixels=LIMIT) == decode(plain, max_pixels=LIMIT)).all()


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "1"])
def test_palettes_and_transparency_belong_to_what_is_drawn(mode: str) -> None:
    buffer = io.BytesIO()
    options = {"transparency": b"\0\1\2"} if mode == "P" else {}
    PillowImage.open(io.BytesIO(saved("PNG"))).convert(mode).save(buffer, "PNG", **options)
    assert only_pixels(buffer.getvalue()) == buffer.getvalue()


def test_what_lies_behind_a_png_is_no_part_of_it() -> None:
    plain = saved("PNG")
    assert only_pixels(plain + bytes(10**6)) == plain
    assert (decode(plain + bytes(10**6), max_pixels=LIMIT) == decode(plain, max_pixels=LIMIT)).all()


def test_a_png_of_more_parts_than_any_has_is_refused() -> None:
    plain, end = saved("PNG"), chunk(b"IEND", b"")
    with pytest.raises(BadImage, match="too many parts"):
        decode(plain.removesuffix(end) + chunk(b"IDAT", b"") * 50_000 + end, max_pixels=LIMIT)


@pytest.mark.parametrize("kind", [b"IDAT", b"PLTE", b"tRNS"])
def test_a_png_whose_part_says_that_it_is_longer_than_the_file_never_gets_to_a_decoder(kind: bytes) -> None:
    """OpenCV would take 4 GB for 60 bytes, and seconds to fill them with zeros."""
    start = saved("PNG").partition(b"IDAT")[0][:-4]  # without the pixels' length
    with pytest.raises(BadImage, match="truncated"):
        only_pixels(start + struct.pack(">I", 2**32 - 1) + kind + b"short")
    with pytest.raises(BadImage, match="truncated"):
        only_pixels(start + struct.pack(">I", 6) + kind + b"short")
    assert only_pixels(start + struct.pack(">I", 5) + kind + b"short").endswith(b"short")
