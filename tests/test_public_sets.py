"""Public data sets, from small archives in their official layouts, made here."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rapipe.corpus.sources import SOURCES, Source, SourceRequest
from rapipe.corpus.sources.archives import unpack
from rapipe.corpus.sources.download import md5_of
from rapipe.errors import UserError

celeba, cifar, cifar10_c, mnist, stl10, svhn, tiny_imagenet = (
    import_module(f"rapipe.corpus.sources.{name}")  # the package has functions of these names
    for name in ("celeba", "cifar", "cifar10_c", "mnist", "stl10", "svhn", "tiny_imagenet")
)
RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (10, 4))


def read(source: Source, split: str) -> tuple[list[Any], list[int]]:
    """Data and labels of a split; its size and its lack of errors are checked."""
    items = list(source.splits[split].items())
    assert len(items) == source.splits[split].size
    assert not [item.error for item in items if item.error]
    return [item.data for item in items], [item.label for item in items]


def tar(path: Path, files: dict[str, bytes]) -> str:
    """Write a tar.gz file; returns its md5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return md5_of(path)


def planes(images: np.ndarray) -> np.ndarray:
    """Images as rows of planes: (N, H, W, 3) to (N, 3HW)."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary(images: np.ndarray, labels: list[list[int]]) -> bytes:
    """Rows of CIFAR's binary version."""
    return np.hstack([np.array(labels, np.uint8), planes(images)]).tobytes()


def cifar10_files() -> dict[str, bytes]:
    top = "cifar-10-batches-bin/"
    files = {top + "batches.meta.txt": b"cat\ndog\n\n"}
    for i in range(5):
        rows = slice(2 * i, 2 * i + 2)
        files[f"{top}data_batch_{i + 1}.bin"] = binary(TRAIN[rows], [[0], [1]])
    files[top + "test_batch.bin"] = binary(TEST, [[1], [0], [1], [0]])
    return files


def check_cifar10(source: Source) -> None:
    assert source.classes == ("cat", "dog")
    for split, images, labels in (("train", TRAIN, [0, 1] * 5), ("test", TEST, [1, 0] * 2)):
        data, numbers = read(source, split)
        assert numbers == labels
        assert np.array_equal(np.stack(data), images)


def test_cifar10_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "raw/cifar10"
    md5 = tar(root / cifar.CIFAR10.name, cifar10_files())
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, md5=md5))
    check_cifar10(SOURCES["cifar10"](SourceRequest(home=tmp_path / "raw")))
    assert sorted(p.name for p in root.iterdir()) == [
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
    ]
    (root / cifar.CIFAR10.name).unlink()
    for path in (root, root / "cifar-10-batches-bin"):
        check_cifar10(SOURCES["cifar10"](SourceRequest(str(path))))


