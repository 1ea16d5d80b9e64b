"""Stages evaluate-plain and evaluate-retrieval: one classifier on the whole test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import metrics, paths
from rapipe.classifier import Classifier
from rapipe.device import device
from rapipe.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation import attribution, drift, votes
from rapipe.evaluation.attribution import Blame
from rapipe.evaluation.lookup import Lookup
from rapipe.evaluation.noise import Noted, Seen, levels_seen, scores
from rapipe.evaluation.swaps import Swaps, examine
from rapipe.files import sha256, whole
from rapipe.params import Params, Variant
from rapipe.pipeline.ask import ask_of
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    labelled,
    neighbours_of,
    write_csv,
    write_result,
)
from rapipe.pipeline.memory import check_encoder
from rapipe.records import Embeddings, Images
from rapipe.retrieved import Bank

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS, paths.MODELS)
WRITES = (paths.EVIDENCE,)
"""This stands for the results beside it too."""

SHOWN = 8
"""Rows of the memory that the results name, of the most harmful and of the most helpful."""


def run(params: Params, variant: Variant) -> None:
    """Write `results/runs/<variant>.json`, and `data/evidence/<variant>/`: images and rows.

    If the memory has been edited since the classifier was trained, there is only
    `<variant>@<memory>.json`, so that both can be compared.
    """
    classifier, card = Classifier.read(checked(paths.MODELS / variant.name))
    classifier.to(device())
    images = labelled("test")
    keys = {
        "backbone": variant.backbone,
        "retrieval": variant.retrieval,
        "k": variant.k,
        "seed": variant.seed,
    }
    examined, memory, store, lookup = None, "", "", None
    if variant.retrieval != "none":
        remembered = bank_card()
        memory, store = remembered["memory"], remembered["store"]
        lookup = lookup_of(params, variant, classifier, card, remembered, images)
        examined = Examination(params, variant, classifier, lookup, images)
    edited = bool(lookup) and store != card.get("memory")
    bank = examined.bank if examined else None
    vote = votes.best(examined.votes) if examined else None
    noted = Noted(images, lookup.bank if lookup else None, vote)
    rows: list[dict[str, Any]] = []
    by_class: list[float | None] = []
    levels = (0.0, *sorted(params.evaluate.noise_std))
    for seen in levels_seen(classifier, images, levels, lookup, bank, params.seed):
        noted.add(seen)
        row = {**keys, **scores(seen, images), "bank_size": len(lookup.bank) if lookup else 0}
        rows.append({**row, "memory": memory})
        by_class = by_class or metrics.by_class(seen.logits, images.labels, len(images.classes))
        if examined:
            examined.add(seen, noted)
    seen_sha256 = ""
    if not edited:
        with whole(paths.EVIDENCE / variant.name) as folder:
            noted.predictions().write(folder / paths.PREDICTIONS)
            seen_sha256 = sha256(folder / paths.PREDICTIONS)
            if examined and examined.blamed:
                write_csv(folder / paths.BLAME, examined.blame_rows())
    write_result(
        paths.RUNS / f"{variant.name}{'@' + memory if edited else ''}.json",
        {
            "setting": card["setting"],
            "parameters": card["parameters"],
            "best_epoch": card["best_epoch"],
            "edited": edited,
            "predictions_sha256": seen_sha256,
            "store": store,
            "rows": rows,
            "by_class": dict(zip(images.classes, by_class, strict=True)),
            **(examined.found if examined else {}),
        },
    )


def lookup_of(
    params: Params,
    variant: Variant,
    classifier: Classifier,
    card: dict[str, Any],
    remembered: dict[str, Any],
    images: Images,
) -> Lookup:
    """The bank that was prefetched last; `UserError` if the classifier cannot use it."""
    check_encoder(remembered["encoder"], paths.BANK, "prefetch")
    bank = Embeddings.read(checked(paths.BANK))
    d = classifier.spec.dimension
    if bank.vectors.shape[1] != d:
        raise UserError(
            f"{variant.name} was trained with vectors of {d} dimensions, but {paths.BANK} holds "
            f"vectors of {bank.vectors.shape[1]}: run rapipe train, or dvc repro"
        )
    known, asked = remembered.get("labels_known", [1.0])[0], card.get("label_fraction", 1.0)
    if known != asked:
        raise UserError(
            f"{variant.name} was trained with a train.label_fraction of {asked:g}, but "
            f"{paths.BANK} was made for {known:g}: run rapipe prefetch and train, or dvc repro"
        )
    if np.isin(bank.ids, images.ids).any():
        raise UserError(f"{paths.BANK} holds images of the present test split: run rapipe prefetch")
    return Lookup(
        Encoder.read(checked(paths.ENCODER)).to(device()),
        bank,
        variant.retrieval,
        ask_of(params),
        len(images.classes),
        paths.QUERIES,
        remembered["encoder"],
    )


class Examination:
    """What a classifier does with what it looks up, gathered level by level.

    Whatever is chosen (votes, rows to prune) is chosen on the validation split.
    """

    def __init__(
        self,
        params: Params,
        variant: Variant,
        classifier: Classifier,
        lookup: Lookup,
        images: Images,
    ) -> None:
        self.params, self.classifier, self.lookup, self.images = params, classifier, lookup, images
        self.classes = len(images.classes)
        self.bank = Bank(lookup.bank, self.classes, device())
        self.blamed: Blame | None = None
        self.found: dict[str, Any] = {"votes": [], "drift": [], "swaps": []}
        self.clean: Seen | None = None
        self._on_validation(variant)

    def _on_validation(self, variant: Variant) -> None:
        """Choose the votes; leave neighbours out one at a time."""
        asking = labelled("validation")
        table, bank = neighbours_of(asking, variant, "validation"), self.lookup.bank
        ask = not self.lookup.all_known
        queries = self.lookup.queries(asking, asking.pixels) if ask else None
        voters = self.lookup.voters(table, queries)
        self.votes = votes.chosen(*voters, asking.labels, self.classes)
        pruned, count = np.empty(0, np.int64), min(self.params.evaluate.attributed, len(asking))
        if count:
            rng = np.random.default_rng(self.params.seed)
            some = np.sort(rng.permutation(len(asking))[:count])
            found = attribution.attribute(
                self.classifier,
                asking.pixels[some],
                asking.labels[some],
                self.bank,
                table.indices[some],
            )
            self.blamed = attribution.blame(found)
            share = self.params.retrieval.prune
            pruned = attribution.worst(self.blamed, share, len(bank), variant.k)
            rows = self.blame_rows()
            self.found["attribution"] = {
                **attribution.summary(found, self.params.seed),
                "rows": len(rows),
                "harmful": int((self.blamed.effect < 0).sum()),
                "pruned": len(pruned),
                "harm": rows[:SHOWN],
                "help": rows[: -SHOWN - 1 : -1],
            }
        self.swaps = Swaps(
            self.images,
            self.lookup,
            self.classes,
            self.classifier.spec.attend,
            self.params.evaluate.poisoned,
            pruned,
            self.params.retrieval.strategies,
        )

    def add(self, seen: Seen, noted: Noted) -> None:
        """Votes, drift and swaps at one noise level; the clean one comes first."""
        assert seen.found is not None
        assert seen.queries is not None
        assert seen.voters is not None
        labels, bank = self.images.labels, self.lookup.bank
        level = {"noise_std": seen.noise_std}
        for vote in self.votes:
            counted = vote(*seen.voters, self.classes)
            own = {"vote": vote.name, "k": vote.k, "validation_top1": vote.validation_top1}
            self.found["votes"].append({**level, **own, "top1": metrics.top_k(counted, labels, 1)})
        clean = self.clean = self.clean or seen
        assert clean.found is not None
        moved = drift.drift(clean.found, seen.found, seen.queries.vectors, bank, labels)
        repaired = seen.logits
        if seen is not clean:
            repaired = self.classifier.predict(seen.pixels, self.bank, clean.found.indices)
        top1 = [metrics.top_k(own, labels, 1) for own in (clean.logits, seen.logits, repaired)]
        self.found["drift"].append({**level, **moved, **drift.split(*top1)})
        noted.note("repaired", metrics.hits(repaired, labels))
        if seen.noise_std in self.params.evaluate.swap_std:
            swapped = examine(self.classifier, seen, self.swaps, self.bank)
            self.found["swaps"] += swapped.rows
            for change, distance in zip(swapped.change, swapped.moved, strict=True):
                noted.note("change", change)
                noted.note("moved", distance)

    def blame_rows(self) -> list[dict[str, object]]:
        """The rows of the memory that validation images looked up, the most harmful first."""
        assert self.blamed is not None
        bank, classes = self.lookup.bank, bank_card()["classes"]
        return [
            {
                "id": int(bank.ids[row]),
                "class": classes[bank.labels[row]] if bank.labels[row] >= 0 else "",
                "source": str(bank.sources[row]),
                "shown": int(shown),
                "effect": round(float(effect), 6),
            }
            for row, shown, effect in zip(*self.blamed, strict=True)
        ]
