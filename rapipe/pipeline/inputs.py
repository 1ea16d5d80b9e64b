"""What several stages read: artefacts that are what the present parameters make.

A card records what its artefact was made with. Whatever reads the artefact compares that with
params.yaml and with the artefacts before it, and refuses in one sentence what is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.names import GENERATED, MEMORY, TASK
from rapipe.config.schema import IMPORTED, Params
from rapipe.config.variants import Variant
from rapipe.errors import UserError
from rapipe.io import provenance, weights
from rapipe.io.checksums import verify_checksums
from rapipe.io.provenance import Facts
from rapipe.io.tables import parse_checksummed, read_json
from rapipe.records import Embeddings, Images, Neighbours

PARAMS = "params"
"""Key of a card: the parameters that its artefact was made with, and the artefacts."""


def labelled(split: str) -> Images:
    """The labelled images of a split: those that classifiers learn from or are tested on."""
    return query_images(split, unlabelled=False)


def images_of(split: str) -> Images:
    """All images of a split, labelled or not."""
    return Images.read(checked(paths.split(split)))


def shift_images() -> dict[str, Images]:
    """The images of each source that classifiers are only evaluated on, by its name.

    All have labels, which are those of the task's classes. `present_shifts` says whether the
    present parameters made them.
    """
    names = shifts_card()["sources"]
    return {name: Images.read(checked(paths.shift(name))) for name in names}


def query_images(split: str, unlabelled: bool) -> Images:
    """The images of a split that are queries: the labelled ones.

    Args:
        unlabelled: of train also those that a teacher may label: without a label, but not
            of a source that is memory only.
    """
    images = images_of(split)
    mask = images.labels >= 0
    if split == "train":
        mask &= ~in_role(images, MEMORY)
    if split == "train" and unlabelled:
        mask |= in_role(images, TASK)
    return images if mask.all() else images.take(np.flatnonzero(mask))


def in_role(images: Images | Embeddings, role: str) -> npt.NDArray[np.bool_]:
    """Mask (N,) of the images of the sources that have this role in the corpus."""
    if names := sources_in_role(role):
        return np.asarray(np.isin(images.sources, names))
    return np.zeros(len(images), np.bool_)


def sources_in_role(role: str) -> list[str]:
    """Names of the sources that have this role in the corpus."""
    return _sources_with("role", role)


def generated_sources() -> list[str]:
    """Names of the sources of the corpus whose images are generated."""
    return _sources_with("kind", GENERATED)


def _sources_with(parameter: str, value: str) -> list[str]:
    facts = corpus_card()[PARAMS]
    keys = (f"corpus.sources[{i}]" for i in range(facts["corpus.sources"]))
    return [facts[f"{key}.name"] for key in keys if facts[f"{key}.{parameter}"] == value]


def neighbours_of(images: Images, params: Params, strategy: str, split: str) -> Neighbours:
    """The prefetched table of the query images of a split.

    Raises:
        UserError: it belongs to other images, or was made with other parameters.
    """
    path = paths.table(strategy, split)
    recorded = read_card(paths.table_card(strategy)).get(PARAMS)
    provenance.check(path.parent, recorded, deciding.of_table(params, strategy), "prefetch")
    table = read_table(path)
    if split.startswith("train") and len(table.query_ids) > len(images):
        queries = query_images("train", unlabelled=True)
        if np.array_equal(queries.ids, table.query_ids):
            table = table.take(np.flatnonzero(queries.labels >= 0))
    if not np.array_equal(table.query_ids, images.ids):
        raise UserError(f"{path} belongs to other images: run rapipe prefetch, or dvc repro")
    return table


def copied_neighbours_of(
    images: Images, params: Params, strategy: str, noisy: bool
) -> Neighbours | None:
    """The prefetched table of noisy copies of the training images; None if there is to be none.

    Args:
        noisy: those for a classifier whose images have noise too.

    Raises:
        UserError: as `neighbours_of`.
    """
    if not params.retrieval.query_noise:
        return None
    split = paths.NOISY_TRAIN if noisy else paths.COPIED_TRAIN
    card, path = read_card(paths.table_card(strategy)).get(split, {}), paths.table(strategy, split)
    present = deciding.of_noisy_table(params, strategy, noisy)
    provenance.check(path, card.get(PARAMS), present, "prefetch")
    return neighbours_of(images, params, strategy, split) if "queries" in card else None


def read_table(path: Path) -> Neighbours:
    """A prefetched table; the queries' own vectors, if it has them, are a file beside it."""
    table = Neighbours.read(checked(path))
    if table.with_self:
        checked(path.with_suffix(".npy"))
    return table


