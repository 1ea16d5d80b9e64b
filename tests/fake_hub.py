"""A server on this machine that answers as the Hugging Face hub does, for a few files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """The repositories are folders ORGANISATION/NAME below `root`.

    Attributes:
        gated: status code, by repository, for those who ask for a file of it.
        requests: what was asked for, such as `GET /a/b/resolve/main/config.json`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gated: dict[str, int] = {}
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        organisation, name, _, _, *file = path.strip("/").split("/")
        repository = f"{organisation}/{name}"
        if status := self.gated.get(repository):
            return status, {"X-Error-Code": "GatedRepo"}, b""
        if not (self.root / repository).is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        headers = {"X-Repo-Commit": COMMIT}
        source = self.root / repository / "/".join(file)
        if not source.is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        content = source.read_bytes()
        return 200, {**headers, "ETag": f'"{name}-{source.name}"'}, content


@contextmanager
def serving(hub: FakeHub, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub asks this server, and keeps files in `cache`."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
