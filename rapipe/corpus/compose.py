"""Composes sources into Images with stable ids and splits.

Every image becomes a square of three channels; its id is a hash of those
pixels, so exact duplicates share one id. No id is in two splits: what is held
out is held out by id, and where sources bring splits that overlap, training
images give way to validation and test images, and validation images to test
images. A test split is kept whole.

A source has a role. `task`: its labels are what classifiers learn, and its test
split is what they are tested on. `memory`: its training images, without labels,
may be learned from by the encoder and be looked up, and are never a query.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import Decoded, Skip, Workers, decode_split
from rapipe.corpus.sources.base import WHOLE, Source
from rapipe.errors import UserError, unreadable
from rapipe.records import SPLITS, UNLABELLED, Ids, ImageRows, Images, Labels, Pixels

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A source, and what it is to the corpus.

    Args:
        limit: training images to keep: a number, or a share of them (1.0 = all);
            drawn by class, and a smaller draw is part of a larger one.
        cache: the folder that keeps its decoded images.
    """

    source: Source
    role: str
    limit: int | float
    cache: Path


@dataclass(frozen=True)
class Rules:
    """How parts become a corpus.

    Args:
        skip: leave out what cannot be used, instead of stopping there.
        merge_classes: equal class names of several task sources are one class.
        validation_fraction: share held out of train where a source has no such split.
        test_fraction: share held out of train first, where a source has no test split.
    """

    decoding: Decoding
    skip: bool
    merge_classes: bool
    validation_fraction: float
    test_fraction: float
    seed: int


@dataclass
class Report:
    """What was met on the way, for the corpus card."""

    skipped: dict[str, list[Skip]] = field(default_factory=dict)
    """By source."""
    sizes: dict[str, list[npt.NDArray[np.int32]]] = field(default_factory=dict)
    """By source, width and height of each image as it was found."""
    repeated: int = 0
    """Images that left train or validation because they repeat one that is held out."""
    mean: list[float] = field(default_factory=list)
    """Of each channel over train, on [0, 1]."""
    std: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """Some rows of one decoded split of a source, with labels of the corpus."""

    name: str
    decoded: Decoded
    rows: Rows
    labels: Labels

    @property
    def ids(self) -> Ids:
        return self.decoded.ids[self.rows]

    def where(self, mask: npt.NDArray[np.bool_]) -> _Piece:
        return replace(self, rows=self.rows[mask], labels=self.labels[mask])


def compose(parts: Mapping[str, Part], rules: Rules, out: Path) -> Report:
    """Write `train.arrow`, `validation.arrow` and `test.arrow` into `out`, from parts by name.

    Raises:
        UserError: a source lacks a split, an image cannot be used, class names
            clash, a class has no training image, or a split is left empty.
    """
    classes = join_classes(parts, rules.merge_classes)
    report = Report()
    pieces: dict[str, list[_Piece]] = {split: [] for split in SPLITS}
    with Workers() as workers:
        for name, part in parts.items():
            for split, piece in _pieces(name, part, rules, classes, report, workers).items():
                pieces[split].append(piece)
    report.repeated = _keep_apart(pieces)
    owner = {
        own: name
        for name, part in parts.items()
        for own in part.source.classes
        if part.role == "task"
    }
    classes = _learnable(pieces, [(own, owner[own]) for own in classes], rules.skip, report)
    for split, own in pieces.items():
        if not any((piece.labels >= 0).any() for piece in own):
            left = f" ({report.repeated:,} left train or validation: they repeat one held out)"
            raise UserError(
                f"corpus: the {split} split holds no labelled image"
                f"{left if report.repeated else ''}; "
                "add images or change corpus.validation_fraction or corpus.test_fraction"
            )
    side = rules.decoding.size
    counts = np.zeros((3, 256), np.int64)
    for split, own in pieces.items():
        own = [piece for piece in own if len(piece.rows)]
        rows = ImageRows(
            np.concatenate([piece.ids for piece in own]),
            np.concatenate([piece.labels for piece in own]),
            np.repeat([piece.name for piece in own], [len(piece.rows) for piece in own]),
            classes,
            (side, side, 3),
        )
        blocks = _blocks(own, counts if split == "train" else None)
        rows.write(out / f"{split}.arrow", _ahead(blocks))
    report.mean, report.std = _moments(counts)
    return report