def setting(params: Params, variant: Variant, precision: str | None) -> Facts:
    """All that two results must share to be compared across k, bank and seeds.

    It holds for what the present parameters make of the present artefacts.

    Args:
        precision: of the training; None if it is not known.

    Raises:
        UserError: an artefact that the variant needs is missing or out of date.
    """
    facts = {"corpus": present_corpus(params)["hash"]}
    facts |= present_initial(params, variant.backbone)
    facts |= deciding.of_training(params, variant, precision)
    if variant.retrieval != "none":
        bank, table = present_bank(params), deciding.of_table(params, variant.retrieval)
        table.pop("retrieval.k", None)
        facts |= {**table, "encoder": bank["encoder"]}
        if variant.rows_shown:
            facts["store"] = bank["store"]
    return facts


def present_generated(params: Params) -> dict[str, Any]:
    """The card of the generated images; `UserError` unless the present parameters made them."""
    card = read_card(paths.GENERATED_CARD)
    facts = deciding.of_generated(params, deciding.explicit_precision(params))
    provenance.check(paths.GENERATED, card.get(PARAMS), facts, "generate")
    return card


def present_corpus(params: Params) -> dict[str, Any]:
    """The card of the corpus; `UserError` unless the present parameters made it."""
    card = corpus_card()
    provenance.check(paths.CORPUS, card.get(PARAMS), deciding.of_corpus(params), "corpus")
    return card


def present_shifts(params: Params) -> Facts:
    """What an evaluation under shift is of: the hash of the images of each source of that role.

    Raises:
        UserError: the present parameters did not make them.
    """
    card = shifts_card()
    provenance.check(paths.SHIFTS, card.get(PARAMS), deciding.of_shifts(params), "corpus")
    return {f"shift {name}": source["hash"] for name, source in card["sources"].items()}


def present_encoder(params: Params) -> dict[str, Any]:
    """The card of the encoder; `UserError` unless present parameters and corpus made it."""
    card = weights.read_card(checked(paths.ENCODER), "pretrain")
    provenance.check(paths.ENCODER, card.get(PARAMS), _of_encoder(params), "pretrain")
    return card


def _of_encoder(params: Params) -> Facts:
    facts = deciding.of_encoder(params, deciding.explicit_precision(params))
    if facts["pretrain.objective"] == IMPORTED:
        facts |= imported_vectors()
    return {"corpus": present_corpus(params)["hash"], **facts}


def imported_vectors() -> Facts:
    """The hash of the imported vectors."""
    if not paths.VECTORS_CARD.exists():
        raise UserError(
            f"pretrain.objective is {IMPORTED}, but {paths.VECTORS} holds no vectors: run rapipe "
            "store import FILE"
        )
    return {"vectors": read_card(paths.VECTORS_CARD)["sha256"]}


def baseline_facts(params: Params) -> Facts:
    """What the encoder's baselines are of; not the memory, which may be edited."""
    card = present_encoder(params)
    facts = {**_of_encoder(params), **deciding.of_baselines(params)}
    return {**facts, "encoder": weights.fingerprint(card)}


def present_bank(params: Params) -> dict[str, Any]:
    """The card of the bank; `UserError` unless the present parameters and artefacts made it.

    An edit of the store since then puts it out of date too.
    """
    card = bank_card()
    facts = {**_of_encoder(params), **deciding.of_bank(params)}
    if paths.ENCODER.exists():
        facts["encoder"] = weights.fingerprint(present_encoder(params))
    if paths.STORE_MANIFEST.exists():
        facts["store"] = read_json(paths.STORE_MANIFEST, "embed", parse_checksummed)["sha256"]
    provenance.check(paths.BANK, card.get(PARAMS), facts, "prefetch")
    return card


