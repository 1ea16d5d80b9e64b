"""What has been run of a study, read from its JSON files.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.config.names import NOISY
from rapipe.errors import UserError
from rapipe.evaluation.evidence import Evidence, Stack
from rapipe.evaluation.learning_curves import area
from rapipe.evaluation.results import Condition, Run
from rapipe.io.provenance import differences, listed
from study.records import GRID, Record, read_record, unpack_bits

MAIN, ENCODER, SCRATCH = "main", "encoder", "scratch"
"""Settings that others are compared with: the preset, and classifiers of the encoder's size."""
NOISE, ROBUST = "noise", "robust"
"""Settings that others are compared with on noisy images."""
BOOTSTRAP = 0
"""The seed of the bootstrap."""
BACKBONES = ("resnet18", "alexnet", "perceiver")
STRATEGIES = {"none": 0, "sampled": 1}
"""The order of conditions."""


@dataclass(frozen=True, kw_only=True)
class StudyResults(Evidence):
    """All that has been run of one scale; conditions have a setting."""

    encoders: Mapping[str, Record]
    """By kind."""

    @classmethod
    def read(cls, folder: Path) -> StudyResults:
        """Everything in the folder of a scale.

        Raises:
            UserError: nothing is there, a file is damaged, or runs are of other test images.
        """
        records: dict[Condition, list[Run]] = defaultdict(list)
        for path in sorted(folder.glob("runs/*/*.json")):
            run = read_record(path)
            variant = run["variant"]
            condition = Condition(variant["backbone"], variant["retrieval"], setting=run["setting"])
            records[condition].append(run)
        if not records:
            raise UserError(f"{folder} holds no results: run an experiment first, such as main")
        encoders = {
            path.stem.partition("-")[2]: read_record(path)
            for path in sorted(folder.glob("encoder-*.json"))
        }
        runs = {
            condition: sorted(seeds, key=lambda run: run["variant"]["seed"])
            for condition, seeds in records.items()
        }
        _check(runs, encoders)
        rows = next(iter(runs.values()))[0]["rows"]
        count = int(rows[0]["n_test"])
        return cls(
            levels=tuple(row["noise_std"] for row in rows),
            stacks={condition: _stack(seeds, count) for condition, seeds in runs.items()},
            runs=runs,
            histories={
                condition: [run["history"] for run in seeds] for condition, seeds in runs.items()
            },
            near_duplicates=unpack_bits(encoders["own"]["lookalikes"], count),
            seed=BOOTSTRAP,
            encoders=encoders,
        )

    def setting_of(self, condition: Condition) -> dict[str, Any]:
        """What decided the classifiers of a condition, which is the same for all its seeds."""
        return setting_facts(self.runs[condition][0])

    def every_run(self) -> Iterator[Run]:
        """All runs."""
        for runs in self.runs.values():
            yield from runs

    def of(self, *settings: str) -> list[Condition]:
        """The conditions of settings, setting by setting."""
        return sorted(
            (condition for condition in self.runs if condition.setting in settings),
            key=lambda condition: (settings.index(condition.setting), *_order(condition)),
        )

    def only(self, *settings: str) -> Evidence:
        """The evidence of these settings alone."""
        conditions = self.of(*settings)
        parts: dict[str, Any] = {
            name: {condition: getattr(self, name)[condition] for condition in conditions}
            for name in ("stacks", "runs", "histories")
        }
        return Evidence(
            levels=self.levels, near_duplicates=self.near_duplicates, seed=self.seed, **parts
        )

    def scratch(self) -> list[Condition]:
        """The conditions of the encoder's network from scratch, with neighbours and without."""
        networks = {condition.backbone.partition("+")[0] for condition in self.of(ENCODER)}
        same = [condition for condition in self.of(MAIN) if condition.backbone in networks]
        return self.of(SCRATCH) or [
            condition for condition in same if condition.retrieval in ("none", "knn")
        ]

    def settings(self, start: str) -> list[str]:
        """The settings whose names start so, by the number in their names."""
        names = {
            condition.setting for condition in self.runs if condition.setting.startswith(start)
        }
        return sorted(names, key=lambda name: (_number(name), name))

    def cells(self) -> Iterator[tuple[str, str, Condition]]:
        """Backbone, its neighbours in words, and condition: noise in training or not.

        Without neighbours, with those of an encoder that has not seen noise, of one that has.
        """
        for noisy in dict.fromkeys(condition.backbone for condition in self.of(NOISE)):
            plain = noisy.removesuffix(NOISY)
            for base, name in ((MAIN, plain), (NOISE, noisy)):
                for setting, retrieval, words in (
                    (base, "none", "none"),
                    (base, "knn", "kNN"),
                    (ROBUST, "knn", "kNN by the robust encoder"),
                ):
                    condition = Condition(name, retrieval, setting=setting)
                    if condition in self.runs:
                        yield plain, words, condition

    def hardened(self) -> Iterator[tuple[str, Condition]]:
        """Backbone, and condition with noise in training: without neighbours, or with those of
        the encoder that saw noise too."""
        for backbone, _, condition in self.cells():
            kind = (condition.setting, condition.retrieval)
            if kind in ((NOISE, "none"), (ROBUST, "knn")) and condition.backbone.endswith(NOISY):
                yield backbone, condition

    def seeds(self, condition: Condition) -> list[int]:
        """Which seeds a condition has."""
        return [run["variant"]["seed"] for run in self.runs[condition]]

    def top1(self, condition: Condition, level: int) -> list[float]:
        """Accuracy of each seed at a noise level."""
        return [run["rows"][level]["top1"] for run in self.runs[condition]]


