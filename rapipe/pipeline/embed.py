"""Stage embed: every image of the corpus -> the store and its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import EmbedParams, Params
from rapipe.device import device
from rapipe.encoder import on_ray
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import ImportedVectors, has_encoder
from rapipe.errors import UserError
from rapipe.io import memory_map, ray_cluster, weights
from rapipe.io.locations import all_locations
from rapipe.io.storage import Storage, is_remote
from rapipe.io.text import expand_home, quoted
from rapipe.pipeline.inputs import checked, images_of, present_corpus, present_encoder
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.progress import track
from rapipe.records import SPLITS, Embeddings, Images
from rapipe.retrieval import store

READS = (paths.CORPUS, paths.ENCODER)
"""The store has its own lock."""

COMPARED = 64
"""Training images whose imported vectors are compared with the encoder's."""
AGREEMENT = 0.9
"""Their similarity if the encoder is the one that made them; other sizes and roundings lower it."""
REMEDY = "name the encoder that made them, with its weights, or none"
BLOCK = 8192
"""Images embedded at once, so that memory does not grow with the corpus."""
SHARED_BYTES = 1 << 27
"""Of the pixels of a block that the nodes of a cluster share; no more images than `BLOCK`."""


def run(params: Params) -> None:
    """Write `data/store` and `data/store.json`."""
    card = present_encoder(params)
    encoder = read_embedder(params, card)
    classes = tuple(present_corpus(params)["classes"])
    spec = store.StoreSpec(encoder.features, classes, weights.fingerprint(card))
    origins = all_locations(checked(paths.LOCATIONS))
    if params.embed.engine == "ray" and isinstance(encoder, Encoder):
        run_on_ray(spec, origins, params.embed)
    else:
        store.write(blocks(encoder), spec, paths.STORE, paths.STORE_MANIFEST, origins)


@argument_keys(**keys_of("embed", EmbedParams))
def run_on_ray(spec: store.StoreSpec, origins: Iterator[str], params: EmbedParams) -> None:
    """The same on a Ray cluster; finished blocks are kept until all rows are in the store."""
    splits = {split: images_of(split) for split in SPLITS}
    parts = [(split, part) for split, images in splits.items() for part in shared_parts(images)]
    blocks = (image_block(split, splits[split].part(part), origins) for split, part in parts)
    shared = params.storage.rstrip("/")
    if not is_remote(shared):
        shared = str(expand_home(shared or paths.SHARED).absolute())
    storage = Storage(f"{shared}/{on_ray.key(spec)}")
    address = params.address or ray_cluster.LOCAL
    fragments = on_ray.embed(blocks, len(parts), paths.ENCODER, spec, storage, address)
    expected = {
        "ids": np.concatenate([images.ids for images in splits.values()]),
        "labels": np.concatenate([images.labels for images in splits.values()]),
        "sources": np.concatenate([images.sources for images in splits.values()]),
        "splits": np.repeat(list(splits), [len(images) for images in splits.values()]),
    }

    def read(fragment: store.Fragment) -> bytes:
        return storage.read(f"rows/{fragment.file}")

    store.write_fragments(fragments, read, expected, spec, paths.STORE, paths.STORE_MANIFEST)
    (storage if params.storage else Storage(shared)).remove()  # with what was given up before


def image_block(split: str, images: Images, origins: Iterator[str]) -> on_ray.ImageBlock:
    """Images as nodes share them, with the next of the origins."""
    memory_map.release_pages()
    return on_ray.ImageBlock(images, split, list(islice(origins, len(images))))


def shared_parts(images: Images) -> list[slice]:
    """Rows of blocks that nodes share, of a bounded number of bytes."""
    rows = min(BLOCK, max(1, SHARED_BYTES // images.pixels[0].nbytes))
    return [slice(start, min(start + rows, len(images))) for start in range(0, len(images), rows)]


def read_embedder(params: Params, card: dict[str, Any]) -> Encoder | ImportedVectors:
    """The encoder, or the imported vectors; `UserError` if the two do not agree."""
    if "vectors" not in card:
        return Encoder.read(paths.ENCODER).to(device())
    imported = ImportedVectors.read(checked(paths.VECTORS))
    if has_encoder(card):
        encoder, train = Encoder.read(paths.ENCODER).to(device()), images_of("train")
        rows = np.sort(np.random.default_rng(params.seed).permutation(len(train))[:COMPARED])
        pixels, name = train.pixels[rows], quoted(params.pretrain.encoder)
        one, other = imported.embed(pixels), encoder.embed(pixels)
        if one.shape != other.shape:
            raise UserError(
                f"{paths.VECTORS} holds vectors of {one.shape[1]} dimensions, but those of "
                f"pretrain.encoder {name} have {other.shape[1]}: {REMEDY}"
            )
        similarity = float(np.median((one * other).sum(axis=1)))
        if similarity < AGREEMENT:
            raise UserError(
                f"{paths.VECTORS} holds vectors whose cosine similarity to those of "
                f"pretrain.encoder {name} is {similarity:.2f} for the "
                f"same images (median of {len(rows)}): {REMEDY}"
            )
    return imported


def blocks(encoder: Encoder | ImportedVectors) -> Iterator[Embeddings]:
    """The embeddings of all splits."""
    for split in SPLITS:
        images = images_of(split)
        starts = range(0, len(images), BLOCK)
        for start in track(starts, f"embedding {split}", len(starts)):
            part = slice(start, start + BLOCK)
            ids = images.ids[part]
            yield Embeddings(
                ids,
                encoder.embed(images.pixels[part]),
                images.labels[part],
                images.sources[part],
                np.full(len(ids), split),
            )
            memory_map.release_pages()
