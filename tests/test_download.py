"""The downloader against a server on this machine that also truncates, stalls and lies."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rapipe.corpus.sources import download
from rapipe.corpus.sources.download import Archive, fetch, obtain
from rapipe.errors import UserError

CONTENT = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test's `behave` says for each request in turn."""

    def do_GET(self) -> None:
        server: Server = self.server
        range_ = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(range_[1]) if range_ else 0
        server.starts.append(start)
        server.behave(self, start, len(server.starts))

    def answer(self, body: bytes, start: int = 0, promised: int | None = None) -> None:
        """The content from `start`, and how much of it is promised."""
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    behave: Callable[[Handler, int, int], None]
    starts: list[int]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.starts = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def archive(server: Server, md5: str = MD5) -> Archive:
    return Archive("a.bin", f"http://127.0.0.1:{server.server_port}/a.bin", md5)


def test_a_good_server(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, start, n: handler.answer(CONTENT[start:], start)
    path = obtain(archive(server), tmp_path / "new", download=True)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    obtain(archive(server), tmp_path / "new", download=True)
    assert server.starts == [0]


def test_nothing_is_fetched_unless_allowed(server: Server, tmp_path: Path) -> None:
    message = (
        rf"{tmp_path}/a.bin is missing: put the file from http://.* \(md5 {MD5}\), or set `dow"
    )
    with pytest.raises(UserError, match=message):
        obtain(archive(server), tmp_path, download=False)
    assert not server.starts
    assert not list(tmp_path.iterdir())


def test_a_file_that_lies_there_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=rf"has the md5 \w+, but the published file has {MD5}"):
        obtain(Archive("a.bin", "http://nowhere.invalid/", MD5), tmp_path, download=True)
    assert (tmp_path / "a.bin").read_bytes() == b"other"


def test_a_truncated_answer_is_resumed(server: Server, tmp_path: Path) -> None:
    def behave(handler: Handler, start: int, n: int) -> None:
        handler.answer(CONTENT[start : 300_000 * n], start, len(CONTENT) - start)

    server.behave = behave
    fetch(archive(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.starts == [0, 300_000, 600_000, 900_000]


def test_a_stalled_answer_is_given_up_and_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    release = threading.Event()

    def behave(handler: Handler, start: int, n: int) -> None:
        if n == 1:
            handler.answer(CONTENT[:400_000], 0, len(CONTENT))
            release.wait(10)
        else:
            handler.answer(CONTENT[start:], start)

    server.behave = behave
    fetch(archive(server), tmp_path / "a.bin")
    release.set()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.starts == [0, 400_000]


def test_an_interrupted_download_goes_on_later(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:700_000])
    server.behave = lambda handler, start, n: handler.answer(CONTENT[start:], start)
    fetch(archive(server), tmp_path / "a.bin")
    assert server.starts == [700_000]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"something else" * 100)
    server.behave = lambda handler, start, n: handler.answer(CONTENT)
    fetch(archive(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_complete_or_wrong(server: Server, tmp_path: Path) -> None:
    """The server has nothing left to send; the checksum decides what that means."""

    def behave(handler: Handler, start: int, n: int) -> None:
        if start >= len(CONTENT):
            handler.send_error(416)
        else:
            handler.answer(CONTENT[start:], start)

    server.behave = behave
    for left, starts in ((CONTENT, [1_000_000]), (b"x" * 1_000_001, [1_000_001, 0])):
        (tmp_path / "a.bin.part").write_bytes(left)
        server.starts.clear()
        fetch(archive(server), tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == CONTENT
        assert server.starts == starts


def test_a_lie_is_found_by_the_checksum(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, start, n: handler.answer(b"<html>quota exceeded</html>")
    told = rf"with the md5 \w+, not {MD5} \(it is an HTML page.*\): get the file"
    with pytest.raises(UserError, match=told):
        fetch(archive(server), tmp_path / "a.bin")
    assert len(server.starts) == download.TRIES
    assert not list(tmp_path.iterdir())


def test_one_lie_is_forgiven(server: Server, tmp_path: Path) -> None:
    def behave(handler: Handler, start: int, n: int) -> None:
        handler.answer(CONTENT[::-1] if n == 1 else CONTENT)

    server.behave = behave
    fetch(archive(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_refusal_is_not_asked_again_and_trouble_is(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, start, n: handler.send_error(404)
    with pytest.raises(UserError, match="answers 404 Not Found: get the file from http"):
        fetch(archive(server), tmp_path / "a.bin")
    assert len(server.starts) == 1

    def behave(handler: Handler, start: int, n: int) -> None:
        if n == 2:
            handler.send_error(503)
        else:
            handler.answer(CONTENT)

    server.behave = behave
    fetch(archive(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    dead = Archive("a.bin", "http://127.0.0.1:1/a.bin", MD5, "https://example.org/page")
    with pytest.raises(UserError, match=r"broke off .* from https://example.org/page by hand"):
        fetch(dead, tmp_path / "a.bin")


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, start, n: handler.answer(CONTENT)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.bin.part cannot be written: File exists"):
        fetch(archive(server), tmp_path / "file" / "a.bin")