def present_initial(params: Params, backbone: str) -> Facts:
    """What a classifier starts from: the parameters that decided it, and a fingerprint.

    Raises:
        UserError: it is missing, or other parameters made it.
    """
    folder = paths.INITIAL / backbone
    card = read_card(folder / weights.CARD)
    facts = initial_facts(params, backbone, deciding.explicit_precision(params))
    provenance.check(folder, card.get(PARAMS), facts, "initialise")
    return {**facts, "initial": card["key"]}


def initial_facts(params: Params, text: str, precision: str | None) -> Facts:
    """All that decides what a classifier starts from; nothing of the corpus for those from scratch.

    Args:
        text: its name in `classifiers.backbones`.
    """
    facts = deciding.of_initial(params, text, precision)
    if not deciding.starts_from_weights(params, text):
        return facts
    return {"corpus": present_corpus(params)["hash"], **facts}


def classifier_card(params: Params, variant: Variant) -> dict[str, Any]:
    """The card of a classifier; `UserError` unless it is what present parameters train.

    The memory may have been edited since: then the classifier looks up in another.
    """
    folder = paths.MODELS / variant.name
    card = read_card(folder / weights.CARD)
    present = setting(params, variant, deciding.explicit_precision(params))
    recorded = card.get("setting")
    if not isinstance(recorded, dict):  # a fingerprint, of 0.10.0 and before
        recorded = None
    provenance.check(folder, recorded, present, "train", ignored=("store",))
    return card


def audit_facts(params: Params) -> Facts:
    """What an audit is of: the bank, and which tables."""
    strategies = {"retrieval.strategies": list(params.retrieval.strategies)}
    return {**present_bank(params)[PARAMS], **strategies}


def quality_facts() -> Facts:
    """What the quality of generated images is of: images and encoder."""
    return {"corpus": corpus_card()["hash"], "encoder": encoder_fingerprint()}


def bank_card() -> dict[str, Any]:
    """What the bank was made from: version of the store, encoder, classes."""
    return read_card(paths.BANK_CARD)


def encoder_fingerprint() -> str:
    """Of the encoder in `data/encoder`: its weights, and how it prepares images."""
    return weights.fingerprint(weights.read_card(checked(paths.ENCODER), "pretrain"))


def check_encoder(fingerprint: str, artefact: object, stage: str) -> None:
    """Raise `UserError` unless `data/encoder` has the fingerprint that embedded an artefact.

    Args:
        stage: the one that makes the artefact anew.
    """
    present = encoder_fingerprint()
    if fingerprint != present:
        raise UserError(
            f"{artefact} was embedded by encoder {fingerprint[:12]}, but {paths.ENCODER} is "
            f"{present[:12]}: run rapipe {stage}, or dvc repro"
        )


def corpus_card() -> dict[str, Any]:
    """Counts, classes, pixel statistics and hash of the corpus."""
    return read_card(paths.CORPUS_CARD)


def shifts_card() -> dict[str, Any]:
    """What the images are that classifiers are only evaluated on; older versions made none."""
    if not paths.SHIFTS.exists():
        return {"sources": {}, PARAMS: {deciding.SHIFTS: []}}
    return read_card(paths.SHIFTS_CARD)


def kept_folder() -> Path:
    """`results/kept`; in a copy of the project, as DVC makes some, that of the project itself."""
    project, copies, _ = Path.cwd().as_posix().partition(paths.COPIES)
    return Path(project) / paths.KEPT if copies else paths.KEPT


def checked(path: Path) -> Path:
    """The path of a file or folder that a stage has made, if it is what the stage wrote.

    Raises:
        UserError: it is missing or not what was written; names the file and the stage.
    """
    verify_checksums(path, paths.maker(path))
    return path


def read_card(path: Path) -> dict[str, Any]:
    """A JSON object in a folder that a stage has made."""
    return read_json(checked(path), paths.maker(path))


def read_result(path: Path) -> dict[str, Any]:
    """What `write_checksummed` wrote; `UserError` names the stage if it is missing or damaged."""
    return read_json(path, paths.maker(path), parse_checksummed)
