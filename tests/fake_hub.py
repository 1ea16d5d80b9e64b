"""A server on this machine that answers as the Hugging Face hub does, for a few files.

It takes commits too: small files inside them, weights and vectors by Git LFS before.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".npy", ".arrow", ".parquet", ".onnx")
"""Ends of names that the hub wants by Git LFS."""
Answer = tuple[int, dict[str, str], bytes]


class FakeHub:
    """The repositories are folders ORGANISATION/NAME below `root`; data sets below `datasets`.

    Attributes:
        gated: status code, by repository, for those who ask for anything of it.
        cut: names of files of which only the first half arrives.
        private: repositories that are private.
        unwritable: status code for those who want to make a repository; 0 lets them.
        branches: names that have been made, besides main.
        requests: what was asked for, such as `GET /a/b/resolve/main/config.json`.
        commits: what was committed, the lines of each.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.endpoint = ""
        self.gated: dict[str, int] = {}
        self.cut: set[str] = set()
        self.private: set[str] = set()
        self.unwritable = 0
        self.branches: set[str] = set()
        self.requests: list[str] = []
        self.commits: list[list[dict[str, Any]]] = []
        self.large: dict[str, bytes] = {}

    def answer(self, method: str, address: str, body: bytes) -> Answer:
        """Status, headers and content."""
        path = unquote(urlsplit(address).path).strip("/")
        if path == "api/validate-yaml":
            return as_json({"warnings": [], "errors": []})
        if path == "api/repos/create":
            return self.create(json.loads(body))
        if path.startswith("large/"):
            self.large[path.removeprefix("large/")] = body
            return 200, {}, b""
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        if path.startswith("api/"):
            return self.api(path.removeprefix("api/").removeprefix("models/"), body)
        repository, _, file = path.partition("/resolve/")
        if refused := self.refused(repository):
            return refused
        source = self.root / repository / file.partition("/")[2]
        headers = {"X-Repo-Commit": COMMIT}
        if not source.is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        name = repository.rpartition("/")[2]
        return 200, {**headers, "ETag": f'"{name}-{source.name}"'}, source.read_bytes()

    def refused(self, repository: str) -> Answer | None:
        """What those get who may not see a repository, or where there is none."""
        if status := self.gated.get(repository):
            headers = {"X-Error-Code": "GatedRepo"} if status in (401, 403) else {}
            return status, headers, b""
        if not (self.root / repository).is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        return None

    def api(self, path: str, body: bytes) -> Answer:
        """Facts and files of a repository, and commits to it."""
        parts = path.split("/")
        depth = 3 if parts[0] == "datasets" else 2
        repository, verb = "/".join(parts[:depth]), "".join(parts[depth : depth + 1])
        if refused := self.refused(repository):
            return refused
        if verb == "revision" and parts[depth + 1] not in (
            *("main", COMMIT),
            *self.branches,
        ):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if verb == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(LARGE) else "regular" for name in names]
            pairs = zip(names, modes, strict=True)
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in pairs]
            return as_json({"files": files})
        if verb == "commit":
            return self.commit(repository, [json.loads(line) for line in body.splitlines()])
        if verb == "branch":
            self.branches.add(parts[depth + 1])
            return as_json({})
        folder = self.root / repository
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
        if verb == "tree":
            rows = [{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]
            return as_json(rows)
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        private = repository in self.private
        name = repository.removeprefix("datasets/")
        return as_json({"id": name, "sha": COMMIT, "private": private, "siblings": siblings})

    def create(self, request: dict[str, Any]) -> Answer:
        """A new repository."""
        kind = "datasets/" if request.get("type") == "dataset" else ""
        repository = f"{kind}{request['organization']}/{request['name']}"
        if self.unwritable:
            return self.unwritable, {}, b"{}"
        (self.root / repository).mkdir(parents=True)
        (self.root / repository / ".gitattributes").write_text("*.npy filter=lfs")
        if request.get("visibility") == "private":
            self.private.add(repository)
        return as_json({"url": f"{self.endpoint}/{repository}"})

    def batch(self, request: dict[str, Any]) -> Answer:
        """Where large files go."""
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.endpoint}/large/{item['oid']}"}}}
            for item in request["objects"]
        ]
        return as_json({"objects": objects})

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> Answer:
        """Write and remove files as the lines of a commit say."""
        self.commits.append(lines)
        for line in lines[1:]:
            value = line["value"]
            file = self.root / repository / value["path"]
            if line["key"] == "deletedFile":
                file.unlink()
                continue
            large = line["key"] == "lfsFile"
            content = self.large[value["oid"]] if large else base64.b64decode(value["content"])
            assert not large or hashlib.sha256(content).hexdigest() == value["oid"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        url = f"{self.endpoint}/{repository}/commit/{COMMIT}"
        return as_json({"commitUrl": url, "commitOid": COMMIT})


def as_json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextmanager
def serving(hub: FakeHub, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub asks this server, and keeps files in `cache`."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = hub.answer(self.command, self.path, body)
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                cut = self.path.rpartition("/")[2] in hub.cut
                self.wfile.write(content[: len(content) // 2] if cut else content)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
