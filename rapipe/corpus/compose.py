"""Composes sources into Images with stable ids and splits.

Every image becomes a square of three channels; its id is a hash of those
pixels, so exact duplicates share one id. No id is in two splits: what is held
out is held out by id, and where the splits of sources overlap, training images
give way to validation and test images, and validation images to test images. No
image leaves a test split, unless it is dropped because its pixels are in several
classes.

A source has a role. `task`: classifiers learn its labels, and are tested on its
test split. Of other roles all images are training images. `memory`: they are
for the encoder and the bank, and are never a query; they have labels only if they
are generated. `training`: classifiers learn them, and they are not in the bank.
`both`: classifiers learn them, and they are in the bank. Images of the role
`shift` are in no split: classifiers are only evaluated on them (`shifts`).

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rapipe.corpus.conflicts import Conflicts, settle
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import SkippedImage, Workers, decode_split
from rapipe.corpus.labels import held_out_mask, limit_mask
from rapipe.corpus.repeats import remove_copies, remove_repeats
from rapipe.corpus.shifts import Shift, select_shift
from rapipe.corpus.sources.base import UNDIVIDED, Source
from rapipe.corpus.split_rows import SplitRows
from rapipe.corpus.values import ValueCounts
from rapipe.errors import ArgumentError, UserError, unreadable
from rapipe.io.locations import write_locations
from rapipe.records import (
    SPLITS,
    UNLABELLED,
    ImageRows,
    Images,
    Pixels,
    channel_moments,
)


@dataclass(frozen=True)
class Part:
    """A source as a part of a corpus.

    Args:
        role: task, memory, training, both or shift.
        limit: number of its training images, or share of them (1.0 = all); drawn by
            class, and a smaller draw is part of a larger one. Of a shift those to evaluate.
        cache: the folder for its decoded images.
        generated: whether its images are generated. They have labels in every role, and give
            way to real images with the same pixels.
    """

    source: Source
    role: str
    limit: int | float
    cache: Path
    generated: bool = False

    @property
    def labelled(self) -> bool:
        """Whether its labels are of the task."""
        return self.role != "memory" or self.generated


@dataclass(frozen=True)
class Rules:
    """How parts become a corpus.

    Args:
        skip: leave out images and classes that cannot be used, instead of raising.
        merge_classes: equal class names of several task sources are one class.
        on_conflict: at the same pixels in several classes: keep, drop (leave out every image
            with these pixels) or stop.
        validation_fraction: share held out of train where a source has no such split.
        test_fraction: share held out of train first, where a source has no test split.
    """

    decoding: Decoding
    skip: bool
    merge_classes: bool
    on_conflict: str
    validation_fraction: float
    test_fraction: float
    seed: int


@dataclass
class Report:
    """What happened to the images, for the corpus card."""

    skipped: dict[str, list[SkippedImage]] = field(default_factory=dict)
    """By source."""
    sizes: dict[str, list[npt.NDArray[np.int32]]] = field(default_factory=dict)
    """By source, width and height of each image before resizing, (N, 2) for each split."""
    values: dict[str, ValueCounts] = field(default_factory=dict)
    """By source."""
    repeated: int = 0
    """Images removed from train or validation because they repeat one that is held out."""
    copies: int = 0
    """Generated images that were left out because they equal a real one."""
    conflicts: Conflicts = field(default_factory=Conflicts)
    """The same pixels in several classes, before repeats were removed."""
    mean: list[float] = field(default_factory=list)
    """Of each channel over the real images of train, on [0, 1]."""
    std: list[float] = field(default_factory=list)
    shifts: dict[str, Shift] = field(default_factory=dict)
    """By source of the role shift."""


def compose(sources: Mapping[str, Part], rules: Rules, out: Path, workers: Workers) -> Report:
    """Write `train.arrow`, `validation.arrow`, `test.arrow` and `locations.csv` into `out`.

    Besides, `shifts/NAME.arrow` of each source of the role shift; the others are the same without.

    Args:
        sources: by name.
        workers: that decode the images.

    Raises:
        ArgumentError: a source lacks a split, class names clash, a class has no training image
            or a split no labelled one, or a shift no class of the task, so that `sources` or a
            field of `rules` has to change; or an image cannot be used, and `skip` is off; or the
            same pixels are in several classes, and `on_conflict` is stop.
        UserError: fewer than two classes are left.
    """
    shifts = {name: part for name, part in sources.items() if part.role == "shift"}
    sources = {name: part for name, part in sources.items() if name not in shifts}
    _check_train(sources)
    classes = join_classes(sources or shifts, rules.merge_classes)
    report = Report()
    pieces: dict[str, list[SplitRows]] = {split: [] for split in SPLITS}
    for name, part in sources.items():
        for split, piece in _read_splits(name, part, rules, classes, report, workers).items():
            pieces[split].append(piece)
    generated = {name for name, part in sources.items() if part.generated}
    report.copies = remove_copies(pieces, generated)
    report.conflicts = settle(pieces, classes, rules.on_conflict)
    report.repeated = remove_repeats(pieces)
    tasks = {name: part.source for name, part in sources.items() if part.role == "task"}
    source_of = {class_name: name for name, task in tasks.items() for class_name in task.classes}
    names = [(class_name, source_of[class_name]) for class_name in classes]
    classes = _keep_learnable(pieces, names, rules.skip, report)
    for split, split_pieces in pieces.items():
        if not any((piece.labels >= 0).any() for piece in split_pieces):
            removed = f" ({report.repeated:,} left train or validation: they repeat one held out)"
            raise ArgumentError(
                f"corpus: the {split} split holds no labelled image"
                f"{removed if report.repeated else ''}{_words_on_dropped(report)}; "
                "add images (a class is divided from three different ones on), or change "
                "`validation_fraction` or `test_fraction`"
            )
    counts = np.zeros((3, 256), np.int64)
    for split, split_pieces in pieces.items():
        counted = sources.keys() - generated if split == "train" else set()
        _write(out / f"{split}.arrow", split_pieces, classes, counted, counts)
    locations = {
        split: chain.from_iterable(piece.locations() for piece in split_pieces)
        for split, split_pieces in pieces.items()
    }
    write_locations(out / "locations.csv", locations)
    report.mean, report.std = channel_moments(counts)
    for name, part in shifts.items():
        kept = _read_shift(name, part, rules, classes, pieces, report, workers)
        _write(out / "shifts" / f"{name}.arrow", kept, classes, set(), counts)
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


def join_classes(sources: Mapping[str, Part], merge_classes: bool) -> tuple[str, ...]:
    """Class names of the task sources, in order of appearance.

    Raises:
        ArgumentError: no source has the role task, one has no classes, a name cannot be read
            or looks like another, or (unless `merge_classes`) two classes have the same name.
    """
    source_of: dict[str, str] = {}
    spellings: dict[str, str] = {}
    tasks = {name: part.source for name, part in sources.items() if part.role == "task"}
    if not tasks:
        roles = " or ".join(sorted({part.role for part in sources.values()}))
        raise ArgumentError(f"`sources`: all have the role {roles}; one must have the role task")
    for name, source in tasks.items():
        if not source.classes:
            raise ArgumentError(
                f"`sources`: {name} has no classes to learn: put its images into folders by "
                "class, or choose its `label`, or give it the role memory"
            )
        for class_name in source.classes:
            if why := unreadable(class_name):
                raise ArgumentError(
                    f"`sources`: the name of the class {class_name!r} of {name} {why}"
                )
            look = " ".join(unicodedata.normalize("NFC", class_name).split())
            if spellings.setdefault(look, class_name) != class_name:
                raise ArgumentError(
                    f"`sources`: the classes {spellings[look]!a} and {class_name!a} of "
                    f"{name} look the same: give them the same name, or others"
                )
            if source_of.get(class_name) == name and not merge_classes:
                raise ArgumentError(
                    f"`sources`: {name} has two classes {class_name!r}; set `merge_classes`: "
                    "true if they mean the same, or rename one"
                )
            if class_name in source_of and not merge_classes:
                raise ArgumentError(
                    f"`sources`: the class {class_name!r} is in both {source_of[class_name]} and "
                    f"{name}; set `merge_classes`: true if it means the same, or rename it, or "
                    "give one of them the role memory"
                )
            source_of.setdefault(class_name, name)
    return tuple(source_of)


def _check_train(sources: Mapping[str, Part]) -> None:
    """Raise `ArgumentError` if a source has nothing to learn or look up."""
    for name, part in sources.items():
        if part.source.splits.keys().isdisjoint(("train", UNDIVIDED)):
            raise ArgumentError(
                f"`sources`: {name} has no train split, only {', '.join(part.source.splits)}: its "
                f"role cannot be {part.role}; in the role shift classifiers are evaluated on it"
            )


def _generator(name: str, rules: Rules) -> np.random.Generator:
    """Of the draws of one source, whatever other sources there are."""
    return np.random.default_rng([rules.seed, *name.encode()])


def _write(
    path: Path,
    pieces: Sequence[SplitRows],
    classes: tuple[str, ...],
    counted: Collection[str],
    counts: npt.NDArray[np.int64],
) -> None:
    """Write the images of all pieces; `_pixel_blocks` says what is counted."""
    filled = [piece for piece in pieces if len(piece.rows)]
    side = filled[0].decoded.size
    rows = ImageRows(
        np.concatenate([piece.ids for piece in filled]),
        np.concatenate([piece.labels for piece in filled]),
        np.repeat([piece.name for piece in filled], [len(piece.rows) for piece in filled]),
        classes,
        (side, side, 3),
    )
    rows.write(path, _prefetch(_pixel_blocks(filled, counted, counts)))


def _read_splits(
    name: str,
    part: Part,
    rules: Rules,
    classes: tuple[str, ...],
    report: Report,
    workers: Workers,
) -> dict[str, SplitRows]:
    """The splits of one source; missing ones are held out of train."""
    tested = part.role == "task"
    label_of = _label_of(name, part, classes)
    wanted = [s for s in part.source.splits if tested or s in ("train", UNDIVIDED)]
    splits = _decode(name, part, wanted, rules, report, workers)
    divided = _divide(splits, tested, part.limit, rules, _generator(name, rules))
    return {
        split: replace(piece, labels=label_of[piece.labels]) for split, piece in divided.items()
    }


def _read_shift(
    name: str,
    part: Part,
    rules: Rules,
    classes: tuple[str, ...],
    pieces: Mapping[str, Sequence[SplitRows]],
    report: Report,
    workers: Workers,
) -> list[SplitRows]:
    """The images of one source that are only evaluated; `pieces` are those of the splits."""
    wanted = ["test"] if "test" in part.source.splits else [*part.source.splits]
    decoded = _decode(name, part, wanted, rules, report, workers)
    used = {
        split: np.concatenate([piece.ids for piece in pieces[split]])
        for split in ("train", "validation")
    }
    kept, report.shifts[name] = select_shift(
        name, decoded, part.source.classes, classes, used, part.limit, _generator(name, rules)
    )
    return kept


def _decode(
    name: str, part: Part, wanted: Sequence[str], rules: Rules, report: Report, workers: Workers
) -> dict[str, SplitRows]:
    """Some splits of a source, with its own labels; the report gets what the source is like."""
    splits: dict[str, SplitRows] = {}
    report.skipped[name], report.sizes[name] = [], []
    for split in wanted:
        data, cache = part.source.splits[split], part.cache / split
        decoded = decode_split(data, f"{name} {split}", rules.decoding, rules.skip, cache, workers)
        report.skipped[name] += decoded.skipped
        report.sizes[name].append(decoded.sizes)
        if not len(decoded.ids):
            raise ArgumentError(f"`sources`: the {split} split of {name} holds no images")
        splits[split] = SplitRows(name, decoded, np.arange(len(decoded.ids)), decoded.labels)
    parts = [piece.decoded for piece in splits.values()]
    report.values[name] = ValueCounts.count(
        np.concatenate([decoded.peaks for decoded in parts]),
        np.concatenate([decoded.extremes for decoded in parts]),
    )
    return splits


def _label_of(name: str, part: Part, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The label in the corpus of each label of a source; the last, which is index -1, is none."""
    number = {class_name: label for label, class_name in enumerate(classes)}
    unknown = [class_name for class_name in part.source.classes if class_name not in number]
    if part.labelled and unknown:
        raise ArgumentError(
            f"`sources`: the class {unknown[0]!r} of {name}, whose role is {part.role}, is in no "
            "source of the role task, so nothing could test it: give it the role memory or task"
        )
    labels = [number[c] if part.labelled else UNLABELLED for c in part.source.classes]
    return np.array([*labels, UNLABELLED], np.int64)


