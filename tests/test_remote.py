"""Images that `dvc add` tracks go to storage that speaks S3, and come back on another machine.

The commands are those of docs/remote.md. The storage is moto's server on this machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import site
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SECONDS = 60
"""For the server to start."""


def environment_of(folder: Path, package: str, shared: bool) -> Path:
    """The programs of a new environment with a package; skips where it cannot be installed.

    Args:
        shared: the environment sees what is installed here, too.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if shared:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "shared.pth").write_text("\n".join(site.getsitepackages()))
    install = [str(folder / "bin/pip"), "install", "--quiet", package]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} cannot be installed: {done.stderr.splitlines()[-1]}")
    return folder / "bin"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[str]:
    """The address of a server with the bucket `images`."""
    programs = environment_of(tmp_path / "server", "moto[s3,server]", shared=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [str(programs / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _make_bucket(f"http://127.0.0.1:{port}/images")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _make_bucket(address: str) -> None:
    """Wait for the server, and put a bucket there."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="PUT")).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_images_go_to_s3_and_come_back(storage: str, tmp_path: Path) -> None:
    programs = environment_of(tmp_path / "client", "dvc-s3", shared=True)
    project, copy = tmp_path / "project", tmp_path / "copy"
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keys = {**dict.fromkeys(names, "test"), "AWS_DEFAULT_REGION": "us-east-1"}
    people = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    author = {f"GIT_{name}": "me" for name in people}

    def run(folder: Path, *command: str) -> None:
        environment = {**os.environ, **author, **keys, "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def dvc(folder: Path, *words: str) -> None:
        run(folder, str(programs / "python"), "-m", "dvc", *words)

    images = project / "data/raw/images"
    for i in range(6):
        (images / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"class{i % 2}/{i}.png")
    expected = checksums(images)
    shutil.copy(ROOT / ".gitignore", project)
    run(project, "git", "init", "-q")
    dvc(project, "init", "-q")
    dvc(project, "config", "core.analytics", "false")
    dvc(project, "add", "data/raw/images")
    dvc(project, "remote", "add", "-d", "storage", "s3://images/rapipe")
    dvc(project, "remote", "modify", "storage", "endpointurl", storage)
    dvc(project, "push")
    run(project, "git", "add", "data/raw", ".dvc", ".gitignore")
    run(project, "git", "commit", "-qm", "Images")

    run(tmp_path, "git", "clone", "-q", str(project), str(copy))
    assert not checksums(copy / "data")
    dvc(copy, "pull")
    assert checksums(copy / "data/raw/images") == expected

    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(images)
    dvc(project, "pull")
    assert checksums(images) == expected
    assert len(expected) == 6
