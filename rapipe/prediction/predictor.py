"""`Predictor`: a classifier with all that it needs to answer for new images.

An image in the memory does not find itself, nor an exact copy: as in training and evaluation, so
that the accuracy measured there is that of these answers. Neighbours are searched exactly, so that
an answer does not depend on which other images there are.

Letters: N images, S side in pixels, C classes, K neighbours, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.corpus.decode import Decoding, pixel_hash
from rapipe.corpus.decode_cache import SkippedImage, Workers
from rapipe.device import device
from rapipe.encoder.retriever import Retriever
from rapipe.errors import ArgumentError
from rapipe.prediction import abstention
from rapipe.prediction.abstention import Abstention
from rapipe.prediction.answers import Answers, joined
from rapipe.prediction.decoding import Block, DecodedChunks, decoded_blocks
from rapipe.prediction.inputs import items_of
from rapipe.prediction.sources import ImageFiles, open_paths
from rapipe.progress import say, track
from rapipe.records import Ids, Images, Neighbours, Pixels
from rapipe.retrieval.search import SearchMethod, VectorsWithIds


@dataclass(frozen=True)
class Predictor:
    """A classifier, the memory it looks images up in, and how images are decoded for both.

    >>> predictor = rapipe.Predictor(trained.classifier, train.classes, Decoding(32), retriever)
    >>> predictor = predictor.abstaining(splits["validation"], risk=0.05)
    >>> predictor.predict(["new/1.jpg", "new/2.jpg"]).class_names

    Raises:
        ArgumentError: the parts do not fit each other.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    """(C,) their names."""
    decoding: Decoding
    """How images become squares of S pixels."""
    retriever: Retriever | None = None
    """Whose neighbours the classifier sees; None for one that was trained without."""
    bank_classes: tuple[str, ...] = ()
    """Names of the labels in the bank, of which there may be more; those of `classes` unless
    given."""
    abstention: Abstention | None = None
    """When it does not answer; None: it always does."""

    def __post_init__(self) -> None:
        spec = self.classifier.spec
        if len(self.classes) != spec.classes:
            raise ArgumentError(
                f"`classes` are {len(self.classes)}, but `classifier` was trained with "
                f"{spec.classes}"
            )
        if bool(spec.fusion) != (self.retriever is not None):
            need = "with neighbours: give a" if spec.fusion else "without neighbours: give no"
            raise ArgumentError(f"`classifier` was trained {need} `retriever`")
        self.classifier.to(device()).eval()
        if self.retriever:
            dimension = self.retriever.bank.vectors.shape[1]
            if dimension != spec.dimension:
                raise ArgumentError(
                    f"`retriever` finds vectors of {dimension} dimensions, but `classifier` was "
                    f"trained with {spec.dimension}"
                )
            names = self.bank_classes or self.classes
            highest = int(self.retriever.bank.labels.max(initial=-1))
            if highest >= len(names):
                raise ArgumentError(
                    f"`bank_classes` are {len(names)}, but the bank has the label {highest}"
                )
            self.retriever.encoder.to(device())

    @property
    def size(self) -> int:
        """S, the side of the squares that images become."""
        return self.decoding.size

    def predict(self, images: Pixels | Iterable[Any]) -> Answers:
        """The answers for images, in their order.

        Args:
            images: squares (N, S, S, 3) uint8 as they are; or of each image a path, the bytes of
                a file, a picture of Pillow, or an array uint8 of any size, which become squares as
                those of the corpus did.

        Raises:
            ArgumentError: an image cannot be read; names it.
        """
        squares = (self.size, self.size, 3)
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[1:] == squares:
            if images.dtype != np.uint8:
                raise ArgumentError(f"`images` are {images.dtype}; they must be uint8")
            ids = np.array([pixel_hash(image) for image in images], np.int64)
            names = tuple(f"image {row}" for row in range(len(ids)))
            return self.answers(Block(names, ids, images))
        if isinstance(images, str | Path | bytes | Image.Image) or _is_one_image(images):
            images = [images]
        with Workers(1) as workers:
            chunks = DecodedChunks(items_of(images), self.decoding, workers)
            parts = [self.answers(block) for block in decoded_blocks(chunks)]
        return joined(parts) if parts else self.answers(self._no_images())

    def stream(
        self,
        files: Sequence[str | Path] | ImageFiles,
        skipped: list[SkippedImage] | None = None,
        processes: int = 1,
        progress: str = "",
    ) -> Iterator[Answers]:
        """The answers for all images in files and folders, block by block: any number of them.

        >>> for answers in predictor.stream(["photos"], skipped := []):
        ...     print(answers.locations, answers.class_names)

        Args:
            files: paths as of `open_paths`, or what that returned: files, folders, archives,
                Parquet.
            skipped: a list that gets the images that cannot be used; unless given, the first
                raises.
            processes: that decode; more than one need a script whose work stands below
                `if __name__ == "__main__":`.
            progress: names a bar; none while answers are printed, which would go through it.

        Raises:
            ArgumentError: a path holds no image, or an image cannot be used; names it.
            UserError: a Parquet file or an archive cannot be read.
        """
        if not isinstance(files, ImageFiles):
            files = open_paths(files)
        for remark in files.remarks:
            say(remark)
        items = track(files.items(), progress, files.size) if progress else files.items()
        with Workers(processes) as workers:
            chunks = DecodedChunks(items, self.decoding, workers)
            for block in decoded_blocks(chunks, skipped):
                answers = self.answers(block)
                chunks.start()
                yield answers

    def answers(self, block: Block) -> Answers:
        """The answers for images that are squares already."""
        neighbours = self.neighbours(block.ids, block.pixels)
        probabilities = metrics.softmax(self.logits(block.pixels, neighbours))
        confidence = probabilities.max(axis=1, initial=0.0)
        never = np.zeros(len(block), np.bool_)
        return Answers(
            block.locations,
            self.classes,
            probabilities,
            self.abstention.abstains(confidence) if self.abstention else never,
            *self._looked_up(len(block), neighbours),
        )

    def neighbours(self, ids: Ids, pixels: Pixels) -> Neighbours | None:
        """What images (N, S, S, 3) are shown, none of them itself; None without retrieval."""
        if self.retriever is None or not len(ids):
            return None
        exact = replace(self.retriever.request, method=SearchMethod())
        retriever = replace(self.retriever, request=exact)
        queries = VectorsWithIds(ids, retriever.encoder.embed(pixels))
        return retriever.neighbours(queries)

    def logits(self, pixels: Pixels, neighbours: Neighbours | None) -> np.ndarray:
        """What the classifier says of images (N, S, S, 3) with these neighbours: (N, C)."""
        if not len(pixels):
            return np.empty((0, len(self.classes)), np.float32)
        return self.classifier.predict(pixels, *Shown.of(self._bank, neighbours))

    def abstaining(
        self, images: Images, risk: float, neighbours: Neighbours | None = None
    ) -> Predictor:
        """The same, but it abstains where it would be wrong too often on these images.

        Args:
            images: held out, with labels: no image that the classifier has learned from.
            risk: accepted share of errors among the images answered, 0 to 1.
            neighbours: of these images, if they have been found already.

        Raises:
            ArgumentError: `risk` is no share, or there are no images with a label.
        """
        if self.retriever and neighbours is None:
            neighbours = self.neighbours(images.ids, images.pixels)
        logits = self.logits(images.pixels, neighbours)
        labelled = images.labels >= 0
        confidence = metrics.softmax(logits).max(axis=1, initial=0.0)[labelled]
        correct = metrics.hits(logits[labelled], images.labels[labelled])
        return replace(self, abstention=abstention.choose(confidence, correct, risk))

    @cached_property
    def _bank(self) -> DeviceBank | None:
        """The bank on the classifier's device."""
        if self.retriever is None:
            return None
        return DeviceBank(self.retriever.bank, len(self.classes), self.classifier.device)

    def _looked_up(self, n: int, neighbours: Neighbours | None) -> tuple[Any, Any, Any]:
        """Ids, similarities and names of classes (N, K) of neighbours."""
        if self.retriever is None or neighbours is None or not neighbours.k:
            none = n, 0
            return np.empty(none, np.int64), np.empty(none, np.float32), np.empty(none, np.str_)
        bank, rows = self.retriever.bank, neighbours.indices
        names = np.array([*(self.bank_classes or self.classes), ""])  # label -1 is the last
        return bank.ids[rows], neighbours.similarities, names[bank.labels[rows]]

    def _no_images(self) -> Block:
        return Block((), np.empty(0, np.int64), np.empty((0, self.size, self.size, 3), np.uint8))


def _is_one_image(images: Any) -> bool:
    """Whether it is an array (H, W, 3) or (H, W), which is one image and not several."""
    if not isinstance(images, np.ndarray):
        return False
    return images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3)
