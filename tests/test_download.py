"""Downloads from localhost: whole and right, or nothing in place; what came is kept aside and gone on from."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from conftest import NO_NETWORK, ROOT, started
from stpath_core.errors import DownloadError
from stpath_core.io import unpack as unpacking
from stpath_core.io.download import MAX_REDIRECTS, fetch, refuse_address, sha256_of
from stpath_core.io.unpack import unpack

BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Server:
    """A publisher on this machine whose behaviour each test sets."""

    def __init__(self) -> None:
        self.body, self.etag, self.ranges = BODY, '"one"', True
        self.send = None  # bytes after which the connection is closed
        self.length = True  # whether Content-Length is sent
        self.kind = "application/zip"
        self.slow_s = 0.0
        self.redirects: dict[str, str] = {}
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request) -> None:
        self.asked.append(dict(request.headers) | {"path": request.path})
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            request.end_headers()
            return
        if request.path == "/gone":
            request.send_error(404)
            return
        start = 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range") in (None, self.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(self.body):
            request.send_error(416)
            return
        rest = self.body[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.length:
            request.send_header("Content-Length", str(len(rest)))
        request.send_header("Content-Type", self.kind)
        request.send_header("ETag", self.etag)
        request.end_headers()
        for begin in range(0, len(rest[: self.send]), 20_000):
            request.wfile.write(rest[begin : min(begin + 20_000, self.send or len(rest))])
            time.sleep(self.slow_s)

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked.get("Range") for asked in self.asked]


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def left_over(folder):
    return sorted(p.name for p in folder.iterdir())


def broken_off(server, path, at=100_000):
    """A download whose connection closed after `at` bytes."""
    server.send = at
    with pytest.raises(DownloadError, match="ended after 100000 of 300000 bytes; run the same command"):
        fetch(f"{server.url}/a.zip", path)
    server.send = None


def test_whole_file_is_put_in_place_with_its_hash(server, tmp_path):
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA, size=len(BODY))
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert (came.bytes, came.sha256, came.resumed_from) == (len(BODY), SHA, 0)
    assert left_over(tmp_path) == ["a.zip"]


def test_truncation_is_an_error_that_keeps_the_part(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    assert left_over(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    assert (tmp_path / "a.zip.part").read_bytes() == BODY[:100_000]


def test_resume_asks_only_for_the_rest_of_the_same_version(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.asked[-1]["Range"] == "bytes=100000-"
    assert server.asked[-1]["If-Range"] == '"one"'
    assert (came.resumed_from, came.sha256) == (100_000, SHA)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_server_that_ignores_range_restarts_cleanly(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    server.ranges = False
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.asked[-1]["Range"] == "bytes=100000-"
    assert (came.resumed_from, came.sha256) == (0, SHA)


def test_a_changed_file_is_never_mixed_with_the_old_one(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    server.body, server.etag = BODY[::-1], '"two"'
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert came.resumed_from == 0
    assert (tmp_path / "a.zip").read_bytes() == BODY[::-1]


def test_a_server_that_sends_a_range_of_another_version_is_asked_again_for_all(server, tmp_path, monkeypatch):
    broken_off(server, tmp_path / "a.zip")
    state = tmp_path / "a.zip.part.json"
    server.body, server.etag = BODY[::-1], '"two"'
    answer = server.answer

    def deaf(request):  # If-Range is not heard: a 206 of the new version comes
        del request.headers["If-Range"]
        answer(request)

    monkeypatch.setattr(server, "answer", deaf)
    assert json.loads(state.read_text())["version"] == '"one"'
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.ranges_asked[-2:] == ["bytes=100000-", None]
    assert (tmp_path / "a.zip").read_bytes() == BODY[::-1]
    assert came.resumed_from == 0


@pytest.mark.parametrize("etag", ['W/"one"', ""])
def test_without_a_strong_version_nothing_is_resumed(server, tmp_path, etag):
    server.etag = etag
    broken_off(server, tmp_path / "a.zip")
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip").resumed_from == 0
    assert server.ranges_asked == [None, None]


def test_the_part_of_another_address_is_not_gone_on_from(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    assert fetch(f"{server.url}/b.zip", tmp_path / "a.zip").resumed_from == 0


def test_a_part_longer_than_the_file_restarts(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    server.body = BODY[:50_000]
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip").bytes == 50_000


def test_hash_mismatch_puts_nothing_in_place(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"old")
    with pytest.raises(DownloadError, match=f"has sha256 {SHA}, expected 000"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256="0" * 64)
    assert left_over(tmp_path) == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"old"


def test_a_resumed_file_is_hashed_as_a_whole(server, tmp_path):
    broken_off(server, tmp_path / "a.zip")
    with (tmp_path / "a.zip.part").open("r+b") as part:
        part.write(b"damaged")
    with pytest.raises(DownloadError, match="expected"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "text/html; charset=utf-8"}, "is a web page, not a.zip"),
        ({"length": False}, "does not say how long it is"),
        ({"body": BODY[:7]}, "has 7 bytes, expected 300000"),
    ],
)
def test_what_cannot_be_the_file_is_refused_before_a_byte_is_kept(server, tmp_path, change, said):
    vars(server).update(change)
    with pytest.raises(DownloadError, match=said):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", size=None if "length" in change else len(BODY))
    assert left_over(tmp_path) == []


def test_an_error_of_the_server_is_told_with_its_number(server, tmp_path):
    with pytest.raises(DownloadError, match="answered 404"):
        fetch(f"{server.url}/gone", tmp_path / "a.zip")
    assert left_over(tmp_path) == []


def test_a_few_redirects_are_followed_and_no_more(server, tmp_path):
    server.redirects = {f"/{i}": f"/{i + 1}" for i in range(MAX_REDIRECTS)}
    came = fetch(f"{server.url}/0", tmp_path / "a.zip")
    assert came.url == f"{server.url}/{MAX_REDIRECTS}"
    server.redirects["/x"] = "/0"
    with pytest.raises(DownloadError, match=f"redirects more than {MAX_REDIRECTS} times"):
        fetch(f"{server.url}/x", tmp_path / "b.zip")
    assert left_over(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("there", ["http://example.org/a", "ftp://example.org/a", "file:///etc/hostname"])
def test_redirects_to_anything_but_https_are_refused(server, tmp_path, there):
    server.redirects = {"/a.zip": there}
    with pytest.raises(DownloadError, match="only https is followed"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert left_over(tmp_path) == []


def test_addresses_that_may_be_read():
    refuse_address("https://example.org/a")
    refuse_address("http://localhost:1/a")
    refuse_address("https://example.org/a", before="http://127.0.0.1/a")
    for url in (
        "http://example.org/a",
        "ftp://example.org/a",
        "file:///a",
        "https:///a",
        "http://localhost.evil.org/a",
    ):
        with pytest.raises(DownloadError, match="only https"):
            refuse_address(url)
    with pytest.raises(DownloadError, match="leads to"):
        refuse_address("http://127.0.0.1/a", before="https://example.org/a")


PROGRAM = "import sys; from stpath_core.io.download import fetch; fetch(sys.argv[1], sys.argv[2])"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_process_leaves_only_the_part_and_the_next_goes_on(server, tmp_path, how):
    server.slow_s = 0.05
    path = os.pathsep.join([str(NO_NETWORK), str(ROOT)])
    words = [sys.executable, "-c", PROGRAM, f"{server.url}/a.zip", str(tmp_path / "a.zip")]
    child = started(words, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    part = tmp_path / "a.zip.part"
    while not (part.exists() and part.stat().st_size > 0):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(how)
    assert child.wait() != 0
    assert left_over(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    assert BODY.startswith(part.read_bytes())
    server.slow_s = 0
    came = fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert came.resumed_from > 0
    assert came.sha256 == SHA


def test_two_at_once_do_not_write_the_same_part(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "a.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            fetch(f"{server.url}/a.zip", tmp_path / "a.zip")


def test_progress_counts_megabytes(server, tmp_path):
    server.body = bytes(2_500_000)
    seen = []

    def progress(items, *, total):
        for item in items:
            seen.append((item, total))
            yield item

    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=progress)
    assert seen == [(1, 3), (2, 3), (3, 3)]


# --- archives ---


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def tarred(path, members, mode="w:gz"):
    """members: name -> bytes, or a TarInfo's (type, linkname)."""
    with tarfile.open(path, mode) as bundle:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size, info.mode = len(content), 0o7777
                bundle.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                bundle.addfile(info)
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_come_out_whole_with_their_hashes_and_nothing_can_be_run(tmp_path, mode):
    members = {"top/a.txt": b"a" * 10, "top/b/c.bin": BODY}
    archive = tmp_path / "x.archive"
    zipped(archive, members) if mode == "zip" else tarred(archive, members, mode)
    told = unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a.txt": b"a" * 10, "b/c.bin": BODY}  # the single top folder is left out
    assert told["b/c.bin"] == {"bytes": len(BODY), "sha256": SHA}
    assert not any(p.stat().st_mode & (stat.S_IXUSR | stat.S_ISUID) for p in (tmp_path / "out").rglob("*.*"))


