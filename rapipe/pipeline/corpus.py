"""Stage corpus: sources -> an Arrow file for each split, a card, and a contact sheet.

Sources of the role shift have the same in a folder of their own. Nothing else that is written
depends on them, so that trainings stay valid when one is added.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.corpus_params import SourceParams
from rapipe.config.names import GENERATED
from rapipe.config.schema import Params
from rapipe.corpus.compose import Part, Report, Rules, compose, corpus_hash
from rapipe.corpus.conflicts import Conflicts
from rapipe.corpus.contact_sheet import contact_sheet
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import Workers, cache_key, lock_path
from rapipe.corpus.labels import absence_words, absent_classes
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.errors import printable, rename_arguments
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.io.tables import write_json
from rapipe.pipeline.inputs import present_generated
from rapipe.pipeline.running.argument_keys import CORPUS_KEYS, argument_keys
from rapipe.progress import say
from rapipe.records import SPLITS, UNLABELLED, Images

READS = (paths.GENERATED,)
WRITES = (paths.CORPUS,)

LISTED = 1000
"""Skipped images of a source that the card lists; the rest are only counted."""
COMMON = 5
"""Sizes of images that the card lists, the most common first."""


@argument_keys(**CORPUS_KEYS)
def run(params: Params) -> None:
    """Write `data/corpus/`; sources that have not changed are not decoded again."""
    corpus, rules = params.corpus, rules_of(params)
    decoding = rules.decoding
    if params.generated_sources:
        present_generated(params)
    sources = open_sources(corpus.sources, corpus.download, decoding)
    with atomic_folder(paths.CORPUS) as folder:
        with Workers() as workers:
            report = compose(sources, rules, folder, workers)
        splits = {split: Images.read(folder / paths.split(split).name) for split in SPLITS}
        contact_sheet(splits["train"], folder / paths.CONTACT_SHEET.name, params.seed)
        facts = {**card(splits, sources, report, decoding), "params": deciding.of_corpus(params)}
        write_json(folder / paths.CORPUS_CARD.name, facts)
        write_shifts(folder / paths.SHIFTS.name, sources, report, params)
    caches = {part.cache.name for part in sources.values()}
    _prune(caches | {paths.INDEX.name, paths.INITIAL_CACHE.name})
    for name, skipped in report.skipped.items():
        if skipped:
            listed = paths.SHIFTS_CARD if name in report.shifts else paths.CORPUS_CARD
            say(f"{name}: {len(skipped)} skipped, listed in {listed}")
    for name, shift in report.shifts.items():
        say(f"{name}: {shift}")
    for name, values in report.values.items():
        for hint in values.hints(decoding.depth):
            say(f"warning: {name}: {rename_arguments(hint, CORPUS_KEYS)}")
    if report.conflicts.ids:
        what = f"corpus.on_conflict: {corpus.on_conflict}, listed in {paths.CORPUS_CARD}"
        say(f"warning: {report.conflicts} ({what})")
    for split, absent in facts["absent_classes"].items():
        if absent:
            words = absence_words(split, absent, len(facts["classes"]))
            say(f"warning: {words}; nothing is measured of them there")


def card(
    splits: dict[str, Images], sources: dict[str, Part], report: Report, decoding: Decoding
) -> dict[str, Any]:
    """Counts, sizes, duplicates and skipped images; mean and std of train are on [0, 1]."""
    return {
        "classes": list(splits["train"].classes),
        "splits": {name: _counts(images) for name, images in splits.items()},
        "sources": {
            name: _source(name, part, report, decoding)
            for name, part in sources.items()
            if name not in report.shifts
        },
        "duplicates": {**_duplicates(splits), "removed": report.repeated},
        "conflicts": _conflicts(report.conflicts),
        "absent_classes": {
            name: absent_classes(splits[name].labels, splits[name].classes)
            for name in ("validation", "test")
        },
        "decoding": asdict(decoding),
        "mean": report.mean,
        "std": report.std,
        **({"generated_copies": report.copies} if report.copies else {}),
        "hash": corpus_hash(splits),
    }


def write_shifts(folder: Path, sources: dict[str, Part], report: Report, params: Params) -> None:
    """Write the card, and contact sheets, of the images that classifiers are only evaluated on."""
    folder.mkdir(exist_ok=True)
    cards = {}
    for name, shift in report.shifts.items():
        images = Images.read(folder / paths.shift(name).name)
        contact_sheet(images, folder / f"{name}.png", params.seed)
        cards[name] = {
            **_source(name, sources[name], report, rules_of(params).decoding),
            "shift": asdict(shift),
            "by_class": _counts(images)["by_class"],
            "hash": corpus_hash({name: images}),
        }
    facts = {"sources": cards, "params": deciding.of_shifts(params)}
    write_json(folder / paths.SHIFTS_CARD.name, facts)


def rules_of(params: Params) -> Rules:
    """How sources become a corpus."""
    corpus = params.corpus
    return Rules(
        Decoding(
            corpus.image_size, corpus.resize, corpus.background, corpus.max_pixels, corpus.depth
        ),
        corpus.on_error == "skip",
        corpus.merge_classes,
        corpus.on_conflict,
        corpus.validation_fraction,
        corpus.test_fraction,
        params.seed,
    )


def request_of(params: SourceParams, download: bool, labelled: bool) -> SourceRequest:
    """What to read of a source."""
    home = paths.GENERATED.parent if params.kind == GENERATED else paths.RAW
    return SourceRequest(
        params.path, params.label, download, home, labelled, params.image, params.split
    )


def open_sources(
    groups: Iterable[SourceParams], download: bool, decoding: Decoding
) -> dict[str, Part]:
    """Sources, opened, with the cache folder of their decoded images, by name."""
    sources = {}
    for group in groups:
        request = request_of(group, download, group.labelled)
        source = SOURCES[group.kind](request)
        for remark in source.remarks(group.name):
            say(remark)
        cache = paths.CACHE / cache_key(group.kind, request, source, decoding)
        generated = group.kind == GENERATED
        sources[group.name] = Part(source, group.role, group.limit, cache, generated)
    return sources


def _prune(names: set[str]) -> None:
    """Remove all folders of decoded images but these, unless another process uses them."""
    for folder in [path for path in paths.CACHE.iterdir() if path.name not in names]:
        if folder.is_dir() and not folder.is_symlink():
            with file_lock(lock_path(folder), "", wait=False) as acquired:
                if acquired:
                    shutil.rmtree(folder)
                    lock_path(folder).unlink(missing_ok=True)


def _counts(images: Images) -> dict[str, object]:
    sources, of_source = np.unique(images.sources, return_counts=True)
    of_class = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    return {
        "images": len(images),
        "unlabelled": int((images.labels == UNLABELLED).sum()),
        "by_class": dict(zip(images.classes, of_class.tolist(), strict=True)),
        "by_source": dict(zip(sources.tolist(), of_source.tolist(), strict=True)),
    }


def _source(name: str, part: Part, report: Report, decoding: Decoding) -> dict[str, object]:
    """Role, sizes before resizing and before the limit, values, and what was skipped."""
    values = report.values[name]
    hints = [rename_arguments(hint, CORPUS_KEYS) for hint in values.hints(decoding.depth)]
    sizes = np.concatenate(report.sizes[name]).astype(np.int64)
    skipped = report.skipped[name]
    words = (rename_arguments(str(image), CORPUS_KEYS) for image in skipped[:LISTED])
    pairs, counts = np.unique(sizes[:, 0] * 2**32 + sizes[:, 1], return_counts=True)
    common = np.argsort(-counts, kind="stable")[:COMMON]
    return {
        "role": part.role,
        "limit": part.limit,
        **({"revision": part.source.revision} if part.source.revision else {}),
        "read": len(sizes),
        "width": _spread(sizes[:, 0]),
        "height": _spread(sizes[:, 1]),
        "common_sizes": {
            f"{pairs[i] >> 32}x{pairs[i] % 2**32}": int(counts[i]) for i in common.tolist()
        },
        "passed_over": dict(part.source.passed_over),
        "values": asdict(values),
        "hints": [*map(printable, part.source.hints), *hints],
        "skipped": len(skipped),
        "skipped_list": list(map(printable, words)),
    }


def _conflicts(conflicts: Conflicts) -> dict[str, object]:
    """The same pixels in several classes: how many, and the first of them."""
    return {
        "ids": conflicts.ids,
        "images": conflicts.images,
        "left_out": conflicts.left_out,
        "list": [
            {
                "id": conflict.image_id,
                "images": [
                    {name: printable(text) for name, text in copy._asdict().items()}
                    for copy in conflict.copies
                ],
            }
            for conflict in conflicts.first
        ],
    }


def _spread(values: npt.NDArray[np.int64]) -> dict[str, int]:
    smallest, median, largest = np.quantile(values, (0, 0.5, 1), method="lower").tolist()
    return {"smallest": smallest, "median": median, "largest": largest}


def _duplicates(splits: dict[str, Images]) -> dict[str, int]:
    """Numbers of images that repeat another of their split, and of those that are in two splits."""
    counts = {name: len(images) - len(np.unique(images.ids)) for name, images in splits.items()}
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        shared = np.isin(splits[one].ids, splits[other].ids)
        counts[f"{one} in {other}"] = int(shared.sum())
    return counts