class Exploit:
    """Unpickling it would run a command."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_cifar10_python_version_is_read_and_never_unpickled(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[bytes, Any]) -> None:
        (folder / name).write_bytes(pickle.dumps({**content, b"z": Exploit()}, protocol))

    for i in range(5):
        pixels = planes(TRAIN[2 * i : 2 * i + 2])
        name = f"training batch {i + 1} of 5".encode()
        files = [b"a.png", b"b.png"]
        batch = {b"batch_label": name, b"labels": [0, 1], b"data": pixels, b"filenames": files}
        write(f"data_batch_{i + 1}", batch)
    write("test_batch", {b"data": planes(TEST), b"labels": [1, 0, 1, 0], b"filenames": [b"x"]})
    write("batches.meta", {b"num_cases_per_batch": 2, b"label_names": [b"cat", b"dog"]})
    check_cifar10(SOURCES["cifar10"](SourceRequest(str(tmp_path))))
    (folder / "test_batch").write_bytes(b"\x80\x02}q")
    with pytest.raises(UserError, match=r"test_batch is damaged"):
        SOURCES["cifar10"](SourceRequest(str(tmp_path)))


def write_cifar10_c(folder: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Files of two images at each of five severities; other arrays in their place."""
    shape = (10, 32, 32, 3)
    images = {name: RNG.integers(0, 256, shape, dtype=np.uint8) for name in ("fog", "snow")}
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**images, "labels": np.array([3, 9] * 5), **arrays}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def test_cifar10_c_by_corruption_and_severity(tmp_path: Path) -> None:
    arrays = write_cifar10_c(tmp_path / "raw/cifar10-c/CIFAR-10-C")
    write_cifar10_c(tmp_path / "bare")
    for severity in range(1, 6):
        request = SourceRequest(home=tmp_path / "raw", image=f"snow:{severity}")
        source = SOURCES["cifar10-c"](request)
        data, labels = read(source, "test")
        rows = slice(2 * severity - 2, 2 * severity)
        assert np.array_equal(np.stack(data), arrays["snow"][rows])
        assert labels == [3, 9]
        assert [item.location[-7:] for item in source.splits["test"].items()] == [
            f"image {row}" for row in range(10)[rows]
        ]
    assert [*source.splits] == ["test"]
    assert (len(source.classes), source.classes[3], source.classes[9]) == (10, "cat", "truck")
    read(SOURCES["cifar10-c"](SourceRequest(str(tmp_path / "bare"), image="fog:1")), "test")


def test_cifar10_c_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10_c(tmp_path / "files")
    files = {f"CIFAR-10-C/{p.name}": p.read_bytes() for p in (tmp_path / "files").iterdir()}
    request = SourceRequest(str(tmp_path / "set"), image="fog:5")
    with pytest.raises(
        UserError, match=r"CIFAR-10-C\.tar is missing: put the file from https://ze"
    ):
        SOURCES["cifar10-c"](request)
    md5 = tar(tmp_path / "set" / cifar10_c.ARCHIVE.name, files)
    monkeypatch.setattr(cifar10_c, "ARCHIVE", replace(cifar10_c.ARCHIVE, md5=md5))
    assert read(SOURCES["cifar10-c"](request), "test")[1] == [3, 9]


@pytest.mark.parametrize("image", ["", "fog", "fog:0", "fog:6", "rain:1", "labels:1", "../x/fog:1"])
def test_what_is_no_corruption_of_cifar10_c_names_the_files(tmp_path: Path, image: str) -> None:
    write_cifar10_c(tmp_path)
    (tmp_path / "._fog.npy").write_bytes(b"litter")
    with pytest.raises(UserError, match=r"`image` is '.*a severity from 1 to 5.* has fog, snow$"):
        SOURCES["cifar10-c"](SourceRequest(str(tmp_path), image=image))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"fog": np.zeros((10, 32, 32), np.uint8)},
            r"fog\.npy holds an array of shape \(10, 32, 32",
        ),
        ({"fog": np.zeros((10, 32, 32, 3))}, r"type float64, not images of 32 x 32 x 3 bytes"),
        ({"fog": np.zeros((5, 32, 32, 3), np.uint8)}, "fog.npy holds 5 images, but .* 10 labels"),
        ({"labels": np.zeros((10, 1), int)}, r"labels\.npy holds an array of shape \(10, 1\)"),
        ({"labels": np.zeros(10)}, r"type float64, not labels"),
        ({"labels": np.arange(10)}, "does not hold the same labels for each of 5 severities"),
        (
            {"labels": np.zeros(9, int), "fog": np.zeros((9, 32, 32, 3), np.uint8)},
            "does not hold the same labels for each of 5 severities",
        ),
        ({"fog": np.array([Exploit()])}, r"fog\.npy cannot be read: it holds objects"),
        ({"labels": np.array([Exploit()])}, r"labels\.npy cannot be read: it holds objects"),
    ],
)
def test_damaged_files_of_cifar10_c(
    tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str
) -> None:
    write_cifar10_c(tmp_path, **arrays)
    with pytest.raises(UserError, match=sentence):
        SOURCES["cifar10-c"](SourceRequest(str(tmp_path), image="fog:1"))


