"""Official data sets: archives fetched with resume, checked, unpacked.

Every file appears under its name only when it is whole: what is under way is called `*.part`.
"""

import hashlib
import http.client
import logging
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from training.unpack import ArchiveError, unpack

log = logging.getLogger("okdhp.download")
CHUNK = 1 << 20
TIMEOUT_S = 60  # without a byte
ATTEMPTS = 5  # in a row without a new byte
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

    An archive is deleted once unpacked. `pause_s` doubles with each failed attempt in a row.
    Raises DownloadError, also for an archive that is not what was expected: that file is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = folder / f".{archive.name}.done"
        if done.exists():
            log.info("%s: already here", archive.name)
            continue
        path = fetch(archive, folder, pause_s)
        try:
            unpack(path, folder)
        except ArchiveError as error:
            path.unlink()
            raise DownloadError(f"{error}; deleted it, run again to fetch it anew") from error
        done.touch()
        path.unlink()


def fetch(archive: Archive, folder: Path, pause_s: float = 1.0) -> Path:
    """The whole, verified archive in `folder`; continues what an earlier call left. Raises DownloadError."""
    path = folder / archive.name
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(archive, part)
            break
        except _Cut as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise DownloadError(f"{archive.url}: {error}; run again to continue at byte {_size(part)}") from error
            log.warning("%s: %s; continuing at byte %d", archive.name, error, _size(part))
            time.sleep(pause_s * 2 ** (failures - 1))
    _verify(archive, part)
    _validator(part).unlink(missing_ok=True)
    part.replace(path)
    return path


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


def _store(archive: Archive, part: Path, reply: http.client.HTTPResponse) -> None:
    resumed = reply.status == 206
    start = _size(part) if resumed else 0
    remaining = int(reply.headers["Content-Length"]) if "Content-Length" in reply.headers else None
    total = archive.size if remaining is None else start + remaining
    if archive.size is not None and total != archive.size:
        raise DownloadError(f"{archive.url}: is {total} bytes there, expected {archive.size}")
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        missing = f"needs {(total - start) / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free in {part.parent}"
        raise DownloadError(f"{archive.name}: {missing}")
    _remember(part, reply.headers.get("ETag") or reply.headers.get("Last-Modified"))
    bar = tqdm(desc=archive.name, initial=start, total=total, unit="B", unit_scale=True)
    with part.open("ab" if resumed else "wb") as file, bar:
        while chunk := reply.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Cut(f"the connection ended after {_size(part)} of {total} bytes")


def _verify(archive: Archive, part: Path) -> None:
    """Raise DownloadError and delete `part` when its size or checksum is not the expected one."""
    found: int | str = _size(part)
    expected: int | str | None = archive.size
    what = "size"
    if archive.md5 is not None and expected in (None, found):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        what, expected = "MD5", archive.md5
    if expected not in (None, found):
        part.unlink()
        _validator(part).unlink(missing_ok=True)
        raise DownloadError(f"{archive.url}: its {what} is {found}, expected {expected}; deleted it")


def _remember(part: Path, validator: str | None) -> None:
    if validator is None or validator.startswith("W/"):  # a weak validator does not vouch for bytes
        _validator(part).unlink(missing_ok=True)
    else:
        _validator(part).write_text(validator)


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
