"""Files that are whole or not there, and hash cards."""

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
    """A sealed folder with a file, and a file in a folder inside."""
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("made")) as part:
        (part / "a.txt").write_text("one")
        (part / "inside").mkdir()
        (part / "inside/b.txt").write_text("two")
    return Path("made")


def test_a_sealed_folder_is_what_was_written(folder: Path) -> None:
    for path in (folder, folder / "a.txt", folder / "inside", folder / "inside/b.txt"):
        verify_checksums(path, "make")
    assert not list(Path().glob("*.part"))


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
def test_a_hash_card_is_one_of_sha256sum(folder: Path) -> None:
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "a.txt: OK\n"
    done = subprocess.run(command, cwd=folder / "inside", capture_output=True, check=False)
    assert done.stdout == b"b.txt: OK\n"


def test_a_folder_inside_is_enough_for_who_needs_no_other(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    verify_checksums(folder / "inside", "make")
    verify_checksums(folder / "inside/b.txt", "make")
    with pytest.raises(UserError, match="has no hash card"):
        verify_checksums(folder / "a.txt", "make")


def test_a_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with atomic_folder(folder) as part:
        (part / "a.txt").write_text("new")
    verify_checksums(folder, "make")
    assert folder.is_symlink()
    assert (folder / "a.txt").read_text() == "new"
    assert sorted(own.name for own in tmp_path.iterdir()) == ["elsewhere", "made"]


@pytest.mark.parametrize("name", ["a.txt", "inside/b.txt", CHECKSUMS])
@pytest.mark.parametrize("way", ["gone", "empty", "another"])
def test_what_was_changed_is_told_with_the_file_and_the_command(
    folder: Path, name: str, way: str
) -> None:
    verify_checksums(
        folder, "make"
    )  # what was compared before is compared again when it looks otherwise
    if name == CHECKSUMS:  # which need not be read again for files that are as they were
        watch()
    path = folder / name
    if way == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(b"" if way == "empty" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(UserError, match=r"^made.*: run rapipe make, or dvc repro$") as caught:
        verify_checksums(folder, "make")
    assert name in str(caught.value) or name == CHECKSUMS


def test_a_file_that_is_not_on_the_card_is_told(folder: Path) -> None:
    (folder / "more.txt").write_text("three")
    with pytest.raises(UserError, match=r"more\.txt is not what was written"):
        verify_checksums(folder, "make")
    verify_checksums(folder / "a.txt", "make")
    for litter in (".DS_Store", "Thumbs.db", ".ipynb_checkpoints/a-checkpoint.txt"):
        (folder / litter).parent.mkdir(exist_ok=True)
        (folder / "more.txt").rename(folder / litter)
        verify_checksums(folder, "make")
        (folder / litter).rename(folder / "more.txt")


def test_what_changes_while_it_is_used_is_told(folder: Path) -> None:
    for watched, noticed in ((Path("other"), False), (folder, True)):
        watch([watched])
        verify_checksums(folder, "make")
        check_unchanged()
        (folder / "a.txt").touch()
        check_unchanged()
        data = (folder / "a.txt").read_bytes()
        (folder / "a.txt").unlink()
        if noticed:
            with pytest.raises(UserError, match=r"made/a\.txt was rewritten while it was used"):
                check_unchanged()
            with (
                pytest.raises(UserError, match="was rewritten"),
                atomic_folder(Path("later")) as part,
            ):
                (part / "b.txt").write_text("made of what is gone")
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


def test_what_an_earlier_process_left_is_not_taken_for_whole(folder: Path) -> None:
    left = part_path(folder)
    left.mkdir()
    (left / "half").write_text("half")
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
    assert [own.read_bytes() for own in tmp_path.iterdir()] == [b"old"]


def test_json_that_stands_alone_tells_of_every_change() -> None:
    content = {"a": [1, 2.5, None], "2": {"ü": "x"}, "10": True}
    text = checksummed_json(content)
    assert parse_checksummed(text) == content
    assert checksummed_json({2: "x", 10: "y"}) == checksummed_json({"2": "x", "10": "y"})  # type: ignore[dict-item]
    for place in range(len(text)):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            found = parse_checksummed(changed)
        except ValueError:
            continue
        assert found == content  # white space
    with pytest.raises(NoChecksum):
        parse_checksummed('{"a": 1}')
    with pytest.raises(ValueError, match="JSON"):
        checksummed_json({"a": float("nan")})


def test_seals_do_not_depend_on_the_order_of_files(folder: Path) -> None:
    before = (folder / CHECKSUMS).read_bytes()
    data = (folder / "a.txt").read_bytes()
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_bytes(data)
    write_checksums(folder)
    assert (folder / CHECKSUMS).read_bytes() == before
