"""Archives, and a server of them that can cut, refuse and change what it sends."""

import hashlib
import http.server
import io
import re
import tarfile
import zipfile

from training.download import Archive


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`. The next replies stop after `cuts` bytes of their body; `status` is sent in place of a file."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.status: list[int] = []
        self.ranges = self.tags = True
        self.asked: list[str | None] = []  # the Range header of each request

    def archive(self, name: str, content: bytes, md5: str | None = None, size: int | None = None) -> Archive:
        self.files[f"/{name}"] = content
        return Archive("all", f"http://127.0.0.1:{self.server_port}/{name}", md5, size)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        content = self.server.files.get(self.path)
        if self.server.status or content is None:
            self.send_error(self.server.status.pop(0) if self.server.status else 404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if asked and self.server.ranges and self.headers["If-Range"] == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if self.server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
