"""What has been run of a study, read from its JSON files, and compared.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe.config.names import NOISY
from rapipe.errors import UserError
from rapipe.evaluation import statistics
from rapipe.evaluation.learning_curves import area
from rapipe.evaluation.statistics import Interval, Verdict
from study.running import kept, unpacked

Run = dict[str, Any]
MAIN, ENCODER, SCRATCH = "main", "encoder", "scratch"
"""Settings that others are compared with: the preset, and classifiers of the encoder's size."""
NOISE, ROBUST = "noise", "robust"
"""Settings that others are compared with on noisy images."""
BOOTSTRAP = 0
"""The seed of the bootstrap."""


class Key(NamedTuple):
    """A condition: what differs only by seed has the same."""

    setting: str
    backbone: str
    retrieval: str

    @property
    def words(self) -> str:
        """The condition as tables call it."""
        own = {"none": "no neighbours", "knn": "kNN"}.get(self.retrieval, self.retrieval)
        return f"{self.backbone}, {own}" + (f" ({self.setting})" if self.setting != MAIN else "")


class Claim(NamedTuple):
    """One comparison at one noise level: `first` minus `second`."""

    piece: str
    first: str
    second: str
    noise_std: float
    verdict: Verdict
    without: float
    """The difference without test images that are nearly copies of one in the memory."""
    adjusted_mcnemar: float = 1.0
    adjusted_p: float = 1.0

    @property
    def words(self) -> str:
        """What may be said of it."""
        return statistics.words(self.verdict, self.adjusted_mcnemar, self.adjusted_p)


@dataclass(frozen=True)
class StudyResults:
    """All that has been run of one scale."""

    runs: dict[Key, list[Run]]
    """One a seed, the seeds ascending."""
    encoders: dict[str, dict[str, Any]]
    """By kind, what the results keep of each."""

    @classmethod
    def read(cls, folder: Path) -> StudyResults:
        """Everything in the folder of a scale; `UserError` if nothing is there."""
        by_key: dict[Key, list[Run]] = defaultdict(list)
        for path in sorted(folder.glob("runs/*/*.json")):
            run = kept(path)
            v = run["variant"]
            by_key[Key(run["setting"], v["backbone"], v["retrieval"])].append(run)
        if not by_key:
            raise UserError(f"{folder} holds no results: run a piece first, such as main")
        encoders = {
            path.stem.partition("-")[2]: kept(path)
            for path in sorted(folder.glob("encoder-*.json"))
        }
        runs = {
            key: sorted(own, key=lambda run: run["variant"]["seed"]) for key, own in by_key.items()
        }
        found = cls(runs, encoders)
        found.check()
        return found

    def check(self) -> None:
        """Raise `UserError` if runs are of other test images, which nothing may be compared on."""
        for key, own in self.runs.items():
            home = self.encoders.get(own[0]["encoder"]["kind"])
            for run in own:
                if home is None or run["corpus"] != home["corpus"]["hash"]:
                    raise UserError(
                        f"{key.setting}/{key.backbone}-{key.retrieval} is of another corpus than "
                        "its encoder's results: run its piece again"
                    )
        counts = {row["n_test"] for run in self.every() for row in run["rows"]}
        if len(counts) > 1:
            raise UserError(
                f"results are of test splits of {sorted(counts)} images: run them again"
            )

    def every(self) -> Iterator[Run]:
        """All runs."""
        for own in self.runs.values():
            yield from own

    @cached_property
    def images(self) -> int:
        """N."""
        return int(next(self.every())["rows"][0]["n_test"])

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """(L,), the first is clean."""
        return tuple(row["noise_std"] for row in next(self.every())["rows"])

    @cached_property
    def lookalikes(self) -> npt.NDArray[np.bool_]:
        """(N,), test images that the audit of the own memory lists as nearly copies."""
        return unpacked(self.encoders["own"]["lookalikes"], self.images)

    def keys(self, setting: str = "") -> list[Key]:
        """The conditions of a setting."""
        order = {"none": 0, "sampled": 1}
        kept = [key for key in self.runs if key.setting == setting]
        return sorted(
            kept, key=lambda key: (_place(key.backbone), key.backbone, order.get(key.retrieval, 2))
        )

    def scratch(self) -> list[Key]:
        """The conditions of the encoder's own network from scratch, with neighbours and without."""
        networks = {key.backbone.partition("+")[0] for key in self.keys(ENCODER)}
        own = [key for key in self.keys(MAIN) if key.backbone in networks]
        return self.keys(SCRATCH) or [key for key in own if key.retrieval in ("none", "knn")]

    def settings(self, start: str) -> list[str]:
        """The settings whose names start so, by the number in their names."""
        names = {key.setting for key in self.runs if key.setting.startswith(start)}
        return sorted(names, key=lambda name: (_number(name), name))

    def cells(self) -> Iterator[tuple[str, str, Key]]:
        """Backbone, its neighbours in words, and condition: noise in training or not.

        Without neighbours, with those of an encoder that has not seen noise, of one that has.
        """
        for backbone in dict.fromkeys(key.backbone for key in self.keys(NOISE)):
            plain = backbone.removesuffix(NOISY)
            for home, name in ((MAIN, plain), (NOISE, backbone)):
                for setting, retrieval, told in (
                    (home, "none", "none"),
                    (home, "knn", "kNN"),
                    (ROBUST, "knn", "kNN by the robust encoder"),
                ):
                    key = Key(setting, name, retrieval)
                    if key in self.runs:
                        yield plain, told, key

    def hardened(self) -> Iterator[tuple[str, Key]]:
        """Backbone, and condition with noise in training: without neighbours, or with those of
        the encoder that saw noise too."""
        for backbone, _, key in self.cells():
            shown = (key.setting, key.retrieval) in ((NOISE, "none"), (ROBUST, "knn"))
            if shown and key.backbone.endswith(NOISY):
                yield backbone, key

    def correct(self, key: Key, seeds: Sequence[int] = ()) -> npt.NDArray[np.bool_]:
        """Whether each answer was right (S, L, N)."""
        return self._bits(key, "correct", seeds)

    def voted(self, key: Key, seeds: Sequence[int] = ()) -> npt.NDArray[np.bool_]:
        """Whether the best vote of its neighbours was (S, L, N)."""
        return self._bits(key, "voted", seeds)

    def _bits(self, key: Key, name: str, seeds: Sequence[int]) -> npt.NDArray[np.bool_]:
        kept = [run for run in self.runs[key] if not seeds or run["variant"]["seed"] in seeds]
        return np.stack(
            [np.stack([unpacked(level, self.images) for level in run[name]]) for run in kept]
        )

    def seeds(self, key: Key) -> list[int]:
        """Which seeds a condition has."""
        return [run["variant"]["seed"] for run in self.runs[key]]

    def top1(self, key: Key, level: int) -> list[float]:
        """Accuracy of each seed at a noise level."""
        return [run["rows"][level]["top1"] for run in self.runs[key]]

    def areas(self, key: Key) -> list[float]:
        """Area under test accuracy against images seen, of each seed."""
        return [area(run["history"]) for run in self.runs[key]]

    def interval(self, values: npt.NDArray[Any]) -> Interval:
        """Of the mean of values (S, N), over seeds and images."""
        return statistics.interval_of_mean(values, BOOTSTRAP)


