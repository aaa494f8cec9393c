"""What the page's tests share."""

from typing import Any

PERSON = (150, 120, 260, 400)  # a white rectangle is a person to the tiny networks


def show(page: Any, data: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def until(page: Any, condition: str, arg: Any = None) -> None:
    """Waits until a JavaScript expression holds: asked from here, as the page's policy forbids it to evaluate texts."""
    for _ in range(900):
        if page.evaluate(condition, arg):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")