def _divide(
    splits: dict[str, SplitRows],
    tested: bool,
    limit: int | float,
    rules: Rules,
    rng: np.random.Generator,
) -> dict[str, SplitRows]:
    """Hold test images out of train, then limit train, then hold validation images out of it."""
    if UNDIVIDED in splits:
        splits["train"] = splits.pop(UNDIVIDED)
    train = splits["train"]
    if tested and "test" not in splits:
        train, splits["test"] = _hold_out(train, rules.test_fraction, rng)
    if limit != 1.0 or isinstance(limit, int):
        train = train.select(limit_mask(train.labels, limit, rng))
    if tested and "validation" not in splits:
        train, splits["validation"] = _hold_out(train, rules.validation_fraction, rng)
    return {**splits, "train": train}


def _hold_out(
    piece: SplitRows, fraction: float, rng: np.random.Generator
) -> tuple[SplitRows, SplitRows]:
    mask = held_out_mask(piece.ids, piece.labels, fraction, rng)
    return piece.select(~mask), piece.select(mask)


def _words_on_dropped(report: Report) -> str:
    count = report.conflicts.left_out
    return f" (`on_conflict`: drop left {count:,} images out)" if count else ""


def _keep_learnable(
    pieces: dict[str, list[SplitRows]],
    classes: Sequence[tuple[str, str]],
    skip: bool,
    report: Report,
) -> tuple[str, ...]:
    """The classes that have training images; with `skip` the others are removed from `pieces`.

    Args:
        classes: name and source of each class.

    Raises:
        ArgumentError: a class has none, and `skip` is off.
        UserError: fewer than two classes are left.
    """
    counts = {
        split: np.bincount(
            np.concatenate([piece.labels[piece.labels >= 0] for piece in split_pieces]),
            minlength=len(classes),
        )
        for split, split_pieces in pieces.items()
        if split_pieces
    }
    untrained = np.flatnonzero(counts["train"] == 0).tolist()
    for label in untrained:
        name, source = classes[label]
        others = ", ".join(f"{n[label]} in {split}" for split, n in counts.items() if n[label])
        reason = f"has no training image ({others or 'none elsewhere either'})"
        reason += _words_on_dropped(report)
        if not skip:
            raise ArgumentError(
                f"`sources`: the class {name!r} of {source} {reason}: add some, remove the "
                "class, or set `skip` to leave it out"
            )
        report.skipped[source].append(SkippedImage(f"the class {name!r}", reason))
    labels = np.setdiff1d(np.arange(len(classes)), untrained)
    if len(labels) < 2:
        raise UserError(
            f"corpus: there is nothing to tell apart with {len(labels)} class"
            f"{'' if len(labels) == 1 else 'es'}; at least two are needed"
        )
    number = np.full(len(classes) + 1, UNLABELLED)
    number[labels] = np.arange(len(labels))
    for split, split_pieces in pieces.items():
        trained = [piece.select(~np.isin(piece.labels, untrained)) for piece in split_pieces]
        pieces[split] = [replace(piece, labels=number[piece.labels]) for piece in trained]
    return tuple(classes[label][0] for label in labels.tolist())


def _pixel_blocks(
    pieces: Sequence[SplitRows], counted: Collection[str], counts: npt.NDArray[np.int64]
) -> Iterator[Pixels]:
    """Pixels of all pieces, block by block.

    The histogram of each channel is added to `counts`, of the sources in `counted`.
    """
    for piece in pieces:
        for block in piece.decoded.pixels(piece.rows):
            if piece.name in counted:
                rows = block.reshape(-1, block.shape[2], 3)
                counts += np.reshape(Image.fromarray(rows).histogram(), (3, 256))
            yield block


def _prefetch(blocks: Iterator[Pixels]) -> Iterator[Pixels]:
    """The same blocks; a thread computes the next one while the caller uses one."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, blocks, None)
        while (block := pending.result()) is not None:
            pending = pool.submit(next, blocks, None)
            yield block
