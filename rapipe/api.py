"""The whole job in a few calls, for a notebook or a script: no YAML, no DVC, nothing on disk.

    >>> import rapipe
    >>> splits = rapipe.load_images("photos", size=32)  # photos/cat/1.jpg, photos/dog/1.jpg, ...
    >>> encoder = rapipe.pretrain(splits["train"], splits["validation"]).encoder
    >>> bank = rapipe.embed(encoder, splits["train"])
    >>> retriever = rapipe.Retriever.knn(encoder, bank, k=8)
    >>> neighbours = {name: retriever.retrieve(images) for name, images in splits.items()}
    >>> trained = rapipe.train_classifier(splits, neighbours, bank)
    >>> rapipe.evaluate(trained.classifier, splits["test"], retriever, noise_std=[0, 0.1])

What is long to explain (`pretrain`, `train_classifier`, `search`, `Store`) stands in the room
that it belongs to; here is what only ties the rooms together.

Letters: N images, S side in pixels, C classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.corpus.compose import Part, Rules, compose
from rapipe.corpus.decode import Decoding, decode, pixel_hash
from rapipe.corpus.decode_cache import Workers
from rapipe.corpus.sources import SOURCES, SourceRequest, kind_of
from rapipe.corpus.sources.base import UNDIVIDED, Item, Source, Split
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.retriever import Retriever
from rapipe.errors import ArgumentError
from rapipe.evaluation.measures.noise_levels import predict_levels, scores
from rapipe.io.memory_map import in_memory
from rapipe.io.text import expand_home
from rapipe.progress import say
from rapipe.records import SPLITS, UNLABELLED, Embeddings, Images, Labels, Pixels


def load_images(
    path: str | Path,
    size: int = 32,
    validation_fraction: float = 0.125,
    test_fraction: float = 0.2,
    seed: int = 0,
    processes: int = 1,
) -> dict[str, Images]:
    """The images of a folder, as squares, by split: `train`, `validation` and `test`.

    No two splits share an image, nor an exact copy of one.

    Args:
        path: a folder, zip or tar file of `class/file`, or of `split/class/file`; or a Parquet
            file or a folder of them, as on the Hugging Face hub.
        size: S, the side of the squares; images that are not square lose their longer ends.
        validation_fraction, test_fraction: shares of train that are held out where the folder
            has no such split.
        seed: of what is held out.
        processes: that decode; more than one need a script whose work stands below
            `if __name__ == "__main__":`.

    Raises:
        ArgumentError: the folder holds no images as described.
        UserError: an image cannot be read; names the file.
    """
    path = expand_home(path)
    source = SOURCES[kind_of(path)](SourceRequest(str(path)))
    for remark in source.remarks(path.name):
        say(remark)
    return _split(source, path.name, size, validation_fraction, test_fraction, seed, processes)


def split_images(
    images: Images, validation_fraction: float = 0.125, test_fraction: float = 0.2, seed: int = 0
) -> dict[str, Images]:
    """Images by split: `train`, `validation` and `test`, as `load_images` divides them.

    Raises:
        ArgumentError: a class is left without a training image.
    """

    def items() -> Iterator[Item]:
        for row, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            yield Item(image, int(label), f"image {row}")

    source = Source(images.classes, {UNDIVIDED: Split(len(images), items)}, ())
    size = images.pixels.shape[1]
    return _split(source, "arrays", size, validation_fraction, test_fraction, seed)


def _split(
    source: Source,
    name: str,
    size: int,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    processes: int = 1,
) -> dict[str, Images]:
    """The images of one source, in memory."""
    decoding = Decoding(size)
    rules = Rules(decoding, False, False, "keep", validation_fraction, test_fraction, seed)
    with TemporaryDirectory() as scratch, Workers(processes) as workers:
        part = Part(source, "task", 1.0, Path(scratch, "cache"))
        report = compose({name: part}, rules, Path(scratch), workers)
        if report.conflicts.ids:
            say(f"warning: {report.conflicts}")
        splits = {split: Images.read(Path(scratch, f"{split}.arrow")) for split in SPLITS}
        return {
            split: replace(
                images,
                ids=in_memory(images.ids),
                pixels=in_memory(images.pixels),
                labels=in_memory(images.labels),
            )
            for split, images in splits.items()
        }


def images_of(pixels: Pixels, labels: Labels | None = None, classes: Sequence[str] = ()) -> Images:
    """Arrays as `Images`; equal pixels get equal ids, so that no image retrieves its own copy.

    Args:
        pixels: (N, S, S, 3) uint8.
        labels: (N,) from 0, -1 = none; none at all unless given.
        classes: their names; numbers unless given.
    """
    labels = np.full(len(pixels), UNLABELLED) if labels is None else np.asarray(labels, np.int64)
    names = tuple(classes) or tuple(map(str, range(int(labels.max(initial=0)) + 1)))
    ids = np.array([pixel_hash(image) for image in pixels], np.int64)
    return Images(ids, np.asarray(pixels), labels, np.full(len(ids), "arrays"), names)


def load_pixels(paths: Iterable[str | Path], size: int) -> Pixels:
    """Image files as squares, decoded as `load_images` does: (N, S, S, 3) uint8.

    Raises:
        UserError: a file is no image; names it.
    """
    decoding = Decoding(size)
    return np.stack([decode(expand_home(path).read_bytes(), str(path), decoding) for path in paths])


def embed(encoder: Encoder, images: Images, split: str = "train") -> Embeddings:
    """The embeddings (N, D) of images, which may be searched, or be put into a `Store`."""
    encoder.to(device())
    vectors = encoder.embed(images.pixels)
    splits = np.full(len(images), split)
    return Embeddings(images.ids, vectors, images.labels, images.sources, splits)


def evaluate(
    classifier: Classifier,
    images: Images,
    retriever: Retriever | None = None,
    noise_std: Sequence[float] = (0.0,),
    seed: int = 0,
) -> list[dict[str, float]]:
    """Scores of a classifier on labelled images, clean and with Gaussian noise.

    A noisy image looks up the neighbours of its noisy self.

    Args:
        retriever: whose neighbours the classifier sees; none unless given.
        noise_std: standard deviations of the noise, where white is 1; 0 = clean.
        seed: of the noise.

    Returns:
        A row for each level: noise_std, top1, top3 and ece (0 to 1), nll (nats), n_test; with a
        retriever also what `rapipe.evaluation.measures.noise_levels.scores` says of neighbours.

    Raises:
        ArgumentError: the classifier wants neighbours and there is no retriever, or its vectors
            are of another dimension.
    """
    bank = _bank(classifier, retriever)
    levels = predict_levels(classifier, images, noise_std, retriever, bank, seed)
    return [{"noise_std": level.noise_std, **scores(level, images, bank)} for level in levels]


def predict(
    classifier: Classifier, pixels: Pixels, retriever: Retriever | None = None
) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) of the classes for images (N, S, S, 3) uint8, with their neighbours.

    Raises:
        ArgumentError: as `evaluate` does.
    """
    bank = _bank(classifier, retriever)
    if retriever is None:
        return metrics.softmax(classifier.predict(pixels))
    shown = retriever.retrieve(images_of(pixels))
    return metrics.softmax(classifier.predict(pixels, *Shown.of(bank, shown)))


def _bank(classifier: Classifier, retriever: Retriever | None) -> DeviceBank | None:
    """The bank on the classifier's device, if the two fit."""
    classifier.to(device())
    if retriever is None:
        if classifier.spec.fusion:
            raise ArgumentError("`classifier` was trained with neighbours: give a `retriever`")
        return None
    dimension = retriever.bank.vectors.shape[1]
    if dimension != classifier.spec.dimension:
        raise ArgumentError(
            f"`retriever` finds vectors of {dimension} dimensions, but `classifier` was trained "
            f"with {classifier.spec.dimension or 'none'}"
        )
    retriever.encoder.to(device())
    return DeviceBank(retriever.bank, classifier.spec.classes, device())
