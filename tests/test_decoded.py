"""Decoding in processes: kills, damage to what is kept, and two at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import (
    PIXELS,
    ROWS,
    SKIPPED,
    Decoded,
    Workers,
    decode_split,
    lock_of,
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


def started(folder: Path, images: int, wait: str = "") -> subprocess.Popen[str]:
    """A process that decodes into a folder."""
    script = folder.parent.parent / "decode.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), str(folder), str(images), wait]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def greys(n: int) -> Split:
    """As the process has them."""

    def items() -> Iterator[Item]:
        for row in range(n):
            yield Item(np.full((8, 8), row % 256, np.uint8), row % 2, f"row {row}")

    return Split(n, items)


def check(folder: Path, n: int) -> None:
    """What is kept is what was to be decoded."""
    kept = Decoded.read(folder, 8)
    assert kept is not None
    pixels = np.concatenate(list(kept.pixels(np.arange(n))))
    assert np.array_equal(pixels[:, 0, 0, 0], np.arange(n) % 256)
    assert np.array_equal(kept.labels, np.arange(n) % 2)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "key" / "train"
    process = started(folder, 160, "wait")
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
    with Workers() as own:  # nor does what it left stand in the way
        decode_split(greys(40), "s", Decoding(8), False, folder, own)
    check(folder, 40)
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def test_two_processes_that_decode_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "key" / "train"
    pair = [started(folder, 200) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    check(folder, 200)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (PIXELS, ROWS, SKIPPED, CHECKSUMS)
    )


def test_a_folder_in_use_is_told(tmp_path: Path) -> None:
    with (
        file_lock(lock_of(tmp_path / "key"), "") as first,
        file_lock(lock_of(tmp_path / "key"), "", wait=False) as second,
    ):
        assert first
        assert not second
    with file_lock(lock_of(tmp_path / "key"), "", wait=False) as third:
        assert third


@pytest.mark.parametrize("name", [PIXELS, ROWS, SKIPPED])
def test_any_change_of_what_is_kept_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "key" / "train"

    def decode() -> Decoded:
        with Workers() as workers:
            return decode_split(greys(30), "s", Decoding(8), False, folder, workers)

    decode()
    whole = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:-1], whole + b"\0"]
    for place in rng.integers(0, len(whole), 40).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        (folder / name).write_bytes(content)
        assert Decoded.read(folder, 8) is None
    decode()
    check(folder, 30)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert Decoded.read(folder, 8) is None
    decode()
    check(folder, 30)


def test_labels_that_no_number_here_holds(tmp_path: Path) -> None:
    def items() -> Iterator[Item]:
        yield Item(np.zeros((8, 8), np.uint8), 0, "row 0")
        yield Item(np.zeros((8, 8), np.uint8), 2**70, "row 1", "has a label that is too large")

    with Workers() as workers:
        found = decode_split(Split(2, items), "s", Decoding(8), True, tmp_path / "k/all", workers)
    assert found.labels.tolist() == [0]
    assert [one.where for one in found.skipped] == ["row 1"]