def test_several_top_folders_stay_and_an_old_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    unpack(zipped(tmp_path / "x.zip", {"a/1": b"1", "b/2": b"2"}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/1": b"1", "b/2": b"2"}


def symlink_zip(path):
    with zipfile.ZipFile(path, "w") as bundle:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, "/etc")
    return path


EVIL = {
    "zip slip": (lambda p: zipped(p, {"ok": b"1", "../evil": b"2"}), "points out of the folder"),
    "deep slip": (lambda p: zipped(p, {"a/../../evil": b"2"}), "points out of the folder"),
    "absolute": (lambda p: zipped(p, {"/tmp/evil": b"2"}), "absolute"),
    "drive": (lambda p: zipped(p, {"C:/evil": b"2"}), "of another system"),
    "backslash": (lambda p: tarred(p, {"..\\evil": b"2"}), "of another system"),
    "zip link": (symlink_zip, "is a link"),
    "tar slip": (lambda p: tarred(p, {"ok": b"1", "../evil": b"2"}), "points out of the folder"),
    "tar absolute": (lambda p: tarred(p, {"/tmp/evil": b"2"}), "absolute"),
    "tar link escape": (lambda p: tarred(p, {"l": (tarfile.SYMTYPE, "../.."), "l/evil": b"2"}), "is a link"),
    "tar hard link": (lambda p: tarred(p, {"ok": b"1", "l": (tarfile.LNKTYPE, "/etc/passwd")}), "is a link"),
    "tar device": (lambda p: tarred(p, {"d": (tarfile.CHRTYPE, "")}), "a device"),
    "tar fifo": (lambda p: tarred(p, {"d": (tarfile.FIFOTYPE, "")}), "a device"),
    "tar folder out": (lambda p: tarred(p, {"../d": (tarfile.DIRTYPE, ""), "a": b"1"}), "points out of the folder"),
    "twice": (lambda p: tarred(p, {"A": b"1", "a": b"2"}), "is there twice"),
    "file and folder": (lambda p: tarred(p, {"a": b"1", "a/b": b"2"}), "also has a folder"),
    "nothing": (lambda p: zipped(p, {}), "holds no files"),
    "no archive": (lambda p: p.write_bytes(BODY) and p, "cannot be unpacked"),
    "cut short": (lambda p: p.write_bytes(tarred(p, {"a": BODY}).read_bytes()[:5000]) and p, "cannot be unpacked"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_hostile_archives_are_refused_and_write_nothing(tmp_path, kind):
    make, said = EVIL[kind]
    room = tmp_path / "room"
    room.mkdir()
    archive = make(tmp_path / "x.archive")
    with pytest.raises(DownloadError, match=said):
        unpack(archive, room / "out")
    assert list(room.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_an_encrypted_zip_says_so(tmp_path):
    archive = zipped(tmp_path / "x.zip", {"a": b"1"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(raw)
    with pytest.raises(DownloadError, match="encrypted; unpack it by hand"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("mode", ["zip", "gz", "bz2", "lying gz"])
def test_decompression_bombs_are_stopped_by_declared_size_and_by_what_comes_out(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 10_000)
    archive, zeros = tmp_path / "x.archive", bytes(5_000_000)
    if mode == "zip":
        zipped(archive, {"a": zeros})
    elif mode == "lying gz":  # zeros where a header should be: no member declares them
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, len(zeros)
        archive.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + zeros))
    else:
        plain = tarred(tmp_path / "plain.tar", {"a": zeros}, "w").read_bytes()
        archive.write_bytes(gzip.compress(plain) if mode == "gz" else bz2.compress(plain))
    with pytest.raises(DownloadError, match="decompression bomb"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if mode != "lying gz":
        assert unpack(archive, tmp_path / "out", max_ratio=1e6)["a"]["bytes"] == len(zeros)


def test_sha256_of_is_the_plain_sha256(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    assert sha256_of(tmp_path / "a") == SHA