def test_other_damage_of_cifar10_c(tmp_path: Path) -> None:
    write_cifar10_c(tmp_path, labels=np.array([3, 10] * 5))
    request = SourceRequest(str(tmp_path), image="fog:1")
    items = [*SOURCES["cifar10-c"](request).splits["test"].items()]
    assert [item.error for item in items][1].startswith("has the label 10; it must be from 0 to 9")
    content = (tmp_path / "fog.npy").read_bytes()
    for damage in (b"", b"\x80\x04no array", content[:-1], content.replace(b"(10, ", b"(10; ")):
        (tmp_path / "fog.npy").write_bytes(damage)
        with pytest.raises(UserError, match=r"fog\.npy cannot be read"):
            SOURCES["cifar10-c"](request)
    (tmp_path / "fog.npy").write_bytes(content)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"labels\.npy is missing: unpack the archive again"):
        SOURCES["cifar10-c"](request)
    with pytest.raises(UserError, match="cifar10-c has no label 'x'; it has one only"):
        SOURCES["cifar10-c"](replace(request, label="x"))


def test_cifar100_fine_and_coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = "cifar-100-binary/"
    files = {
        top + "coarse_label_names.txt": b"animal\nthing\n",
        top + "fine_label_names.txt": b"ant\nbus\ncat\n",
        top + "train.bin": binary(TRAIN[:3], [[0, 0], [1, 1], [0, 2]]),
        top + "test.bin": binary(TEST[:2], [[0, 2], [1, 1]]),
    }
    md5 = tar(tmp_path / cifar.CIFAR100.name, files)
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, md5=md5))
    fine = SOURCES["cifar100"](SourceRequest(str(tmp_path)))
    assert fine.classes == ("ant", "bus", "cat")
    assert read(fine, "train")[1] == [0, 1, 2]
    coarse = SOURCES["cifar100"](SourceRequest(str(tmp_path), "coarse"))
    assert coarse.classes == ("animal", "thing")
    assert read(coarse, "test")[1] == [0, 1]
    with pytest.raises(UserError, match="cifar100 has no label 'all'; it has fine, coarse"):
        SOURCES["cifar100"](SourceRequest(str(tmp_path), "all"))


def test_stl10_with_its_unlabelled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    raw = [image.transpose(2, 1, 0).tobytes() for image in images]  # column by column
    top = "stl10_binary/"
    files = {
        top + "class_names.txt": b"airplane\nbird\n",
        top + "train_X.bin": raw[0] + raw[1],
        top + "train_y.bin": bytes([2, 1]),
        top + "test_X.bin": raw[2],
        top + "test_y.bin": bytes([1]),
        top + "unlabeled_X.bin": raw[3] + raw[4],
    }
    monkeypatch.setattr(stl10, "ARCHIVE", replace(stl10.ARCHIVE, md5=tar(tmp_path / "x", files)))
    (tmp_path / "x").rename(tmp_path / stl10.ARCHIVE.name)
    source = SOURCES["stl10"](SourceRequest(str(tmp_path)))
    data, labels = read(source, "train")
    assert labels == [1, 0, -1, -1]
    assert np.array_equal(np.stack(data), images[[0, 1, 3, 4]])
    assert read(source, "test")[1] == [0]
    with (tmp_path / "stl10_binary/test_y.bin").open("ab") as file:
        file.write(b"\1")
    with pytest.raises(UserError, match=r"test_X.bin holds 1 images, but .*test_y.bin 2 labels"):
        SOURCES["stl10"](SourceRequest(str(tmp_path)))


