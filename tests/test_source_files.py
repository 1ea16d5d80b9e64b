"""Which files of a folder, a zip or a tar file are images, and which split and class they have."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from rapipe.corpus.decode import Decoding, decode
from rapipe.corpus.decode_cache import cache_key
from rapipe.corpus.formats import HEAD, UNREADABLE_SUFFIXES, image_error
from rapipe.corpus.sources import SOURCES, Source, SourceRequest, kind_of
from rapipe.corpus.sources.base import split_in
from rapipe.errors import UserError


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40), 1).save(buffer, kind)
    return buffer.getvalue()


PNG = picture()


def write(root: Path, *names: str, content: bytes = PNG) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def folder(path: Path, labelled: bool = True) -> Source:
    return SOURCES["folder"](SourceRequest(str(path), labelled=labelled))


def read(source: Source, root: Path | str) -> dict[str, list[tuple[str, str]]]:
    """Name below `root` and class of each image by split; images with an error have that."""
    return {
        split: [
            (
                item.location.removeprefix(str(root)).lstrip("/: "),
                item.error or (source.classes[item.label] if item.label >= 0 else ""),
            )
            for item in data.items()
        ]
        for split, data in source.splits.items()
    }


# What an image is


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "P"), ("WEBP", "RGB"), ("BMP", "RGB")),
        *(("BMP", "1"), ("TIFF", "RGB"), ("PPM", "RGB"), ("PPM", "1"), ("AVIF", "RGB")),
        *(("JPEG2000", "RGB"), ("ICO", "RGBA"), ("MPO", "RGB")),
    ],
)
def test_content_tells_an_image_without_a_suffix(kind: str, mode: str) -> None:
    raw = picture(kind, mode)
    for name in ("000", "photo.jpg_large", "photo.jpg.1", "blob.bin", "notes.txt"):
        assert image_error(name, lambda: raw[:HEAD]) == ""


def test_more_first_bytes_of_images() -> None:
    bare = io.BytesIO()
    Image.new("RGB", (8, 8)).save(bare, "JPEG2000", no_jp2=True)
    for raw in (
        bare.getvalue(),
        b"MM\0*\0\0\0\x08",
        b"II+\0\x08\0\0\0",
        b"P5\n# by a camera\n4 4\n255\n",
        b"RIFF\x24\0\0\0WEBPVP8L",
    ):
        assert image_error("x", lambda raw=raw: raw) == ""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (bytes(128) + b"DICM\2\0", "DICOM"),
        (b"v/1\1\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"),
    ],
)
def test_content_tells_an_image_that_must_be_converted(raw: bytes, name: str) -> None:
    error = image_error("IMG_0001", lambda: raw)
    assert error == (
        f"holds an image of the format {name}, which cannot be read: convert it to PNG or JPEG"
    )


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"B", b"BM is short for bookmark, and this is a text", b"P1 is my favourite class"),
        *(b"name,label\na.png,1\n", b"\0\0\x08\3\0\0\0\4", b"PK\3\4", b"%PDF-1.7", b"\0" * HEAD),
        *(b"RIFF\x24\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42\0\0\0\0", b"IIx", b"\0\1\0\0\0\x0f"),
        *(b"\x93NUMPY\1\0", b"<?xml version='1.0'?><annotation>", b"\x1f\x8b\x08", b"{}"),
    ],
)
def test_what_is_no_image(raw: bytes) -> None:
    assert image_error("thing.dat", lambda: raw) is None


def test_a_known_suffix_is_not_opened() -> None:
    def refuse() -> bytes:
        raise AssertionError("opened")

    for suffix in ("png", "JPG", "Jpeg", "j2k", "jpx", "tga", "TIFF"):
        assert image_error(f"a.{suffix}", refuse) == ""
    for suffix in sorted(UNREADABLE_SUFFIXES):
        assert f"is a {suffix} file" in str(image_error(f"a{suffix.upper()}", refuse))


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"none of JPEG, .*, but HEIC: convert it to PNG"),
        (b"<!doctype html><title>404", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"", "it is empty"),
    ],
)
def test_what_is_called_an_image_and_is_none(raw: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^cat.jpg is no image that can be read: .*{sentence}"):
        decode(raw, "cat.jpg", Decoding(8))


# What is passed over, and what cannot be read


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "cat/000", "cat/1.jpg_large", "dog/1.PNG")
    write(tmp_path, "labels.csv", "cat/1.TXT", "dog/2.txt", "dog/README", content=b"words")
    write(tmp_path, "dog/3.12345", "dog/4.a b", content=b"words")
    source = folder(tmp_path)
    assert read(source, tmp_path) == {
        "all": [("cat/000", "cat"), ("cat/1.jpg_large", "cat"), ("dog/1.PNG", "dog")]
    }
    assert source.passed_over == {
        ".csv": 1,
        ".txt": 2,
        "of other suffixes": 2,
        "without a suffix": 1,
    }
    assert list(source.remarks("imgs")) == [
        "imgs: passed over 1 .csv, 2 .txt, 2 of other suffixes, 1 without a suffix"
    ]


LITTER = (
    *("cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/.thumbnails/1.png", "__MACOSX/cat/._1.png"),
    *("$RECYCLE.BIN/x.png", "#recycle/1.png", "System Volume Information/1.png", "cat/Thumbs.db"),
    *("lost+found/1.png", ".Trash-1000/files/1.png", "cat/.AppleDouble/1.png", "cat/desktop.ini"),
    *(".ipynb_checkpoints/1-checkpoint.png", "cat/.picasaoriginals/1.png", "cat/1.png~"),
    *("cat/2.jpg.part", "cat/3.png.crdownload", "cat/4.tmp", "cat/5.jpg_original", "cat/6.THM"),
    *("cat/thumbnails/1.png", "cat/.hidden.png", "cat/._1.png", "cat/.DS_Store"),
)


@pytest.mark.parametrize("packed", ["", "zip", "tar", "gztar"])
def test_litter_is_no_data_wherever_it_lies(tmp_path: Path, packed: str) -> None:
    root = tmp_path / "in"
    write(root, "cat/1.png", "dog/1.png", *LITTER)
    path = Path(shutil.make_archive(str(tmp_path / "all"), packed, root)) if packed else root
    source = folder(path)
    assert read(source, path) == {"all": [("cat/1.png", "cat"), ("dog/1.png", "dog")]}
    folders = (
        *("#recycle/", "$RECYCLE.BIN/", ".AppleDouble/", ".Trash-1000/", ".ipynb_checkpoints/"),
        *(".picasaoriginals/", ".thumbnails/", "@eaDir/", "System Volume Information/"),
        *("__MACOSX/", "lost+found/", "thumbnails/"),
    )
    files = (".crdownload", ".part", ".thm", ".tmp", "Thumbs.db", "_original", "desktop.ini", "~")
    assert source.passed_over == dict.fromkeys((*folders, *files, "hidden"), 1)


def test_plausible_classes_are_no_litter(tmp_path: Path) -> None:
    names = ["recycled", "thumb", "thumbs_up", "cache", "tmp", "hidden", "original", "part"]
    write(tmp_path, *(f"{name}/1.png" for name in names))
    assert folder(tmp_path).classes == tuple(sorted(names))
    assert not folder(tmp_path).passed_over


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/2.png").symlink_to("/mnt/annex/2.png")
    (tmp_path / "cat/3").symlink_to("/mnt/annex/3")
    (tmp_path / "cat/notes.txt").symlink_to("/mnt/annex/notes.txt")
    (tmp_path / "fish").symlink_to("/mnt/annex/fish")
    (tmp_path / "dog/2.png").symlink_to("2.png")
    os.mkfifo(tmp_path / "dog/3.png")
    source = folder(tmp_path)
    missing = "is a link to '/mnt/annex/{}', which does not exist"
    assert read(source, tmp_path)["all"] == [
        ("fish", missing.format("fish")),
        ("cat/1.png", "cat"),
        ("cat/2.png", missing.format("2.png")),
        ("cat/3", missing.format("3")),
        ("dog/1.png", "dog"),
        (
            "dog/2.png",
            "is a link to '2.png', which cannot be read: Too many levels of symbolic links",
        ),
        ("dog/3.png", "is no regular file"),
    ]
    assert source.passed_over == {"that cannot be read": 1}


def test_a_mended_link_is_decoded_again(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")

    def key() -> str:
        request = SourceRequest(str(tmp_path))
        return cache_key("folder", request, SOURCES["folder"](request), Decoding(8))

    keys = [key()]
    (tmp_path / "cat/2.png").symlink_to(tmp_path / "elsewhere.png")
    keys.append(key())
    (tmp_path / "elsewhere.png").write_bytes(PNG)
    (tmp_path / "elsewhere.png").rename(tmp_path / "cat/2.png")
    keys.append(key())
    assert len(set(keys)) == 3


def test_a_folder_that_two_links_share_is_read_twice(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "1.png")
    for name in ("train/cat", "test/cat"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    assert read(folder(tmp_path / "in"), tmp_path / "in") == {
        "train": [("train/cat/1.png", "cat")],
        "test": [("test/cat/1.png", "cat")],
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path, "cat/1", "dog/1.png")
    (tmp_path / "cat/1").chmod(0)
    assert ("cat/1", "cannot be read: Permission denied") in read(folder(tmp_path), tmp_path)["all"]
    (tmp_path / "cat").chmod(0)
    with pytest.raises(UserError, match="cat cannot be read: Permission denied"):
        folder(tmp_path)
    (tmp_path / "cat").chmod(0o700)


# Splits and classes


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Val", "validation"), ("seg_train", "train"), ("test_set", "test")),
        *(("Train-Images", "train"), ("trainImages", "train"), ("val2017", "validation")),
        *(("training_set", "train"), ("imagesTest", "test"), ("DEV", "validation")),
        *(("constraint", ""), ("contest", ""), ("trainer", ""), ("train_test", ""), ("", "")),
    ],
)
def test_words_that_are_splits(name: str, split: str) -> None:
    assert split_in(name) == split


LAYOUTS = {
    "one level too deep": ("seg_train/seg_train", "seg_test/seg_test"),
    "names of splits in words": ("training_set", "test_set"),
    "repeated names": ("train/train", "test/test"),
    "in a folder of its own": ("data/train", "data/test"),
    "in a folder of the same name, and deeper": ("in/in/Train/train", "in/in/Test/test"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", ["", "zip", "gztar"])
def test_splits_are_found_where_people_put_them(tmp_path: Path, layout: str, packed: str) -> None:
    root = tmp_path / "in"
    for base in LAYOUTS[layout]:
        write(root, f"{base}/forest/1.png", f"{base}/sea/2021/1.png")
    path = Path(shutil.make_archive(str(tmp_path / "in"), packed, root)) if packed else root
    source = folder(path)
    assert source.classes == ("forest", "sea")
    train, test = LAYOUTS[layout]
    assert read(source, path) == {
        "train": [(f"{train}/forest/1.png", "forest"), (f"{train}/sea/2021/1.png", "sea")],
        "test": [(f"{test}/forest/1.png", "forest"), (f"{test}/sea/2021/1.png", "sea")],
    }


def test_how_names_are_read_is_said(tmp_path: Path) -> None:
    write(tmp_path, "seg_train/sea/1.png", "seg_test/sea/1.png")
    assert folder(tmp_path).hints == ("reads the folders seg_test as test, seg_train as train",)
    write(tmp_path, "seg_pred/1.png")
    with pytest.raises(UserError, match="has the folder 'seg_pred' beside 'seg_test', 'seg_tr"):
        folder(tmp_path)
    (tmp_path / "seg_pred").rename(tmp_path / "train_masks")
    with pytest.raises(UserError, match=r"two folders for one split \('seg_test', 'seg_train', 't"):
        folder(tmp_path)


def test_classes_with_words_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "bullet_train/1.png", "test_tube/1.png", "dog/1.png")
    assert folder(tmp_path).classes == ("bullet_train", "dog", "test_tube")
    shutil.rmtree(tmp_path / "test_tube")
    assert list(folder(tmp_path).splits) == ["all"]
    assert not folder(tmp_path).hints


def test_classes_that_hold_splits_are_refused(tmp_path: Path) -> None:
    write(tmp_path, *(f"{c}/{s}/1.png" for c in ("cat", "dog") for s in ("train", "test")))
    with pytest.raises(
        UserError, match=r"'cat', 'dog' of .* hold splits \('test', 'train'\): let splits lie above"
    ):
        folder(tmp_path)
    assert folder(tmp_path, labelled=False).splits["all"].size == 4


def test_classes_that_hold_the_same_folders_are_told_of(tmp_path: Path) -> None:
    write(tmp_path, *(f"{b}/{c}/1.png" for b in ("part1", "part2") for c in ("cat", "dog")))
    source = folder(tmp_path)
    assert source.classes == ("part1", "part2")
    assert source.hints[0].startswith(
        "the classes 'part1', 'part2' hold folders only ('cat', 'dog'), the same in each: if those"
    )
    write(tmp_path, "part1/1.png")
    assert not folder(tmp_path).hints


def test_years_below_classes_stay_deeper_files(tmp_path: Path) -> None:
    write(tmp_path, "cat/2021/1.png", "cat/2022/1.png", "dog/2022/1.png")
    source = folder(tmp_path)
    assert [label for _, label in read(source, tmp_path)["all"]] == ["cat", "cat", "dog"]
    assert not source.hints


def test_one_class_of_folders_is_told_of(tmp_path: Path) -> None:
    write(tmp_path, "data/cat/1.png", "data/dog/1.png")
    source = folder(tmp_path)
    assert source.classes == ("data",)
    assert "'data' hold folders only ('cat', 'dog')" in source.hints[0]


def test_a_class_folder_without_images_stays_a_class(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    write(tmp_path, "fish/1.txt", content=b"words")
    assert folder(tmp_path).classes == ("cat", "dog", "fish")


# Files in place of folders


@pytest.fixture(params=["zip", "tar", "gztar", "bztar", "xztar"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write(tmp_path / "in", "pets/dog/b.png", "pets/cat/a", "pets/cat/c.heic", "pets/fish/1.png")
    write(tmp_path / "in", "pets/dog/b.txt", content=b"words")
    return Path(shutil.make_archive(str(tmp_path / "all"), request.param, tmp_path / "in"))


def test_an_archive_is_read_as_it_is(archive: Path, tmp_path: Path) -> None:
    source = folder(archive)
    assert source.classes == ("cat", "dog", "fish")
    assert source.files == (archive,)
    assert source.passed_over == {".txt": 1}
    items = {item.location: item for item in source.splits["all"].items()}
    assert {
        location.removeprefix(f"{archive}: "): (bytes(item.data), item.label)
        for location, item in items.items()
    } == {
        "pets/cat/a": (PNG, 0),
        "pets/cat/c.heic": (b"", 0),
        "pets/dog/b.png": (PNG, 1),
        "pets/fish/1.png": (PNG, 2),
    }
    assert items[f"{archive}: pets/cat/c.heic"].error.startswith("is a .heic file")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", archive.name])


def test_a_damaged_archive_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is no (zip|tar) file that can be read|is a file, not a"):
        list(folder(archive).splits["all"].items())


def test_a_tar_file_that_is_cut_between_members_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", "cat/1.png", "dog/1.png")
    path = Path(shutil.make_archive(str(tmp_path / "all"), "tar", tmp_path / "in"))
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar]
    content = path.read_bytes()
    for end in offsets[1:]:
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="is cut off or damaged before its end"):
            folder(path)
    path.write_bytes(content[: offsets[-1]] + b"x" * 512 + content[offsets[-1] + 512 :])
    with pytest.raises(UserError, match="is cut off or damaged before its end"):
        folder(path)


def test_odd_members_of_archives(tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("cat\\1.png", PNG)  # as some programs of Windows write it
        packed.writestr("./dog/1.png", PNG)
        packed.writestr("../../outside/1.png", PNG)
        link = zipfile.ZipInfo("dog/2.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "1.png")
        packed.mkdir("fish")
    source = folder(path)
    assert source.classes == ("cat", "dog", "fish")
    assert sorted(read(source, path)["all"]) == [
        ("cat/1.png", "cat"),
        ("dog/1.png", "dog"),
        ("dog/2.png", "is a link inside of an archive, which is not followed"),
    ]
    assert source.passed_over == {"../": 1}
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("./cat/1.png", "dog/1.png", "dog/1.png"):  # the last one counts
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
        hard = tarfile.TarInfo("dog/2.png")
        hard.type, hard.linkname = tarfile.LNKTYPE, "dog/1.png"
        tar.addfile(hard)
    assert read(folder(path), path)["all"] == [
        ("cat/1.png", "cat"),
        ("dog/1.png", "dog"),
        ("dog/2.png", "is a link inside of an archive, which is not followed"),
    ]


def test_one_image_is_a_source_without_classes(tmp_path: Path) -> None:
    for name in ("one.png", "one"):
        write(tmp_path, name)
        source = folder(tmp_path / name)
        assert source.classes == ()
        assert read(source, tmp_path) == {"all": [(name, "")]}


def test_files_in_place_of_folders(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "a.parquet", "b.gz", content=b"some words")
    write(tmp_path, "page.zip", content=b"<html><body>403")
    for name, sentence in {
        "a.csv": r"^`path`: .*a\.csv is a file, not a folder \(of files, only images, zip files",
        "a.parquet": "is a file, not a folder .* for Parquet write `kind`: parquet",
        "b.gz": "is a file, not a folder",
        "page.zip": "is an HTML page",
    }.items():
        with pytest.raises(UserError, match=sentence):
            folder(tmp_path / name)
    with pytest.raises(UserError, match=r"holds no images .*, but 1 \.csv, .*; for Parquet write"):
        folder(tmp_path)
    (tmp_path / "gone").symlink_to("/mnt/annex/gone")
    with pytest.raises(UserError, match=r"does not exist, since .*gone is a link to nothing"):
        folder(tmp_path / "gone")
    write(tmp_path, "idx/train-images-idx3-ubyte.gz", content=b"\x1f\x8b\x08")
    with pytest.raises(UserError, match="for IDX files write `kind`: idx"):
        folder(tmp_path / "idx")
    for kind in ("mnist", "cifar10", "cifar10-c", "svhn", "stl10", "tiny-imagenet", "celeba"):
        with pytest.raises(UserError, match=r"a\.csv' is a file, not a folder: for the kind"):
            SOURCES[kind](SourceRequest(str(tmp_path / "a.csv")))
    with pytest.raises(UserError, match=r"a\.csv' is a file; it must be a folder with files NAME"):
        SOURCES["idx"](SourceRequest(str(tmp_path / "a.csv")))


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "imgs/cat/1.png", "imgs/dog/1.png")
    assert folder(Path("~/imgs")).classes == ("cat", "dog")
    with pytest.raises(UserError, match="'~nobody-of-this-name/imgs' begins with ~, but there is"):
        folder(Path("~nobody-of-this-name/imgs"))


def test_the_kind_of_a_path(tmp_path: Path) -> None:
    write(tmp_path, "hub/data/train-0.parquet", "flat/a.parquet", "imgs/cat/1.png", "imgs.zip")
    kinds = {name: kind_of(tmp_path / name) for name in ("hub", "flat", "imgs", "imgs.zip")}
    assert kinds == {"hub": "parquet", "flat": "parquet", "imgs": "folder", "imgs.zip": "folder"}
    assert kind_of(tmp_path / "flat/a.parquet") == "parquet"


def test_only_tables_have_columns(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png")
    for kind in set(SOURCES) - {"parquet"}:
        for request in (SourceRequest(image="photo"), SourceRequest(split="fold")):
            if kind == "cifar10-c" and request.image:
                continue  # it names a corruption
            with pytest.raises(UserError, match=rf"{kind} has no columns, but `(image|split)` is"):
                SOURCES[kind](request)
