"""What the page's tests share."""

from typing import Any

PERSON = (150, 120, 260, 400)  # a white rectangle is a person to the tiny networks


def show(page: Any, data: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
