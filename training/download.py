"""Official data sets: archives fetched with resume, checked, unpacked.

Every file appears under its name only when it is whole: what is under way is called `*.part`.
"""

import hashlib
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from training.unpack import ArchiveError, check_room, unpack

log = logging.getLogger("okdhp.download")
CHUNK = 1 << 20
TIMEOUT_S = 60  # without a byte
ATTEMPTS = 5  # in a row that come no farther than one before
COCO, MPII = "http://images.cocodataset.org", "https://datasets.d2.mpi-inf.mpg.de/andriluka14cvpr"


class DownloadError(ValueError):
    """An archive that cannot be had; the message names it and says why, in one line."""


@dataclass(frozen=True)
class Archive:
    """One file of a data set. Without an `md5` only its own checksums (CRC-32 of ZIP and gzip) vouch for it."""

    part: str  # what --only calls it
    url: str
    md5: str | None = None
    size: int | None = None  # bytes, where known

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


# Neither site publishes checksums. Those below are what public projects that fetch these files agree on; the MPII
# annotations have none. Sizes are those that public mirrors list.
DATASETS: dict[str, tuple[Archive, ...]] = {
    "coco": (
        Archive(
            "annotations",
            f"{COCO}/annotations/annotations_trainval2017.zip",
            "f4bbac642086de4f52a3fdda2de5fa2c",
            252_907_541,
        ),
        Archive("val", f"{COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", 815_585_330),
        Archive("train", f"{COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", 19_336_861_798),
    ),
    "mpii": (
        Archive("annotations", f"{MPII}/mpii_human_pose_v1_u12_2.zip"),
        Archive("images", f"{MPII}/mpii_human_pose_v1.tar.gz", "b6bc9c6869d3f035a5570b2e68ec84c4"),
    ),
}


def choose(dataset: str, only: Sequence[str] = ()) -> tuple[Archive, ...]:
    """The archives of `dataset`, or those of its parts named in `only`. Raises DownloadError for unknown names."""
    if dataset not in DATASETS:
        raise DownloadError(f"unknown data set {dataset!r}: expected {' or '.join(DATASETS)}")
    parts = [archive.part for archive in DATASETS[dataset]]
    unknown = [part for part in only if part not in parts]
    if unknown:
        raise DownloadError(f"{dataset} has no part {unknown[0]!r}: expected {', '.join(parts)}")
    return tuple(archive for archive in DATASETS[dataset] if not only or archive.part in only)