def corpus_hash(splits: Mapping[str, Images]) -> str:
    """SHA-256 of ids (so of pixels), labels, sources and class names, in order."""
    digest = hashlib.sha256()
    for images in splits.values():
        digest.update(np.ascontiguousarray(images.ids).tobytes())
        digest.update(np.ascontiguousarray(images.labels).tobytes())
        names = "\n".join([*images.classes, "", *images.sources.tolist()])
        digest.update(names.encode())
    return digest.hexdigest()


def join_classes(parts: Mapping[str, Part], merge: bool) -> tuple[str, ...]:
    """Class names of the task sources, in order of appearance.

    Raises:
        UserError: no source has the role task, one has no classes, or (unless
            `merge`) two have a class of the same name.
    """
    owner: dict[str, str] = {}
    spelled: dict[str, str] = {}
    tasks = {name: part.source for name, part in parts.items() if part.role == "task"}
    if not tasks:
        raise UserError("corpus.sources: all have the role memory; one must have the role task")
    for name, source in tasks.items():
        if not source.classes:
            raise UserError(
                f"corpus.sources: {name} has no classes to learn: put its images into folders by "
                "class, or choose its `label`, or give it the role memory"
            )
        for own in source.classes:
            if why := unreadable(own):
                raise UserError(f"corpus.sources: the name of the class {own!r} of {name} {why}")
            seen = " ".join(unicodedata.normalize("NFC", own).split())
            if spelled.setdefault(seen, own) != own:
                raise UserError(
                    f"corpus.sources: the classes {spelled[seen]!a} and {own!a} of "
                    f"{name} look the same: give them the same name, or others"
                )
            if owner.get(own) == name and not merge:
                raise UserError(
                    f"corpus.sources: {name} has two classes {own!r}; set corpus.merge_classes: "
                    "true if they mean the same, or rename one"
                )
            if own in owner and not merge:
                raise UserError(
                    f"corpus.sources: the class {own!r} is in both {owner[own]} and {name}; set "
                    "corpus.merge_classes: true if it means the same, or rename it, or give one "
                    "of them the role memory"
                )
            owner.setdefault(own, name)
    return tuple(owner)