def _place(backbone: str) -> int:
    order = ("resnet18", "alexnet", "perceiver")
    name = backbone.partition("+")[0]
    return order.index(name) if name in order else len(order)


def _number(name: str) -> float:
    last = name.rpartition("-")[2]
    return float(last) if last.replace(".", "").isdigit() else 0.0


def claims(found: StudyResults) -> list[Claim]:
    """Every comparison that the study is after, on clean images and at each noise level.

    P-values are adjusted for all comparisons of the same piece.
    """
    made: list[Claim] = []
    for piece, first, second, of_vote in _pairs(found):
        if first not in found.runs or second not in found.runs:
            continue
        seeds = sorted(set(found.seeds(first)) & set(found.seeds(second)))
        if not seeds:
            continue
        a = found.correct(first, seeds)
        b = found.voted(second, seeds) if of_vote else found.correct(second, seeds)
        name = f"the best vote of its neighbours, of {second.words}" if of_vote else second.words
        left = ~found.lookalikes
        for place, level in enumerate(found.levels):
            verdict = statistics.compare(a[:, place], b[:, place], BOOTSTRAP)
            without = a[:, place][:, left].mean() - b[:, place][:, left].mean()
            made.append(Claim(piece, first.words, name, level, verdict, float(without)))
    adjusted: list[Claim] = []
    for piece in dict.fromkeys(claim.piece for claim in made):
        own = [claim for claim in made if claim.piece == piece]
        by_image = statistics.holm([claim.verdict.mcnemar for claim in own])
        by_seed = statistics.holm([claim.verdict.p for claim in own])
        adjusted += [
            claim._replace(adjusted_mcnemar=one, adjusted_p=other)
            for claim, one, other in zip(own, by_image, by_seed, strict=True)
        ]
    return adjusted


