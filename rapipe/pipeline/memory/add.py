"""What `rapipe store add` does: embed the training images of a source into the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config.schema import Params, SourceParams
from rapipe.corpus.compose import limited
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import Decoded, Workers, decode_split, key
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.corpus.sources.base import WHOLE
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.pipeline.inputs import checked, corpus_card, images_of
from rapipe.pipeline.memory.edit import changed, opened
from rapipe.pipeline.provenance import check_encoder
from rapipe.progress import say
from rapipe.records import UNLABELLED, Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store.selection import named

READS = (paths.CORPUS, paths.ENCODER)

BLOCK = 8192
"""Images embedded at once."""


def run(
    params: Params,
    source: str,
    classes: Sequence[str],
    limit: int,
    name: str,
    unlabelled: bool,
) -> str:
    """Embed the training images of a source into the memory.

    Args:
        source: a name in corpus.sources, a kind of source, or a file or folder of images.
        classes: only these of its classes; all if empty.
        limit: at most so many images, in the proportions of the classes; 0 = all.
        name: what the memory calls the source; its own name unless given.
        unlabelled: leave its labels out.
    """
    memory = opened()
    check_encoder(memory.manifest.encoder, paths.STORE, "embed")
    asked = _asked(params, source, name)
    labelled = not unlabelled and asked.role == "task"
    decoded, names = _decoded(params, asked, labelled)
    for own in classes:
        if own not in names:
            raise UserError(f"--class {own!r}: {source} has no such class; it has {named(names)}")
    mask = ~np.isin(decoded.ids, _held_out())
    if classes:
        mask &= np.isin(decoded.labels, [names.index(own) for own in classes])
    if limit:
        chosen = np.flatnonzero(mask)
        rng = np.random.default_rng([params.seed, *asked.name.encode()])
        mask[chosen[~limited(decoded.labels[chosen], limit, rng)]] = False
    rows = np.flatnonzero(mask)
    if not len(rows):
        raise UserError(
            f"{source} has no training image to add that the test and validation splits lack"
        )
    used = [names[label] for label in np.unique(decoded.labels[rows]) if label >= 0]
    known = memory.manifest.classes
    if labelled:
        known = (*known, *(own for own in used if own not in known))
    number = [known.index(own) if labelled and own in used else UNLABELLED for own in names]
    labels = np.array([*number, UNLABELLED])[decoded.labels]  # -1 finds the last
    encoder = Encoder.read(checked(paths.ENCODER)).to(device())
    blocks = _embedded(decoded, rows, labels, asked.name, encoder)
    edit = " ".join(["add", source, *(f"--class {own}" for own in classes)])
    made, new = store.add(blocks, known, edit, memory)
    return f"{changed(made)}: {new:,} rows of {asked.name} added"


def _asked(params: Params, source: str, name: str) -> SourceParams:
    known = {own.name: own for own in params.corpus.sources}
    if source in known:
        own = known[source]
        return SourceParams(own.kind, own.path, name or own.name, own.label, own.role)
    if source in SOURCES:
        return SourceParams(source, name=name or source)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{source!r} is no file or folder, no source of corpus.sources ({named(known)}) and "
            f"no kind of source ({named(SOURCES)})"
        )
    tabular = path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))
    return SourceParams("parquet" if tabular else "folder", source, name or path.stem)


def _decoded(
    params: Params, asked: SourceParams, labelled: bool
) -> tuple[Decoded, tuple[str, ...]]:
    """The training images of a source as squares, and the names of its classes."""
    decoding = Decoding(**corpus_card()["decoding"])
    ask = SourceRequest(asked.path, asked.label, params.corpus.download, paths.RAW, labelled)
    opened_source = SOURCES[asked.kind](ask)
    split = next((own for own in ("train", WHOLE) if own in opened_source.splits), None)
    if split is None:
        raise UserError(f"{asked.name} has no train split, only {', '.join(opened_source.splits)}")
    cache = paths.CACHE / key(asked.kind, ask, opened_source, decoding)
    skip = params.corpus.on_error == "skip"
    with Workers() as workers:
        decoded = decode_split(
            opened_source.splits[split], asked.name, decoding, skip, cache / split, workers
        )
    if decoded.skipped:
        first = decoded.skipped[0]
        say(f"{asked.name}: {len(decoded.skipped)} skipped, first {first.where} {first.reason}")
    return decoded, opened_source.classes


def _embedded(
    decoded: Decoded, rows: npt.NDArray[np.int64], labels: np.ndarray, name: str, encoder: Encoder
) -> Iterator[Embeddings]:
    for start in range(0, len(rows), BLOCK):
        own = rows[start : start + BLOCK]
        pixels = np.concatenate(list(decoded.pixels(own)))
        yield Embeddings(
            decoded.ids[own],
            encoder.embed(pixels, f"embedding {name}"),
            labels[own],
            np.full(len(own), name),
            np.full(len(own), "train"),
        )


def _held_out() -> npt.NDArray[np.int64]:
    """Ids of the images of validation and test: they never enter the memory."""
    return np.concatenate([images_of(s).ids for s in ("validation", "test")])
