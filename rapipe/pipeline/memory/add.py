"""`rapipe store add`: embed the training images of a source into the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config.corpus_params import SourceParams
from rapipe.config.names import SHIFT
from rapipe.config.schema import Params
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import DecodedSplit, Workers, cache_key, decode_split
from rapipe.corpus.labels import conflicting_ids, limit_mask
from rapipe.corpus.sources import SOURCES, kind_of
from rapipe.corpus.sources.base import UNDIVIDED
from rapipe.corpus.sources.hub_files import is_on_hub
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import has_encoder
from rapipe.errors import UserError, printable, rename_arguments
from rapipe.io.text import expand_home
from rapipe.io.weights import CARD
from rapipe.pipeline.corpus import request_of
from rapipe.pipeline.inputs import (
    check_encoder,
    checked,
    corpus_card,
    images_of,
    read_card,
    shift_images,
)
from rapipe.pipeline.memory.edit import after_edit, open_store
from rapipe.pipeline.running.argument_keys import CORPUS_KEYS, argument_keys
from rapipe.progress import say
from rapipe.records import UNLABELLED, Embeddings
from rapipe.retrieval.store import add

READS = (paths.CORPUS, paths.ENCODER)

BLOCK = 8192
"""Images embedded at once."""


@argument_keys(**CORPUS_KEYS)
def run(
    params: Params,
    source: str,
    classes: Sequence[str],
    limit: int,
    name: str,
    unlabelled: bool,
) -> str:
    """Embed the training images of a source into the store.

    Args:
        source: a name in corpus.sources, a kind of source, or a file or folder of images.
        classes: only these of its classes; all if empty.
        limit: at most so many images, in the proportions of the classes; 0 = all.
        name: of the source in the store; its name in params.yaml by default.
        unlabelled: leave its labels out.
    """
    store = open_store()
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    if not has_encoder(read_card(paths.ENCODER / CARD)):
        raise UserError(
            f"{paths.STORE} holds imported vectors, and no encoder is at hand that could embed "
            f"{source}: name the one that made them in pretrain.encoder, or add the images to "
            "corpus.sources and import the vectors of all anew by rapipe store import"
        )
    source_params = _source_params(params, source, name)
    labelled = not unlabelled and source_params.labelled
    decoded, names = _decode(params, source_params, labelled)
    for class_name in classes:
        if class_name not in names:
            raise UserError(
                f"--class {class_name!r}: {source} has no such class; it has {', '.join(names)}"
            )
    mask = ~np.isin(decoded.ids, _held_out())
    if classes:
        mask &= np.isin(decoded.labels, [names.index(class_name) for class_name in classes])
    if limit:
        rows = np.flatnonzero(mask)
        rng = np.random.default_rng([params.seed, *source_params.name.encode()])
        mask[rows[~limit_mask(decoded.labels[rows], limit, rng)]] = False
    rows = np.flatnonzero(mask)
    if not len(rows):
        raise UserError(
            f"{source} has no training image to add that the test and validation "
            "splits and the shifts lack"
        )
    used = [names[label] for label in np.unique(decoded.labels[rows]) if label >= 0]
    store_classes = store.manifest.classes
    if labelled:
        store_classes = (*store_classes, *(name for name in used if name not in store_classes))
    labels_of_source = [
        store_classes.index(name) if labelled and name in used else UNLABELLED for name in names
    ]
    labels = np.array([*labels_of_source, UNLABELLED])[decoded.labels]  # label -1 is the last
    encoder = Encoder.read(checked(paths.ENCODER)).to(device())
    blocks = _embed(decoded, rows, labels, source_params.name, encoder)
    edit = " ".join(["add", source, *(f"--class {class_name}" for class_name in classes)])
    is_new = np.zeros(len(decoded.ids), np.bool_)
    is_new[rows] = True
    origins = map(printable, compress(decoded.locations(), is_new.tolist()))
    manifest, count = add(blocks, store_classes, edit, store, origins)
    conflicting = conflicting_ids(
        np.concatenate([store.rows.ids, decoded.ids[rows]]),
        np.concatenate([store.rows.labels, labels[rows]]),
    )
    if both := int(np.isin(conflicting, decoded.ids[rows]).sum()):
        say(f"warning: {both:,} of them are in the store, or were added, with another label too")
    return f"{after_edit(manifest)}: {count:,} rows of {source_params.name} added"


def _source_params(params: Params, source: str, name: str) -> SourceParams:
    """The source by its name in params.yaml, its kind, or its path."""
    sources = {group.name: group for group in params.corpus.sources}
    if source in sources:
        if sources[source].role == SHIFT:
            raise UserError(
                f"the role of {source!r} in corpus.sources is {SHIFT}, which is never looked up"
            )
        return replace(sources[source], name=name or source, limit=1.0, weight=1.0)
    if source in SOURCES:
        return SourceParams(kind=source, name=name or source)
    if is_on_hub(source):
        return SourceParams(kind="parquet", path=source, name=name or "hub")
    path = expand_home(source)
    if not path.exists():
        raise UserError(
            f"{source!r} is no file or folder, no source of corpus.sources "
            f"({', '.join(sources)}) and no kind of source ({', '.join(SOURCES)})"
        )
    return SourceParams(kind=kind_of(path), path=source, name=name or path.absolute().stem)


def _decode(
    params: Params, source_params: SourceParams, labelled: bool
) -> tuple[DecodedSplit, tuple[str, ...]]:
    """The training images of a source as squares, and the names of its classes."""
    decoding = Decoding(**corpus_card()["decoding"])
    request = request_of(source_params, params.corpus.download, labelled)
    kind, name = source_params.kind, source_params.name
    images = SOURCES[kind](request)
    for remark in images.remarks(name):
        say(remark)
    split = next((split for split in ("train", UNDIVIDED) if split in images.splits), None)
    if split is None:
        raise UserError(f"{name} has no train split, only {', '.join(images.splits)}")
    cache = paths.CACHE / cache_key(kind, request, images, decoding) / split
    skip = params.corpus.on_error == "skip"
    with Workers() as workers:
        decoded = decode_split(images.splits[split], name, decoding, skip, cache, workers)
    if decoded.skipped:
        first = rename_arguments(str(decoded.skipped[0]), CORPUS_KEYS)
        say(f"{name}: {len(decoded.skipped)} skipped, first {first}")
    return decoded, images.classes


def _embed(
    decoded: DecodedSplit,
    rows: npt.NDArray[np.int64],
    labels: np.ndarray,
    name: str,
    encoder: Encoder,
) -> Iterator[Embeddings]:
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        pixels = np.concatenate(list(decoded.pixels(block)))
        yield Embeddings(
            decoded.ids[block],
            encoder.embed(pixels, f"embedding {name}"),
            labels[block],
            np.full(len(block), name),
            np.full(len(block), "train"),
        )


def _held_out() -> npt.NDArray[np.int64]:
    """Ids of the images that never enter the store: validation, test and those of shifts."""
    held_out = [images_of("validation"), images_of("test"), *shift_images().values()]
    return np.concatenate([images.ids for images in held_out])
