"""Files of a shared folder and of S3: there as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_s3 import FaultyS3

from rapipe.errors import UserError
from rapipe.io import storage
from rapipe.io.storage import Storage


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with FaultyS3("images") as running:
        yield running


def check(files: Storage) -> None:
    contents = {f"a/{i}": np.random.default_rng(i).bytes(10_000 * i) for i in range(6)}
    assert files.sizes() == {}
    for name, content in contents.items():
        files.write(name, b"before")
        files.write(name, content)
    assert {name: files.read(name) for name in contents} == contents
    assert files.sizes("a") == {name[2:]: len(content) for name, content in contents.items()}
    assert files.sizes("b") == {}
    with pytest.raises(FileNotFoundError):
        files.read("a/none")
    files.remove()
    files.remove()
    assert files.sizes() == {}


def test_a_folder(tmp_path: Path) -> None:
    check(Storage(str(tmp_path / "shared")))


@pytest.mark.slow
def test_s3_that_breaks_requests(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0.01)
    with server.faults():
        check(Storage("s3://images/some/prefix/"))
    assert min(server.harmed.values()) > 0
    assert not server.names()


@pytest.mark.slow
def test_s3_without_the_bucket(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0.01)
    with pytest.raises(UserError, match="s3://none/a/b cannot be read or written"):
        Storage("s3://none/a").write("b", b"content")
