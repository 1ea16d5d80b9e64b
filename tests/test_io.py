"""Atomic files and folders, checksums, and JSON that carries its own."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write, part_path
from rapipe.io.checksums import CHECKSUMS, check_unchanged, verify_checksums, watch, write_checksums
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import NoChecksum, checksummed_json, parse_checksummed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with checksum files, a file, and a file in an inner folder."""
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("made")) as part:
        (part / "a.txt").write_text("one")
        (part / "inside").mkdir()
        (part / "inside/b.txt").write_text("two")
    return Path("made")


def test_a_folder_is_what_was_written(folder: Path) -> None:
    for path in (folder, folder / "a.txt", folder / "inside", folder / "inside/b.txt"):
        verify_checksums(path, "make")
    assert not list(Path().glob("*.part"))


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
def test_a_checksum_file_is_one_of_sha256sum(folder: Path) -> None:
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "a.txt: OK\n"
    done = subprocess.run(command, cwd=folder / "inside", capture_output=True, check=False)
    assert done.stdout == b"b.txt: OK\n"


def test_an_inner_folder_is_verified_without_the_rest(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    verify_checksums(folder / "inside", "make")
    verify_checksums(folder / "inside/b.txt", "make")
    with pytest.raises(UserError, match="has no checksum file"):
        verify_checksums(folder / "a.txt", "make")


def test_a_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with atomic_folder(folder) as part:
        (part / "a.txt").write_text("new")
    verify_checksums(folder, "make")
    assert folder.is_symlink()
    assert (folder / "a.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "made"]


@pytest.mark.parametrize("name", ["a.txt", "inside/b.txt", CHECKSUMS])
@pytest.mark.parametrize("damage", ["missing", "empty", "another"])
def test_damage_is_reported_with_the_file_and_the_command(
    folder: Path, name: str, damage: str
) -> None:
    verify_checksums(folder, "make")  # a verified file is verified again if its stamp changes
    if name == CHECKSUMS:  # which is not read again for files that were verified
        watch()
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(b"" if damage == "empty" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(UserError, match=r"^made.*: run rapipe make, or dvc repro$") as caught:
        verify_checksums(folder, "make")
    assert name in str(caught.value) or name == CHECKSUMS


def test_a_file_that_the_checksum_file_lacks_is_reported(folder: Path) -> None:
    (folder / "more.txt").write_text("three")
    with pytest.raises(UserError, match=r"more\.txt is not what was written"):
        verify_checksums(folder, "make")
    verify_checksums(folder / "a.txt", "make")
    for ignored in (".DS_Store", "Thumbs.db", ".ipynb_checkpoints/a-checkpoint.txt"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / "more.txt").rename(folder / ignored)
        verify_checksums(folder, "make")
        (folder / ignored).rename(folder / "more.txt")


def test_a_change_during_use_is_reported(folder: Path) -> None:
    for watched, reported in ((Path("other"), False), (folder, True)):
        watch([watched])
        verify_checksums(folder, "make")
        check_unchanged()
        (folder / "a.txt").touch()
        check_unchanged()
        data = (folder / "a.txt").read_bytes()
        (folder / "a.txt").unlink()
        if reported:
            with pytest.raises(UserError, match=r"made/a\.txt was rewritten while it was used"):
                check_unchanged()
            with (
                pytest.raises(UserError, match="was rewritten"),
                atomic_folder(Path("later")) as part,
            ):
                (part / "b.txt").write_text("computed from a changed file")
            assert not Path("later").exists()
        else:
            check_unchanged()
        (folder / "a.txt").write_bytes(data)
    watch()


def test_a_folder_that_is_not_finished_leaves_the_old_one(folder: Path) -> None:
    def fail() -> None:
        with atomic_folder(folder) as part:
            (part / "a.txt").write_text("another")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    verify_checksums(folder, "make")
    assert (folder / "a.txt").read_text() == "one"
    assert not list(Path().glob("*.part"))


def test_leftovers_of_an_earlier_process_are_removed(folder: Path) -> None:
    leftover = part_path(folder)
    leftover.mkdir()
    (leftover / "half").write_text("half")
    with atomic_folder(folder) as part:
        (part / "a.txt").write_text("new")
    assert sorted(path.name for path in folder.iterdir()) == [CHECKSUMS, "a.txt"]


def test_a_full_disk_names_the_file_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic_write(path, b"new")
    assert caught.value.filename == f"{path}.part"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_json_with_a_checksum_reveals_every_change() -> None:
    content = {"a": [1, 2.5, None], "2": {"ü": "x"}, "10": True}
    text = checksummed_json(content)
    assert parse_checksummed(text) == content
    assert checksummed_json({2: "x", 10: "y"}) == checksummed_json({"2": "x", "10": "y"})  # type: ignore[dict-item]
    for i in range(len(text)):
        changed = text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :]
        try:
            parsed = parse_checksummed(changed)
        except ValueError:
            continue
        assert parsed == content  # white space
    with pytest.raises(NoChecksum):
        parse_checksummed('{"a": 1}')
    with pytest.raises(ValueError, match="JSON"):
        checksummed_json({"a": float("nan")})


def test_checksum_files_do_not_depend_on_the_order_of_files(folder: Path) -> None:
    before = (folder / CHECKSUMS).read_bytes()
    data = (folder / "a.txt").read_bytes()
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_bytes(data)
    write_checksums(folder)
    assert (folder / CHECKSUMS).read_bytes() == before
