"""What the page's tests share."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def proxy_with_its_own_host(port: int) -> Iterator[str]:
    """The address of a proxy before the service at `port` that tells it another Host than the browser asked for."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}".encode()

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with suppress(OSError), source:  # either side is gone
                while data := source.recv(65536):
                    sink.sendall(data.replace(b"Host: " + address, b"Host: inside"))
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with suppress(OSError):  # the door is shut
                while True:
                    client, service = door.accept()[0], socket.create_connection(("127.0.0.1", port))
                    for pair in ((client, service), (service, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://{address.decode()}"
        finally:
            door.shutdown(socket.SHUT_RDWR)  # to close it would not wake who waits at it
