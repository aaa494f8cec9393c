"""ZIP and tar archives from elsewhere, unpacked whole or not at all, and never outside their folder."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

CHUNK = 1 << 20


class ArchiveError(ValueError):
    """An archive that is damaged or would write where it must not."""


class RoomError(ValueError):
    """Less room on the disk than is needed; the message says for what, and how much."""


def unpack(archive: Path, folder: Path) -> None:
    """Put the files of `archive` (.zip, .tar.gz or .tar) under `folder`, replacing files of the same name.

    Every member's checksum is verified before the first file appears there. Raises ArchiveError for a damaged archive,
    and for one with links, devices, or names that lead out of `folder`; RoomError, and OSError that names the file.
    """
    target = waiting = folder / f".{archive.name}.unpacking"
    shutil.rmtree(waiting, ignore_errors=True)
    try:
        waiting.mkdir(parents=True)
        check_room(f"{archive.name} unpacked", _unpacked_size(archive), folder)
        for name, content in tqdm(_members(archive), f"unpack {archive.name}", unit="file"):
            target = waiting / _inside(archive, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK)
        for path in [path for path in waiting.rglob("*") if path.is_file()]:
            target = folder / path.relative_to(waiting)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ArchiveError(f"{archive}: damaged: {error}") from error
    except OSError as error:  # a full disk's does not say of what file
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, error.filename or str(target)) from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def check_room(what: str, needed: int, folder: Path) -> None:
    """Raises RoomError where `what` takes more bytes than are free in `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RoomError(f"{what}: needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free in {folder}")


def _unpacked_size(archive: Path) -> int:
    """What a ZIP's files take, in bytes; 0 for others, which tell at their end."""
    if not archive.name.endswith(".zip"):
        return 0
    with zipfile.ZipFile(archive) as file:
        return sum(entry.file_size for entry in file.infolist())


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.name.endswith(".zip"):
        return _zip_members(archive)
    if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _tar_members(archive)
    raise ArchiveError(f"{archive}: expected a .zip, .tar.gz or .tar file")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{archive}: {entry.filename!r} is neither a file nor a folder")
            if not entry.is_dir():
                with file.open(entry) as content:
                    yield entry.filename, content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    opened = archive.open("rb") if archive.name.endswith(".tar") else gzip.open(archive)
    with opened as stream, tarfile.open(fileobj=stream, mode="r|") as file:
        for entry in file:
            if not (entry.isreg() or entry.isdir()):
                raise ArchiveError(f"{archive}: {entry.name!r} is neither a file nor a folder")
            content = file.extractfile(entry)
            if content is not None:
                yield entry.name, content
        while stream.read(CHUNK):  # to the end, where gzip's checksum is
            pass


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or not path.parts:
        raise ArchiveError(f"{archive}: {name!r} leads out of the folder")
    return path
