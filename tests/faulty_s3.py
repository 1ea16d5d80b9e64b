"""Storage that speaks S3 on this machine (moto), behind a proxy that breaks some requests."""

from __future__ import annotations

import http.client
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

HOP = ("connection", "transfer-encoding", "content-length", "server", "date")
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
"""Moto compares no signatures, but wants one."""
ERROR = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>"


class FaultyS3:
    """A server with one bucket, which clients find by the environment while it runs.

    `faults` says when requests break.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.harmed: Counter[str] = Counter({"refused": 0, "dropped": 0, "cut": 0})
        self._faulty, self._count, self._lock = False, 0, threading.Lock()

    def __enter__(self) -> FaultyS3:
        moto = pytest.importorskip("moto.server")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it tells of each request
        self._moto = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self._host = self._moto.get_host_and_port()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.forward("POST", "/moto-api/reset", {}, b"")  # of what an earlier one was given
        self.forward("PUT", f"/{self.bucket}", {}, b"")
        self._patch = pytest.MonkeyPatch()
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What tells a client of S3 where it is."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.server_port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        status, _, _ = self.forward("PUT", f"/{self.bucket}/{name}", SIGNED, content)
        assert status == 200

    def names(self) -> list[str]:
        """Of all objects but those that stand for folders."""
        _, _, body = self.forward("GET", f"/{self.bucket}?list-type=2", {}, b"")
        names = [part.partition("<")[0] for part in body.decode().split("<Key>")[1:]]
        return [name for name in names if not name.endswith("/")]

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Requests break meanwhile: one of seven with an error, without, or after half of it."""
        self._faulty = True
        try:
            yield
        finally:
            self._faulty = False

    def fault(self) -> str:
        """What happens to the next request."""
        with self._lock:
            self._count += 1
            kinds = {0: "refused", 2: "dropped", 4: "cut"}
            kind = kinds.get(self._count % 7, "") if self._faulty else ""
            self.harmed.update([kind] if kind else [])
            return kind

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of moto's answer."""
        connection = http.client.HTTPConnection(*self._host, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyS3
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def answer(self) -> None:
        """Answer a request as moto does, or break it."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body, kind = self._body(), self.proxy.fault()
        if kind == "dropped":
            self.close_connection = True
            return
        if kind == "refused":
            status, headers, content = 503, [("Content-Type", "application/xml")], ERROR
        else:
            sent = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            status, headers, content = self.proxy.forward(self.command, self.path, sent, body)
        length = next((v for k, v in headers if k.lower() == "content-length"), len(content))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer
