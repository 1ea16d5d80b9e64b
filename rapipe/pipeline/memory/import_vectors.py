"""`rapipe store import`: vectors that another program made of the corpus's images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rapipe import paths
from rapipe.config.schema import IMPORTED, Params
from rapipe.io.folders import atomic_folder
from rapipe.io.locations import all_locations
from rapipe.io.tables import write_json
from rapipe.io.text import expand_home
from rapipe.pipeline.inputs import checked, images_of, present_corpus
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.records import SPLITS
from rapipe.retrieval.store import CorpusImages, import_vectors

READS = (paths.CORPUS,)
WRITES = (paths.VECTORS,)

KEPT = ".gitkeep"
"""So that the folder, which dvc.yaml names, is there before anything is imported."""


@argument_keys(key="--key")
def run(params: Params, file: Path, key: str) -> str:
    """Write `data/vectors/` from a file; says what to do next.

    Args:
        key: what joins a row to an image: id, path or row; "" is the first that the file has.
    """
    corpus = present_corpus(params)
    ids = np.concatenate([images_of(split).ids for split in SPLITS])
    images = CorpusImages(ids, lambda: all_locations(checked(paths.LOCATIONS)))
    with atomic_folder(paths.VECTORS) as folder:
        imported = import_vectors(expand_home(file), key, images, folder)
        card = {
            "file": str(file),
            "key": imported.key,
            "count": imported.images,
            "dimension": imported.dimension,
            "sha256": imported.sha256,
            "corpus": corpus["hash"],
        }
        write_json(folder / paths.VECTORS_CARD.name, card)
        (folder / KEPT).touch()
    scaled = f", {imported.scaled:,} of them brought to unit length" if imported.scaled else ""
    others = f"; {imported.others:,} rows of other images were left out" if imported.others else ""
    objective = (
        ""
        if params.pretrain.objective == IMPORTED
        else f"set pretrain.objective to {IMPORTED} (and pretrain.encoder to the one that made "
        "them, or to none), then "
    )
    return (
        f"{paths.VECTORS} holds {imported.images:,} vectors of {imported.dimension} dimensions, "
        f"joined by {imported.key}{scaled}{others}; {objective}run rapipe pretrain and rapipe "
        "embed, or dvc repro"
    )