def obtain(archives: Sequence[Archive], folder: Path, pause_s: float = 1.0) -> None:
    """Have the contents of every archive under `folder`; what an earlier call finished is not fetched again.

    An archive is deleted once unpacked, or where it is not what was expected; one that somebody else put into `folder`
    under its name is checked, taken, and left there. `pause_s` doubles with each failed attempt in a row.
    Raises DownloadError, RoomError, and OSError for what the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = folder / f".{archive.name}.done"
        if done.exists():
            log.info("%s: unpacked already, says %s; without that file it is fetched again", archive.name, done)
            continue
        path = fetch(archive, folder, pause_s)
        ours = _fetched(path).exists()
        try:
            unpack(path, folder)
        except ArchiveError as error:
            if not ours:
                raise DownloadError(f"{error}; move it away to have it fetched") from error
            _delete(path)
            raise DownloadError(f"{error}; deleted it, run again to fetch it anew") from error
        done.touch()
        if ours:
            _delete(path)


def fetch(archive: Archive, folder: Path, pause_s: float = 1.0) -> Path:
    """The whole, verified archive in `folder`; continues what an earlier call left. Raises as `obtain`."""
    path = folder / archive.name
    if path.exists():
        if fault := _fault(archive, path):
            raise DownloadError(f"{path}: lies here already, and {fault}; move it away to have it fetched")
        return path
    part = path.with_name(f"{path.name}.part")
    failures, farthest = 0, _size(part)
    while True:
        try:
            _receive(archive, part)
            break
        except _Cut as error:
            failures = 1 if _size(part) > farthest else failures + 1
            farthest = max(farthest, _size(part))
            if failures >= ATTEMPTS:
                raise DownloadError(f"{archive.url}: {error}; run again to {_onward(part)}") from error
            log.warning("%s: %s; about to %s", archive.name, error, _onward(part))
            time.sleep(pause_s * 2 ** (failures - 1))
    if fault := _fault(archive, part):
        _delete(part)
        raise DownloadError(f"{archive.url}: {fault}; deleted it")
    _validator(part).unlink(missing_ok=True)
    _fetched(path).touch()
    part.replace(path)
    return path


def _onward(part: Path) -> str:
    """What the next attempt will do, as far as the server lets it."""
    alone = _size(part) > 0 and not _validator(part).exists()
    return "start anew" if alone else f"continue at byte {_size(part)}"


class _Cut(Exception):
    """The connection ended early, or the server has a passing fault: worth another attempt."""


def _receive(archive: Archive, part: Path) -> None:
    """Append to `part` what is missing of it. Raises _Cut, or DownloadError where trying again is of no use."""
    start, validator = _size(part), _validator(part)
    headers = {"User-Agent": "okdhp", "Accept-Encoding": "identity"}
    if start and validator.exists():
        # With If-Range a file that changed meanwhile comes whole: two versions are never glued together.
        headers |= {"Range": f"bytes={start}-", "If-Range": validator.read_text()}
    try:
        with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_S) as reply:
            _store(archive, part, reply)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies beyond what we have: let its size and checksum speak
            return
        reason = f"HTTP {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _Cut(reason) from error
        raise DownloadError(f"{archive.url}: {reason}") from error
    except urllib.error.URLError as error:
        raise _Cut(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Cut(str(error) or type(error).__name__) from error
    except OSError as error:  # the disk's, which does not always say of what file
        raise OSError(error.errno, error.strerror or str(error), str(part)) from error


def _store(archive: Archive, part: Path, reply: http.client.HTTPResponse) -> None:
    resumed = reply.status == 206
    start = _size(part) if resumed else 0
    if _size(part) > start and _validator(part).exists():  # it was asked to
        log.warning("%s: the server does not continue at byte %d; starting anew", archive.name, _size(part))
    remaining = int(reply.headers["Content-Length"]) if "Content-Length" in reply.headers else None
    total = archive.size if remaining is None else start + remaining
    if archive.size is not None and total != archive.size:
        raise DownloadError(f"{archive.url}: is {total} bytes there, expected {archive.size}")
    if total is not None:
        check_room(archive.name, total - _size(part), part.parent)
    _remember(part, reply.headers.get("ETag") or reply.headers.get("Last-Modified"))
    bar = tqdm(desc=archive.name, initial=start, total=total, unit="B", unit_scale=True)
    with part.open("ab" if resumed else "wb") as file, bar:
        while chunk := reply.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Cut(f"the connection ended after {_size(part)} of {total} bytes")


def _fault(archive: Archive, path: Path) -> str:
    """What of `path` is not as `archive` says, its size or its checksum; "" where both are, or neither is known."""
    size = _size(path)
    if archive.size not in (None, size):
        return f"its size is {size}, expected {archive.size}"
    if archive.md5 is None:
        return ""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"its MD5 is {md5}, expected {archive.md5}" if md5 != archive.md5 else ""


def _delete(path: Path) -> None:
    """Delete a file that was fetched here, and what was noted about it."""
    for file in (path, _validator(path), _fetched(path)):
        file.unlink(missing_ok=True)


def _remember(part: Path, validator: str | None) -> None:
    if validator is None or validator.startswith("W/"):  # a weak validator does not vouch for bytes
        _validator(part).unlink(missing_ok=True)
    else:
        _validator(part).write_text(validator)


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _fetched(path: Path) -> Path:
    """Lies beside an archive that was fetched here, until that is unpacked."""
    return path.with_name(f".{path.name}.fetched")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
