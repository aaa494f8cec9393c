"""Downloads, from a real server on a real port that can cut, refuse and change what it sends."""

import errno
import gzip
import logging
import os
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import Server, md5, tarred, zipped
from small_disk import disk_of
from typer.testing import CliRunner

from app.cli import app
from training import download
from training.download import DATASETS, Archive, DownloadError, choose, fetch, obtain
from training.unpack import ArchiveError, RoomError, unpack

PICTURE = os.urandom(300_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_archive_is_fetched_checked_unpacked_and_deleted(server: Server, tmp_path: Path) -> None:
    content = zipped({"annotations/a.json": b"{}", "val2017/1.jpg": PICTURE})
    archive = server.archive("v.zip", content, md5(content), len(content))
    obtain([archive], tmp_path)
    assert (tmp_path / "val2017" / "1.jpg").read_bytes() == PICTURE
    assert names(tmp_path) == {"annotations/a.json", "val2017/1.jpg", ".v.zip.done"}
    obtain([archive], tmp_path)
    assert len(server.asked) == 1  # nothing is fetched twice


def test_tar_archive_is_unpacked_too(server: Server, tmp_path: Path) -> None:
    obtain([server.archive("p.tar.gz", tarred([(tarfile.TarInfo("images/1.jpg"), PICTURE)]))], tmp_path)
    assert (tmp_path / "images" / "1.jpg").read_bytes() == PICTURE


def test_cut_connection_continues_where_it_was_cut(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.cuts = [100_000, 50_000]
    with caplog.at_level(logging.WARNING):
        path = fetch(server.archive("v.zip", PICTURE, md5(PICTURE)), tmp_path, pause_s=0)
    assert path.read_bytes() == PICTURE
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert "v.zip: the connection ended after 100000 of 300000 bytes; about to continue at byte 100000" in caplog.text


def test_a_later_run_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    archive = server.archive("v.zip", PICTURE)
    server.cuts = [1000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(DownloadError, match="run again to continue at byte 1000"):
        fetch(archive, tmp_path, pause_s=0)
    assert names(tmp_path) == {"v.zip.part", "v.zip.part.etag"}
    server.asked.clear()
    assert fetch(archive, tmp_path).read_bytes() == PICTURE
    assert server.asked == ["bytes=1000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(server.archive("v.zip", PICTURE), tmp_path, pause_s=0)
    changed = os.urandom(5000)
    assert fetch(server.archive("v.zip", changed), tmp_path).read_bytes() == changed


def test_a_server_without_ranges_still_gives_the_whole_file(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.ranges, server.cuts = False, [1000]
    assert fetch(server.archive("v.zip", PICTURE), tmp_path, pause_s=0).read_bytes() == PICTURE
    assert "v.zip: the server does not continue at byte 1000; starting anew" in caplog.text


@pytest.mark.parametrize("tags", [True, False])
def test_a_server_that_never_comes_farther_is_given_up(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, tags: bool
) -> None:
    """Each attempt starts anew: more than the last one gave is no progress."""
    server.ranges, server.tags, server.cuts = False, tags, [1000, 500] * 20
    onward = "continue at byte 1000" if tags else "start anew"
    with pytest.raises(DownloadError, match=f"ended after 1000 of 300000 bytes; run again to {onward}$"):
        fetch(server.archive("v.zip", PICTURE), tmp_path, pause_s=0)
    assert len(server.asked) == download.ATTEMPTS
    assert ("about to start anew" in caplog.text) != tags


def test_a_part_that_lacks_nothing_becomes_the_file(server: Server, tmp_path: Path) -> None:
    archive = server.archive("v.zip", PICTURE, md5(PICTURE))
    (tmp_path / "v.zip.part").write_bytes(PICTURE)
    (tmp_path / "v.zip.part.etag").write_text(f'"{md5(PICTURE)}"')
    assert fetch(archive, tmp_path).read_bytes() == PICTURE
    assert names(tmp_path) == {"v.zip", ".v.zip.fetched"}


def test_wrong_checksum_is_refused_and_the_file_not_kept(server: Server, tmp_path: Path) -> None:
    archive = server.archive("v.zip", zipped({"a": b"a"}), "0" * 32)
    with pytest.raises(DownloadError, match=r"v\.zip: its MD5 is [0-9a-f]{32}, expected 0{32}; deleted it$"):
        obtain([archive], tmp_path)
    assert names(tmp_path) == set()


def test_another_size_than_expected_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="is 300000 bytes there, expected 7"):
        fetch(server.archive("v.zip", PICTURE, size=7), tmp_path)
    assert names(tmp_path) == set()


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(RoomError, match=r"v\.zip: needs 0\.0 GB more, 0\.0 GB are free in "):
        fetch(server.archive("v.zip", PICTURE), tmp_path)


def test_absent_file_is_one_line_and_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/no.zip"
    with pytest.raises(DownloadError) as caught:
        fetch(Archive("all", url), tmp_path)
    assert str(caught.value) == f"{url}: HTTP 404 Not Found"
    assert len(server.asked) == 1


def test_passing_fault_of_the_server_is_waited_out(server: Server, tmp_path: Path) -> None:
    server.status = [503, 500]
    assert fetch(server.archive("v.zip", PICTURE), tmp_path, pause_s=0).read_bytes() == PICTURE


def test_a_server_that_is_not_there_is_one_line(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets this port
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v.zip"
        with pytest.raises(DownloadError, match=r"v\.zip: .*refused; run again to continue at byte 0$"):
            fetch(Archive("all", url), tmp_path, pause_s=0)


@pytest.mark.parametrize("name", ["t.zip", "t.tar.gz"])
def test_truncated_archive_leaves_nothing_behind(server: Server, tmp_path: Path, name: str) -> None:
    whole = zipped({"a.jpg": PICTURE}) if name == "t.zip" else tarred([(tarfile.TarInfo("a.jpg"), PICTURE)])
    with pytest.raises(DownloadError, match=f"{name}: damaged: .*; deleted it, run again to fetch it anew"):
        obtain([server.archive(name, whole[:-2000])], tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["t.zip", "t.tar.gz"])
def test_a_damaged_byte_is_found_by_the_archives_own_checksum(tmp_path: Path, name: str) -> None:
    whole = bytearray(zipped({"first.jpg": b"first", "a.jpg": PICTURE}))
    if name == "t.tar.gz":
        plain = gzip.decompress(tarred([(tarfile.TarInfo("first.jpg"), b"first"), (tarfile.TarInfo("a.jpg"), PICTURE)]))
        whole = bytearray(gzip.compress(plain, compresslevel=0))  # stored: a changed byte still unpacks
    whole[150_000] ^= 1
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == set()


def test_an_archive_that_lies_there_already_is_checked_taken_and_left_there(server: Server, tmp_path: Path) -> None:
    content = zipped({"val2017/1.jpg": PICTURE})
    archive = server.archive("v.zip", content, md5(content), len(content))
    (tmp_path / "v.zip").write_bytes(content)
    obtain([archive], tmp_path)
    assert names(tmp_path) == {"val2017/1.jpg", "v.zip", ".v.zip.done"}
    assert server.asked == []


@pytest.mark.parametrize(
    ("kept", "expected", "fault"),
    [
        (1000, ("md5", "size"), r"its size is 1000, expected \d+"),
        (1000, ("md5",), "its MD5 is [0-9a-f]{32}, expected [0-9a-f]{32}"),
        (None, ("wrong",), "its MD5 is [0-9a-f]{32}, expected 0{32}"),
    ],
)
def test_an_archive_that_lies_there_and_is_not_the_right_one_is_refused_and_left_alone(
    server: Server, tmp_path: Path, kept: int | None, expected: tuple[str, ...], fault: str
) -> None:
    """Somebody may be fetching it, or can go on."""
    content = zipped({"val2017/1.jpg": PICTURE})
    checksum = {"md5": md5(content), "wrong": "0" * 32}[expected[0]]
    archive = server.archive("v.zip", content, checksum, len(content) if "size" in expected else None)
    (tmp_path / "v.zip").write_bytes(content[:kept])
    with pytest.raises(
        DownloadError, match=rf"v\.zip: lies here already, and {fault}; move it away to have it fetched$"
    ):
        obtain([archive], tmp_path)
    assert names(tmp_path) == {"v.zip"} and (tmp_path / "v.zip").read_bytes() == content[:kept]


def test_a_damaged_archive_that_lies_there_already_is_left_alone(server: Server, tmp_path: Path) -> None:
    content = zipped({"val2017/1.jpg": PICTURE})
    (tmp_path / "v.zip").write_bytes(content[:1000])
    with pytest.raises(DownloadError, match=r"v\.zip: damaged: .*; move it away to have it fetched$"):
        obtain([server.archive("v.zip", content)], tmp_path)
    assert names(tmp_path) == {"v.zip"} and (tmp_path / "v.zip").read_bytes() == content[:1000]


def test_an_archive_that_was_fetched_and_not_yet_unpacked_is_deleted_in_the_end(server: Server, tmp_path: Path) -> None:
    archive = server.archive("v.zip", zipped({"val2017/1.jpg": PICTURE}))
    fetch(archive, tmp_path)  # and killed
    obtain([archive], tmp_path)
    assert names(tmp_path) == {"val2017/1.jpg", ".v.zip.done"}
    assert len(server.asked) == 1


def test_what_was_unpacked_before_names_the_file_that_says_so(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = server.archive("v.zip", zipped({"val2017/1.jpg": PICTURE}))
    obtain([archive], tmp_path)
    (tmp_path / "val2017" / "1.jpg").unlink()
    with caplog.at_level(logging.INFO):
        obtain([archive], tmp_path)
    said = f"v.zip: unpacked already, says {tmp_path}/.v.zip.done; without that file it is fetched again"
    assert said in caplog.text
    (tmp_path / ".v.zip.done").unlink()
    obtain([archive], tmp_path)
    assert (tmp_path / "val2017" / "1.jpg").read_bytes() == PICTURE


def test_a_disk_that_fills_up_while_fetching_is_named_with_the_file_and_the_rest_comes_later(
    server: Server, tmp_path: Path
) -> None:
    archive, part = server.archive("v.zip", PICTURE, md5(PICTURE)), tmp_path / "v.zip.part"
    with disk_of(100_000), pytest.raises(OSError) as caught:
        fetch(archive, tmp_path)
    assert str(caught.value) == f"[Errno {errno.EFBIG}] File too large: '{part}'"
    assert fetch(archive, tmp_path).read_bytes() == PICTURE
    assert server.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("name", ["t.zip", "t.tar.gz"])
def test_a_disk_that_fills_up_while_unpacking_is_named_with_the_file_and_keeps_the_archive(
    server: Server, tmp_path: Path, name: str
) -> None:
    flat = bytes(300_000)
    content = tarred([(tarfile.TarInfo("a/1.jpg"), flat)])
    if name == "t.zip":
        content = zipped({"a/1.jpg": flat}, zipfile.ZIP_DEFLATED)
    archive = server.archive(name, content)
    with disk_of(100_000), pytest.raises(OSError) as caught:
        obtain([archive], tmp_path)
    assert str(caught.value) == f"[Errno {errno.EFBIG}] File too large: '{tmp_path}/.{name}.unpacking/a/1.jpg'"
    assert names(tmp_path) == {name, f".{name}.fetched"}
    obtain([archive], tmp_path)
    assert names(tmp_path) == {"a/1.jpg", f".{name}.done"}


def test_a_zip_larger_than_the_disk_once_unpacked_is_refused_before_it_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = server.archive("v.zip", zipped({"1.jpg": bytes(10**9 // 10)}, zipfile.ZIP_DEFLATED))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9 // 20))
    with pytest.raises(RoomError, match=r"v\.zip unpacked: needs 0\.1 GB more, 0\.1 GB are free in "):
        obtain([archive], tmp_path)
    assert names(tmp_path) == {"v.zip", ".v.zip.fetched"}


@pytest.mark.parametrize("entry", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("name", ["t.zip", "t.tar.gz"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str, entry: str) -> None:
    files = {"good.jpg": b"good", entry: b"evil"}
    content = zipped(files) if name == "t.zip" else tarred([(tarfile.TarInfo(n), c) for n, c in files.items()])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        unpack(tmp_path / name, tmp_path / "a" / "out")
    assert names(tmp_path) == {name}


def test_links_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("images")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    (tmp_path / "t.tar.gz").write_bytes(tarred([(link, b"")]))
    zip_link = zipfile.ZipInfo("images")
    zip_link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(zip_link, "/etc")
    for name in ("t.tar.gz", "t.zip"):
        with pytest.raises(ArchiveError, match="'images' is neither a file nor a folder"):
            unpack(tmp_path / name, tmp_path / "out")


def test_parts_are_chosen_by_name() -> None:
    assert [archive.name for archive in choose("coco", ["annotations"])] == ["annotations_trainval2017.zip"]
    assert choose("mpii") == DATASETS["mpii"]
    with pytest.raises(DownloadError, match="mpii has no part 'val': expected annotations, images"):
        choose("mpii", ["val"])
    with pytest.raises(DownloadError, match="unknown data set 'voc': expected coco or mpii"):
        choose("voc")


def test_command_gets_the_data_set_and_says_faults_in_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "coco", (server.archive("a.zip", zipped({"annotations/a.json": b"{}"})),))
    got = CliRunner().invoke(app, ["data", "coco", "--out", str(tmp_path / "coco")])
    assert got.exit_code == 0, got.output
    assert "annotations/a.json" in names(tmp_path / "coco")
    wrong = CliRunner().invoke(app, ["data", "coco", "--out", str(tmp_path / "coco"), "--only", "cats"])
    assert (wrong.exit_code, wrong.stderr) == (2, "okdhp: coco has no part 'cats': expected all\n")
