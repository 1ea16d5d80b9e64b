"""Decoding in processes: kills, damage to the cache, and two processes at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from rapipe.corpus import decode_cache
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import (
    LOCATIONS,
    PIXELS,
    ROWS,
    SKIPPED,
    DecodedSplit,
    Workers,
    decode_split,
    lock_path,
)
from rapipe.corpus.sources.base import Item, Split
from rapipe.io.checksums import CHECKSUMS
from rapipe.io.locks import file_lock

CODE = """
import sys
from pathlib import Path
import numpy as np
from rapipe.corpus import decode_cache
from rapipe.corpus.decode import Decoding
from rapipe.corpus.sources.base import Item, Split

def items():
    for row in range(int(sys.argv[2])):
        yield Item(np.full((8, 8), row % 256, np.uint8), row % 2, f"row {row}")
    if sys.argv[3] == "wait":
        print("decoding", flush=True)
        sys.stdin.readline()

if __name__ == "__main__":
    decode_cache.CHUNK_IMAGES = 16
    with decode_cache.Workers() as workers:
        workers.count = 2
        split = Split(int(sys.argv[2]), items)
        decode_cache.decode_split(split, "s", Decoding(8), False, Path(sys.argv[1]), workers)
"""


def start_decoding(folder: Path, images: int, wait: str = "") -> subprocess.Popen[str]:
    """A process that decodes into a folder."""
    script = folder.parent.parent / "decode.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), str(folder), str(images), wait]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def greys(n: int) -> Split:
    """The images that the process decodes."""

    def items() -> Iterator[Item]:
        for row in range(n):
            yield Item(np.full((8, 8), row % 256, np.uint8), row % 2, f"row {row}")

    return Split(n, items)


def check(folder: Path, n: int) -> None:
    """The cache holds these images."""
    decoded = DecodedSplit.read(folder, 8)
    assert decoded is not None
    pixels = np.concatenate(list(decoded.pixels(np.arange(n))))
    assert np.array_equal(pixels[:, 0, 0, 0], np.arange(n) % 256)
    assert np.array_equal(decoded.labels, np.arange(n) % 2)
    assert list(decoded.locations()) == [f"row {row}" for row in range(n)]


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "key" / "train"
    process = start_decoding(folder, 160, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "decoding\n"
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert workers
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    with Workers() as workers_of_test:  # its leftovers are no obstacle
        decode_split(greys(40), "s", Decoding(8), False, folder, workers_of_test)
    check(folder, 40)
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def test_two_processes_that_decode_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "key" / "train"
    pair = [start_decoding(folder, 200) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    check(folder, 200)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (PIXELS, ROWS, SKIPPED, LOCATIONS, CHECKSUMS)
    )


def test_a_folder_in_use_is_locked(tmp_path: Path) -> None:
    with (
        file_lock(lock_path(tmp_path / "key"), "") as first,
        file_lock(lock_path(tmp_path / "key"), "", wait=False) as second,
    ):
        assert first
        assert not second
    with file_lock(lock_path(tmp_path / "key"), "", wait=False) as third:
        assert third


@pytest.mark.parametrize("name", [PIXELS, ROWS, SKIPPED, LOCATIONS])
def test_any_damage_to_the_cache_is_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "key" / "train"

    def decode() -> DecodedSplit:
        with Workers() as workers:
            return decode_split(greys(30), "s", Decoding(8), False, folder, workers)

    decode()
    intact = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", intact[:-1], intact + b"\0"]
    for i in rng.integers(0, len(intact), 40).tolist():
        flipped = bytearray(intact)
        flipped[i] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        (folder / name).write_bytes(content)
        assert DecodedSplit.read(folder, 8) is None
    decode()
    check(folder, 30)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert DecodedSplit.read(folder, 8) is None
    decode()
    check(folder, 30)


def test_labels_beyond_64_bits(tmp_path: Path) -> None:
    def items() -> Iterator[Item]:
        yield Item(np.zeros((8, 8), np.uint8), 0, "row 0")
        yield Item(np.zeros((8, 8), np.uint8), 2**70, "row 1", "has a label that is too large")

    with Workers() as workers:
        decoded = decode_split(Split(2, items), "s", Decoding(8), True, tmp_path / "k/all", workers)
    assert decoded.labels.tolist() == [0]
    assert [image.location for image in decoded.skipped] == ["row 1"]


def test_without_locks_between_processes_one_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")  # as without /dev/shm

    monkeypatch.setattr(decode_cache, "ProcessPoolExecutor", refuse)
    monkeypatch.setattr(decode_cache, "CHUNK_IMAGES", 4)
    with Workers(3) as workers:
        decoded = decode_split(greys(30), "train", Decoding(8), False, tmp_path / "split", workers)
    assert decoded.positions.tolist() == list(range(30))
    said = capsys.readouterr().err
    assert said.count("one process decodes images, since processes cannot share locks") == 1