Pair = tuple[str, Key, Key, bool]
"""Piece, what is compared with what, and whether the second is the vote of its neighbours."""


def _pairs(found: StudyResults) -> Iterator[Pair]:
    """What is compared."""
    for own in (*found.keys(SCRATCH), *found.keys(ENCODER)):
        if own.retrieval != "none":
            yield "floors", own, own._replace(retrieval="none"), False
        elif own.setting == ENCODER:
            for scratch in found.scratch():
                yield "floors", scratch, own, False
    networks = list(dict.fromkeys(key.backbone for key in found.keys(MAIN)))
    for name in networks:
        plain, near = Key(MAIN, name, "none"), Key(MAIN, name, "knn")
        sampled = Key(MAIN, name, "sampled")
        yield "main", near, plain, False
        yield "main", near, sampled, False
        yield "main", sampled, plain, False
        yield "main", near, near, True
        noisy = [Key(NOISE, name + NOISY, own) for own in ("none", "knn")]
        yield "noise", noisy[1], noisy[0], False
        yield "noise", near, noisy[0], False
        robust, both = (own._replace(setting=ROBUST) for own in (near, noisy[1]))
        for own in (plain, near, noisy[0]):
            yield "robust", robust, own, False
        yield "robust", robust, robust, True
        for own in noisy:
            yield "robust", both, own, False
        for setting in found.settings("labels-"):
            few = [Key(setting, name, own) for own in ("none", "knn")]
            yield "labels", few[1], few[0], False
            yield "labels", few[1], few[1], True
        yield "random", near, Key("random", name, "knn"), False
        yield "random", Key("random", name, "knn"), plain, False
        for piece in ("k", "bank"):
            for setting in found.settings(f"{piece}-"):
                yield piece, Key(setting, name, "knn"), plain, False
        for setting in found.settings("fusion-"):
            yield "fusion", near, Key(setting, name, "knn"), False
            yield "fusion", Key(setting, name, "knn"), plain, False
        yield "longer", Key("longer", name, "knn"), Key("longer", name, "none"), False
        yield "wider", Key("wider-encoder", name, "knn"), near, False
        yield "wider", Key("wider-memory", name, "knn"), Key("wider-encoder", name, "knn"), False
        yield "wider", Key("wider-memory", name, "knn"), plain, False


def run_rows(found: StudyResults) -> list[dict[str, Any]]:
    """A row a run and noise level, for the CSV."""
    rows = []
    for key, own in found.runs.items():
        for run in own:
            v, params = run["variant"], run["parameters"]
            shared = {
                "piece": run["piece"],
                "setting": key.setting,
                "backbone": key.backbone,
                "retrieval": key.retrieval,
                "k": v["k"],
                "bank_size": run["rows"][0]["bank_size"],
                "encoder": run["encoder"]["kind"],
                "label_fraction": params["train"]["label_fraction"],
                "attend": params["retrieval"]["attend"] if v["k"] else "",
                "places": params["retrieval"]["places"] if v["k"] else "",
                "gate": params["retrieval"]["gate"] if v["k"] else "",
                "dropout": params["retrieval"]["dropout"] if v["k"] else "",
                "epochs": params["train"]["epochs"],
                "seed": v["seed"],
                "weights": run["weights"],
                "best_epoch": run["best_epoch"],
                "area": round(area(run["history"]), 6),
                "train_seconds": run["seconds"]["train"],
                "eval_seconds": run["seconds"]["eval"],
                "precision": run["precision"],
                "processor": run["machine"].get("gpu", run["machine"]["processor"]),
                "threads": run["machine"]["threads"],
                "corpus": run["corpus"],
            }
            scores = ("noise_std", "top1", "top3", "nll", "ece")
            rows += [{**shared, **{name: row[name] for name in scores}} for row in run["rows"]]
    return rows


def claim_rows(made: Sequence[Claim]) -> list[dict[str, Any]]:
    """A row a comparison, for the CSV."""
    return [
        {
            "piece": own.piece,
            "first": own.first,
            "second": own.second,
            "noise_std": own.noise_std,
            "difference": own.verdict.difference,
            "low": own.verdict.interval.low,
            "high": own.verdict.interval.high,
            "without_lookalikes": own.without,
            "seeds": own.verdict.seeds,
            "mcnemar": own.verdict.mcnemar,
            "p": own.verdict.p,
            "adjusted_mcnemar": own.adjusted_mcnemar,
            "adjusted_p": own.adjusted_p,
            "words": own.words,
        }
        for own in made
    ]
