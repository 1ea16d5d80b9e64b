"""Stage corpus: named sources -> one Arrow file a split, a card, and a contact sheet."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config.schema import CorpusParams, Params
from rapipe.corpus.compose import Part, Report, Rules, compose, corpus_hash
from rapipe.corpus.contact_sheet import contact_sheet
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import key, lock_of
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.errors import printable
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.io.tables import write_json
from rapipe.progress import say
from rapipe.records import SPLITS, UNLABELLED, Images

WRITES = (paths.CORPUS,)

LISTED = 1000
"""Skipped images of a source that the card lists; the others are counted."""
COMMON = 5
"""Sizes that the card counts, the most common first."""


def run(params: Params) -> None:
    """Write `data/corpus/`; sources that have not changed are not decoded again."""
    corpus = params.corpus
    decoding = Decoding(corpus.image_size, corpus.resize, corpus.background, corpus.max_pixels)
    parts = _parts(corpus, decoding)
    rules = Rules(
        decoding,
        corpus.on_error == "skip",
        corpus.merge_classes,
        corpus.validation_fraction,
        corpus.test_fraction,
        params.seed,
    )
    with atomic_folder(paths.CORPUS) as made:
        report = compose(parts, rules, made)
        splits = {split: Images.read(made / paths.split(split).name) for split in SPLITS}
        contact_sheet(splits["train"], made / paths.CONTACT_SHEET.name, params.seed)
        write_json(made / paths.CORPUS_CARD.name, card(splits, parts, report, decoding))
    _prune(
        {part.cache.name for part in parts.values()} | {paths.INDEX.name, paths.INITIAL_CACHE.name}
    )
    for name, skipped in report.skipped.items():
        if skipped:
            say(f"{name}: {len(skipped)} skipped, listed in {paths.CORPUS_CARD}")


def card(
    splits: dict[str, Images], parts: dict[str, Part], report: Report, decoding: Decoding
) -> dict[str, Any]:
    """What the corpus holds; mean and standard deviation of train are on [0, 1]."""
    return {
        "classes": list(splits["train"].classes),
        "splits": {name: _counts(images) for name, images in splits.items()},
        "sources": {name: _source(name, part, report) for name, part in parts.items()},
        "duplicates": {**_duplicates(splits), "removed": report.repeated},
        "decoding": asdict(decoding),
        "mean": report.mean,
        "std": report.std,
        "hash": corpus_hash(splits),
    }


def _parts(corpus: CorpusParams, decoding: Decoding) -> dict[str, Part]:
    """Every source, opened, and the folder that keeps its decoded images."""
    parts = {}
    for asked in corpus.sources:
        labelled = asked.role == "task"
        ask = SourceRequest(asked.path, asked.label, corpus.download, paths.RAW, labelled)
        source = SOURCES[asked.kind](ask)
        cache = paths.CACHE / key(asked.kind, ask, source, decoding)
        parts[asked.name] = Part(source, asked.role, asked.limit, cache)
    return parts


def _prune(kept: set[str]) -> None:
    """Remove decoded images that no source of this corpus uses, unless a process is at it."""
    for folder in [own for own in paths.CACHE.iterdir() if own.name not in kept]:
        if folder.is_dir() and not folder.is_symlink():
            with file_lock(lock_of(folder), "", wait=False) as possible:
                if possible:
                    shutil.rmtree(folder)
                    lock_of(folder).unlink(missing_ok=True)


def _counts(images: Images) -> dict[str, object]:
    sources, of_source = np.unique(images.sources, return_counts=True)
    of_class = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    return {
        "images": len(images),
        "unlabelled": int((images.labels == UNLABELLED).sum()),
        "by_class": dict(zip(images.classes, of_class.tolist(), strict=True)),
        "by_source": dict(zip(sources.tolist(), of_source.tolist(), strict=True)),
    }


def _source(name: str, part: Part, report: Report) -> dict[str, object]:
    """Role, sizes as found (before the limit), and what was skipped."""
    sizes = np.concatenate(report.sizes[name]).astype(np.int64)
    skipped = report.skipped[name]
    pairs, counts = np.unique(sizes[:, 0] * 2**32 + sizes[:, 1], return_counts=True)
    common = np.argsort(-counts, kind="stable")[:COMMON]
    return {
        "role": part.role,
        "limit": part.limit,
        "read": len(sizes),
        "width": _spread(sizes[:, 0]),
        "height": _spread(sizes[:, 1]),
        "common_sizes": {
            f"{pairs[i] >> 32}x{pairs[i] % 2**32}": int(counts[i]) for i in common.tolist()
        },
        "skipped": len(skipped),
        "skipped_list": [printable(f"{one.where} {one.reason}") for one in skipped[:LISTED]],
    }


def _spread(values: npt.NDArray[np.int64]) -> dict[str, int]:
    smallest, median, largest = np.quantile(values, (0, 0.5, 1), method="lower").tolist()
    return {"smallest": smallest, "median": median, "largest": largest}


def _duplicates(splits: dict[str, Images]) -> dict[str, int]:
    """Images that repeat another's pixels within a split; and those of one split in another."""
    found = {name: len(images) - len(np.unique(images.ids)) for name, images in splits.items()}
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        shared = np.isin(splits[one].ids, splits[other].ids)
        found[f"{one} in {other}"] = int(shared.sum())
    return found