def setting_facts(run: Run) -> dict[str, Any]:
    """What decided a classifier but its seed: parameters by key, and hashes of artefacts.

    Not the parameters that only say which other classifiers there are, or how neighbours are
    examined after the training.
    """
    groups = dict(run["parameters"])
    groups["classifiers"] = {
        key: value for key, value in groups["classifiers"].items() if key not in GRID
    }
    groups["evaluate"] = {"noise_std": groups["evaluate"]["noise_std"]}
    plain = run["variant"]["retrieval"] == "none"
    if plain:
        del groups["retrieval"], groups["pretrain"]
    facts = {
        f"{group}.{key}": value
        for group, values in groups.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    neighbours = {} if plain else {"store": run["store"], "encoder": run["encoder"]["kind"]}
    names = {"backbone": run["variant"]["backbone"], "corpus": run["corpus"]}
    shared = {"seed": groups["seed"], "precision": run["precision"]}
    return {**facts, **names, **neighbours, **shared}


def _check(runs: Mapping[Condition, list[Run]], encoders: Mapping[str, Record]) -> None:
    """Raise `UserError` if runs are of other test images, which nothing may be compared on."""
    counts = set()
    for condition, seeds in runs.items():
        encoder = encoders.get(seeds[0]["encoder"]["kind"])
        for run in seeds:
            if encoder is None or run["corpus"] != encoder["corpus"]["hash"]:
                raise UserError(
                    f"{condition.setting}/{condition.backbone}-{condition.retrieval} is of "
                    "another corpus than its encoder's results: run its experiment again"
                )
            if others := differences(setting_facts(seeds[0]), setting_facts(run)):
                raise UserError(
                    f"seeds of {condition.setting}/{condition.backbone}-{condition.retrieval} were "
                    f"made with {listed(others)}: run its experiment again"
                )
            counts |= {row["n_test"] for row in run["rows"]}
    if len(counts) > 1:
        raise UserError(f"results are of test splits of {sorted(counts)} images: run them again")


def _stack(seeds: list[Run], count: int) -> Stack:
    """The predictions of a condition."""

    def bits(name: str) -> Any:
        return np.stack(
            [np.stack([unpack_bits(level, count) for level in run[name]]) for run in seeds]
        )

    return Stack(bits("correct"), bits("voted") if seeds[0]["voted"] else None)


def _order(condition: Condition) -> tuple[int, str, int]:
    name = condition.backbone.partition("+")[0]
    rank = BACKBONES.index(name) if name in BACKBONES else len(BACKBONES)
    return rank, condition.backbone, STRATEGIES.get(condition.retrieval, len(STRATEGIES))


def _number(name: str) -> float:
    last = name.rpartition("-")[2]
    return float(last) if last.replace(".", "").isdigit() else 0.0


def run_rows(results: StudyResults) -> list[dict[str, Any]]:
    """A row a run and noise level, for the CSV."""
    rows = []
    for condition, runs in results.runs.items():
        for run in runs:
            variant, params = run["variant"], run["parameters"]
            fusion = ("attend", "stages", "gate", "dropout")
            shared = {
                "piece": run["piece"],
                "setting": condition.setting,
                "backbone": condition.backbone,
                "retrieval": condition.retrieval,
                "k": variant["k"],
                "bank_size": run["rows"][0]["bank_size"],
                "encoder": run["encoder"]["kind"],
                "label_fraction": params["train"]["label_fraction"],
                **{name: params["retrieval"][name] if variant["k"] else "" for name in fusion},
                "epochs": params["train"]["epochs"],
                "seed": variant["seed"],
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