def held_out(
    ids: Ids, labels: Labels, fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Mask (N,) of a share of the labelled images, by label; equal ids stay together."""
    unique, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    chosen = [unique[:0]]
    for rows in _by_label(label_of):
        if label_of[rows[0]] >= 0:
            own = rng.permutation(unique[rows])
            chosen.append(own[: round(fraction * len(own))])
    return np.asarray(np.isin(ids, np.concatenate(chosen)))


def limited(labels: Labels, limit: int | float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mask (N,) of `limit` images, a number or a share, in the proportions of the labels.

    The images of a class are ranked once by `rng`; the first of all ranks are
    taken, so a smaller limit is part of a larger one.
    """
    n = len(labels)
    count = min(limit, n) if isinstance(limit, int) else max(1, round(limit * n))
    rank = np.empty(n)
    for own in _by_label(labels):
        rank[own] = (rng.permutation(len(own)) + 0.5) / len(own)
    mask = np.zeros(n, np.bool_)
    mask[np.argsort(rank, kind="stable")[:count]] = True
    return mask


def _by_label(labels: Labels) -> list[Rows]:
    """The rows of each label that occurs, in ascending order."""
    order = np.argsort(labels, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [own for own in rows if len(own)]


def _pieces(
    name: str,
    part: Part,
    rules: Rules,
    classes: tuple[str, ...],
    report: Report,
    workers: Workers,
) -> dict[str, _Piece]:
    """The splits of one part, with what is missing held out of the rest."""
    memory = part.role == "memory"
    number = {own: label for label, own in enumerate(classes)}
    label_of = np.array(
        [UNLABELLED if memory else number[own] for own in part.source.classes]
        + [UNLABELLED],  # the last, which -1 finds
        np.int64,
    )
    own: dict[str, _Piece] = {}
    report.skipped[name], report.sizes[name] = [], []
    for split, data in part.source.splits.items():
        if memory and split not in ("train", WHOLE):
            continue
        decoded = decode_split(
            data, f"{name} {split}", rules.decoding, rules.skip, part.cache / split, workers
        )
        report.skipped[name] += decoded.skipped
        report.sizes[name].append(decoded.sizes)
        if not len(decoded.ids):
            raise UserError(f"corpus.sources: the {split} split of {name} holds no images")
        own[split] = _Piece(name, decoded, np.arange(len(decoded.ids)), decoded.labels)
    rng = np.random.default_rng([rules.seed, *name.encode()])
    divided = _divide(name, own, memory, part.limit, rules, rng)
    return {
        split: replace(piece, labels=label_of[piece.labels]) for split, piece in divided.items()
    }


def _divide(
    name: str,
    own: dict[str, _Piece],
    memory: bool,
    limit: int | float,
    rules: Rules,
    rng: np.random.Generator,
) -> dict[str, _Piece]:
    """Test, then the limit on what is learned from, then validation."""
    if WHOLE in own:
        own["train"] = own.pop(WHOLE)
    if "train" not in own:
        present = ", ".join(own) or "others"
        raise UserError(f"corpus.sources: {name} has no train split, only {present}")
    if not memory and "test" not in own:
        own["train"], own["test"] = _cut(own["train"], rules.test_fraction, rng)
    if limit != 1.0 or isinstance(limit, int):
        own["train"] = own["train"].where(limited(own["train"].labels, limit, rng))
    if not memory and "validation" not in own:
        own["train"], own["validation"] = _cut(own["train"], rules.validation_fraction, rng)
    return own


def _cut(piece: _Piece, fraction: float, rng: np.random.Generator) -> tuple[_Piece, _Piece]:
    out = held_out(piece.ids, piece.labels, fraction, rng)
    return piece.where(~out), piece.where(out)


def _keep_apart(pieces: dict[str, list[_Piece]]) -> int:
    """Remove test images' pixels from validation, and both's from train; how many rows left.

    A source's own splits may overlap, and so may those of different sources.
    """
    removed = 0
    for split, later in (("validation", ("test",)), ("train", ("validation", "test"))):
        held = np.concatenate([piece.ids for name in later for piece in pieces[name]])
        for place, piece in enumerate(pieces[split]):
            repeats = np.isin(piece.ids, held)
            removed += int(repeats.sum())
            pieces[split][place] = piece.where(~repeats)
    return removed


def _learnable(
    pieces: dict[str, list[_Piece]],
    classes: Sequence[tuple[str, str]],
    skip: bool,
    report: Report,
) -> tuple[str, ...]:
    """The classes that have training images; with `skip` the others leave, in place.

    Args:
        classes: name and source of each class.

    Raises:
        UserError: a class has none, and `skip` is off; or fewer than two are left.
    """
    count = {
        split: np.bincount(
            np.concatenate([piece.labels[piece.labels >= 0] for piece in own]),
            minlength=len(classes),
        )
        for split, own in pieces.items()
        if own
    }
    lost = np.flatnonzero(count["train"] == 0).tolist()
    for label in lost:
        name, owner = classes[label]
        others = ", ".join(f"{n[label]} in {split}" for split, n in count.items() if n[label])
        reason = f"has no training image ({others or 'none elsewhere either'})"
        if not skip:
            raise UserError(
                f"corpus.sources: the class {name!r} of {owner} {reason}: add some, remove the "
                "class, or set corpus.on_error: skip to leave it out"
            )
        report.skipped[owner].append(Skip(f"the class {name!r}", reason))
    kept = np.setdiff1d(np.arange(len(classes)), lost)
    if len(kept) < 2:
        raise UserError(
            f"corpus: there is nothing to tell apart with {len(kept)} class"
            f"{'' if len(kept) == 1 else 'es'}; at least two are needed"
        )
    number = np.full(len(classes) + 1, UNLABELLED)
    number[kept] = np.arange(len(kept))
    for split, own in pieces.items():
        whole = [piece.where(~np.isin(piece.labels, lost)) for piece in own]
        pieces[split] = [replace(piece, labels=number[piece.labels]) for piece in whole]
    return tuple(classes[label][0] for label in kept.tolist())


def _blocks(pieces: Sequence[_Piece], counts: npt.NDArray[np.int64] | None) -> Iterator[Pixels]:
    """Pixels of all pieces, block by block; `counts` (3, 256) takes how often each value occurs."""
    for piece in pieces:
        for block in piece.decoded.pixels(piece.rows):
            if counts is not None:
                rows = block.reshape(-1, block.shape[2], 3)
                counts += np.reshape(Image.fromarray(rows).histogram(), (3, 256))
            yield block


def _ahead(blocks: Iterator[Pixels]) -> Iterator[Pixels]:
    """The same blocks, of which a thread makes the next while one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, blocks, None)
        while (block := pending.result()) is not None:
            pending = pool.submit(next, blocks, None)
            yield block


def _moments(counts: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel on [0, 1], exact, from counts of the values."""
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.maximum(variance**0.5, 1 / 255).tolist()
