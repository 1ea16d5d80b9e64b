"""Mapped arrays are the arrays, and nothing is in memory that need not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rapipe.io import memory_map

ARRAY = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32)


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "a.npy", ARRAY)
    return memory_map.map_array(tmp_path / "a.npy")


def test_a_mapped_array_is_the_array(mapped: np.ndarray) -> None:
    assert np.array_equal(mapped, ARRAY)
    assert memory_map.is_mapped(mapped)
    assert memory_map.is_mapped(mapped[10:, 1:3])
    assert not memory_map.is_mapped(ARRAY)
    memory_map.release_pages()
    assert np.array_equal(mapped, ARRAY)
    memory_map.trim_heap()


def test_a_copy_in_memory_is_made_only_of_what_is_mapped(mapped: np.ndarray) -> None:
    assert memory_map.in_memory(ARRAY) is ARRAY
    copy = memory_map.in_memory(mapped)
    assert copy.flags.owndata
    assert np.array_equal(copy, ARRAY)


def test_what_is_written_to_a_mapping_stays_out_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    memory_map.map_file(path)[0] = ord("x")
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize("rows", [[3, 49, 0, 3, 17], [3, -1, 0, -50], []])
def test_rows_are_those_of_the_array(mapped: np.ndarray, rows: list[int]) -> None:
    numbers = np.array(rows, np.int64)
    for array in (mapped, mapped[:, 1:3], ARRAY):
        expected = np.array(array)[numbers]
        assert np.array_equal(memory_map.take_rows(array, numbers), expected)
        assert np.array_equal(memory_map.lazy_rows(array, numbers)[1:4], expected[1:4])


@pytest.mark.parametrize("outside", [50, -51])
def test_rows_outside_the_array_are_refused(mapped: np.ndarray, outside: int) -> None:
    for array in (mapped, ARRAY):
        with pytest.raises(IndexError):
            memory_map.take_rows(array, np.array([0, outside]))


def test_lazy_rows_may_be_rows_of_lazy_rows(mapped: np.ndarray) -> None:
    lazy = memory_map.lazy_rows(mapped[10:], np.array([3, 39, 0, 3, 17]))
    assert (len(lazy), lazy.shape, lazy.dtype, lazy.ndim) == (5, (5, 5), np.float32, 2)
    nested = memory_map.lazy_rows(lazy, np.array([4, 0]))
    assert np.array_equal(nested[:2], ARRAY[[27, 13]])


def test_blocks_make_the_file_that_numpy_writes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    memory_map.write_array(
        tmp_path / "b.npy", ARRAY.shape, (ARRAY[i : i + 7] for i in range(0, 50, 7))
    )
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    for blocks in ([ARRAY[1:]], [ARRAY, ARRAY], [ARRAY[:, 1:]]):
        with pytest.raises(ValueError, match=r"rows were written|does not fit"):
            memory_map.write_array(tmp_path / "c.npy", ARRAY.shape, blocks)


def test_an_empty_array_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.empty((0, 5), np.float32))
    assert memory_map.map_array(path).shape == (0, 5)
    np.save(path, np.asfortranarray(ARRAY))
    with pytest.raises(ValueError, match="objects, or columns"):
        memory_map.map_array(path)
    np.save(path, ARRAY)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="less than it promises"):
        memory_map.map_array(path)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="magic"):
        memory_map.map_array(path)


def test_every_flipped_bit_of_a_header_is_an_array_or_a_value_error(tmp_path: Path) -> None:
    """NumPy parses it as Python, and raises what that raises."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6, dtype=np.uint8))
    good = path.read_bytes()
    refused = 0
    for bit in range(8 * 128):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        for read in (memory_map.load_array, memory_map.map_array):
            try:
                read(path)
            except ValueError:
                refused += 1
    assert refused > 100