def write_idx(path: Path, values: np.ndarray, packed: bool = True) -> str:
    """Write an IDX file; returns its md5."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if packed else content)
    return md5_of(path)


def write_mnist(root: Path, packed: bool = True) -> tuple[str, ...]:
    grey = (TRAIN[..., 0], np.arange(10), TEST[..., 0], np.arange(4))
    names = [name if packed else name.removesuffix(".gz") for name in mnist.FILES]
    return tuple(write_idx(root / n, v, packed) for n, v in zip(names, grey, strict=True))


@pytest.mark.parametrize(
    ("kind", "md5", "first"),
    [("mnist", "MNIST_MD5", "0"), ("fashion-mnist", "FASHION_MD5", "T-shirt/top")],
)
def test_mnist_and_fashion_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, md5: str, first: str
) -> None:
    monkeypatch.setattr(mnist, md5, write_mnist(tmp_path / kind))
    source = SOURCES[kind](SourceRequest(home=tmp_path))
    assert len(source.classes) == 10
    assert source.classes[0] == first
    data, labels = read(source, "train")
    assert np.array_equal(np.stack(data), TRAIN[..., 0])
    assert labels == list(range(10))
    assert read(source, "test")[1] == [0, 1, 2, 3]


def test_unpacked_mnist_needs_no_checksum_and_packed_does(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw", packed=False)
    assert read(SOURCES["mnist"](SourceRequest(str(tmp_path))), "test")[1] == [0, 1, 2, 3]
    write_mnist(tmp_path / "other")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz has the md5 \w+, but"):
        SOURCES["mnist"](SourceRequest(str(tmp_path / "other")))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is missing: put the file"):
        SOURCES["mnist"](SourceRequest(home=tmp_path))


def test_an_interrupted_download_of_several_files_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MNIST_MD5", write_mnist(tmp_path / "mnist"))
    (tmp_path / "mnist" / mnist.FILES[1]).unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is missing: put the file"):
        SOURCES["mnist"](SourceRequest(home=tmp_path))


def test_any_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path / "a/letters-train-images-idx4-ubyte", TRAIN, packed=False)
    write_idx(tmp_path / "a/letters-train-labels-idx1-ubyte.gz", np.arange(10) % 3)
    write_idx(tmp_path / "a/letters-test-images-idx3-ubyte.gz", TEST[..., 0])
    write_idx(tmp_path / "a/letters-test-labels-idx1-ubyte.gz", np.zeros(4))
    source = SOURCES["idx"](SourceRequest(str(tmp_path / "a")))
    assert source.classes == ("0", "1", "2")
    assert np.array_equal(np.stack(read(source, "train")[0]), TRAIN)
    assert read(source, "test")[1] == [0] * 4
    write_idx(tmp_path / "b/mine-images-idx3-ubyte", TEST[..., 0], packed=False)
    with pytest.raises(UserError, match=r"has no labels beside it: .*mine-labels-idx1-ubyte"):
        SOURCES["idx"](SourceRequest(str(tmp_path / "b")))
    write_idx(tmp_path / "b/mine-labels-idx1-ubyte", np.arange(4), packed=False)
    assert read(SOURCES["idx"](SourceRequest(str(tmp_path / "b"))), "all")[1] == [0, 1, 2, 3]
    write_idx(tmp_path / "b/mine-labels-idx1-ubyte", np.array([1, 2, 26, 1]), packed=False)
    letters = SOURCES["idx"](SourceRequest(str(tmp_path / "b")))
    assert letters.classes == ("1", "2", "26")
    assert read(letters, "all")[1] == [0, 1, 2, 0]
    write_idx(tmp_path / "b/latest-images-idx3-ubyte", TEST[..., 0], packed=False)
    write_idx(tmp_path / "b/latest-labels-idx1-ubyte", np.arange(4), packed=False)
    with pytest.raises(UserError, match="let each name hold one of the words train, validation"):
        SOURCES["idx"](SourceRequest(str(tmp_path / "b")))


def test_damaged_idx_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'.*' is no folder with files NAME-images-idx3-ubyte"):
        SOURCES["idx"](SourceRequest(str(tmp_path)))
    images, labels = tmp_path / "x-images-idx3-ubyte", tmp_path / "x-labels-idx1-ubyte"
    write_idx(images, TEST[..., 0], packed=False)
    write_idx(labels, np.arange(3), packed=False)
    with pytest.raises(UserError, match="holds 4 images, but there are 3 labels"):
        SOURCES["idx"](SourceRequest(str(tmp_path)))
    write_idx(labels, np.arange(4), packed=False)
    content = images.read_bytes()
    images.write_bytes(content[:-1])
    with pytest.raises(UserError, match="x-images-idx3-ubyte is damaged: it ends too early"):
        read(SOURCES["idx"](SourceRequest(str(tmp_path))), "all")
    images.write_bytes(b"\1" + content[1:])
    with pytest.raises(UserError, match="is no IDX file of unsigned bytes: it begins with 01 00"):
        SOURCES["idx"](SourceRequest(str(tmp_path)))
    labels.with_name("x-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"abc" * 99)[:-9])
    labels.unlink()
    images.write_bytes(content)
    with pytest.raises(UserError, match=r"labels-idx1-ubyte.gz (is damaged|is no IDX)"):
        SOURCES["idx"](SourceRequest(str(tmp_path)))


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    md5 = {}
    for split, images in (("train", TRAIN), ("test", TEST)):
        path = tmp_path / svhn.ARCHIVES[split].name
        y = np.arange(1, len(images) + 1)[:, None]  # 10 is the digit 0
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": y.astype(np.uint8)})
        md5[split] = replace(svhn.ARCHIVES[split], md5=md5_of(path))
    monkeypatch.setattr(svhn, "ARCHIVES", md5)
    source = SOURCES["svhn"](SourceRequest(str(tmp_path)))
    data, labels = read(source, "train")
    assert labels == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(np.stack(data), TRAIN)
    (tmp_path / "test_32x32.mat").write_bytes(b"no matlab")
    damaged = replace(md5["test"], md5=md5_of(tmp_path / "test_32x32.mat"))
    monkeypatch.setitem(md5, "test", damaged)
    with pytest.raises(UserError, match=r"test_32x32.mat is no MATLAB file with the variable y"):
        SOURCES["svhn"](SourceRequest(str(tmp_path)))


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 10), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_celeba(root: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    smiles, people = [1, -1, 1, -1, 1, -1], [7, 12, 7, 12, 7, 12]
    pairs = zip(names, smiles, strict=True)
    attributes = ["6", "Bald Smiling "] + [f"{name} -1 {smile:2d}" for name, smile in pairs]
    texts = {
        "ATTRIBUTES": attributes,
        "IDENTITIES": [f"{name} {person}" for name, person in zip(names, people, strict=True)],
        "PARTITION": [f"{name} {i // 2}" for i, name in enumerate(names)],
    }
    root.mkdir(parents=True, exist_ok=True)
    for constant, lines in texts.items():
        archive = getattr(celeba, constant)
        (root / archive.name).write_text("\n".join(lines) + "\n")
        md5 = md5_of(root / archive.name)
        monkeypatch.setattr(celeba, constant, replace(archive, md5=md5))
    if packed:
        with zipfile.ZipFile(root / celeba.IMAGES.name, "w") as zipped:
            for i, name in enumerate(names):
                zipped.writestr(f"img_align_celeba/{name}", jpeg(i))
        md5 = md5_of(root / celeba.IMAGES.name)
        monkeypatch.setattr(celeba, "IMAGES", replace(celeba.IMAGES, md5=md5))
    else:
        (root / "img_align_celeba").mkdir()
        for i, name in enumerate(names):
            (root / "img_align_celeba" / name).write_bytes(jpeg(i))


@pytest.mark.parametrize("packed", [True, False])
def test_celeba_by_attribute_identity_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    write_celeba(tmp_path / "celeba", packed, monkeypatch)

    def ask(label: str = "") -> Source:
        return SOURCES["celeba"](SourceRequest(label=label, home=tmp_path))

    smiling = ask("Smiling")
    assert smiling.classes == ("not Smiling", "Smiling")
    assert [read(smiling, s)[1] for s in ("train", "validation", "test")] == [[1, 0]] * 3
    first = read(smiling, "test")[0][0]
    assert (first.read_bytes() if isinstance(first, Path) else first) == jpeg(4)
    people = ask("identity")
    assert people.classes == ("7", "12")
    assert read(people, "all")[1] == [0, 1, 0, 1, 0, 1]
    unlabelled = ask()
    assert unlabelled.classes == ()
    assert read(unlabelled, "train")[1] == [-1, -1]
    with pytest.raises(UserError, match="no label 'Happy'; it has Bald, Smiling, identity"):
        ask("Happy")


def test_celeba_tells_what_to_fetch_from_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"img_align_celeba.zip is missing: put the file from http"):
        SOURCES["celeba"](SourceRequest(home=tmp_path))


def tiny_imagenet_files() -> dict[str, bytes]:
    files = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tfish\n", "test/images/t_0.JPEG": b"?"}
    for i, wnid in enumerate(("n01", "n02")):
        for row in range(2):
            files[f"train/{wnid}/images/{wnid}_{row}.JPEG"] = jpeg(10 * i + row)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"n01_0.JPEG\t0\t0\t9\t9\n"
        files[f"val/images/val_{i}.JPEG"] = jpeg(100 + i)
    files["val/val_annotations.txt"] = b"val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    return files


@pytest.mark.parametrize("packed", [True, False])
def test_tiny_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    if packed:
        path = tmp_path / tiny_imagenet.ARCHIVE.name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in tiny_imagenet_files().items():
                zipped.writestr(f"tiny-imagenet-200/{name}", content)
        archive = replace(tiny_imagenet.ARCHIVE, md5=md5_of(path))
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", archive)
    else:
        for name, content in tiny_imagenet_files().items():
            (tmp_path / "tiny-imagenet-200" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tiny-imagenet-200" / name).write_bytes(content)
    source = SOURCES["tiny-imagenet"](SourceRequest(str(tmp_path)))
    assert source.classes == ("n01", "n02")
    data, labels = read(source, "train")
    assert labels == [0, 0, 1, 1]
    contents = [d.read_bytes() if isinstance(d, Path) else d for d in data]
    assert contents == [jpeg(v) for v in (0, 1, 10, 11)]
    assert read(source, "test")[1] == [1, 0]


def test_a_damaged_zip_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / tiny_imagenet.ARCHIVE.name
    path.write_bytes(b"PK\3\4 nonsense")
    archive = replace(tiny_imagenet.ARCHIVE, md5=md5_of(path))
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", archive)
    with pytest.raises(UserError, match=r"tiny-imagenet-200.zip is no zip file that can be read"):
        SOURCES["tiny-imagenet"](SourceRequest(str(tmp_path)))


@pytest.mark.parametrize("name", ["../outside", "/tmp/rapipe-outside", "top/../../outside"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    md5 = tar(tmp_path / "in/a.tar.gz", {"top/x": b"", name: b"got out"})
    archive = replace(cifar.CIFAR10, name="a.tar.gz", md5=md5)
    request = SourceRequest(str(tmp_path / "in"))
    with contextlib.suppress(UserError):  # or it is unpacked inside
        unpack("cifar10", request, archive, "top")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}
    assert not Path("/tmp/rapipe-outside").exists()


def test_a_truncated_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    tar(tmp_path / "complete", cifar10_files())
    cut = tmp_path / "in" / cifar.CIFAR10.name
    cut.parent.mkdir()
    cut.write_bytes((tmp_path / "complete").read_bytes()[:9000])
    archive = replace(cifar.CIFAR10, md5=hashlib.md5(cut.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack("cifar10", SourceRequest(str(tmp_path / "in")), archive, "cifar-10-batches-bin")
    assert [p.name for p in cut.parent.iterdir()] == [cut.name]
