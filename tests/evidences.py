"""Evidence made by hand, of which the right answers are known."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from rapipe.evaluation.comparisons import ENCODER_VOTE, PROBE
from rapipe.evaluation.evidence import CounterfactualStack, EncoderBaseline, Evidence, Stack
from rapipe.evaluation.results import Condition
from rapipe.records import OTHER_IMAGE

NONE, KNN = Condition("net", "none"), Condition("net", "knn")
SELF, BESIDE = Condition("net", "self"), Condition("net", "self+knn")
N = 400


def evidence(knn: float, vote: float, seeds: int = 1, noisy: bool = False) -> Evidence:
    """A network right for .5 of the images without neighbours; with knn, and its vote, as given.

    Later seeds are right for a few images more or less.
    """

    def correct(share: float) -> np.ndarray:
        rows = [np.arange(N) < share * N + 2 * seed for seed in range(seeds)]
        return np.broadcast_to(np.stack(rows)[:, None], (seeds, 2, N))

    def stack(share: float, retrieval: str) -> Stack:
        scores = np.random.default_rng(0).random((seeds, 2, N)).astype(np.float32)
        if retrieval == "none":
            return Stack(correct(share), confidence=scores)
        return Stack(correct(share), correct(vote), correct(share), scores, scores, scores)

    run = {
        "setting": {},
        "rows": [{"ece": 0.1, "retrieval": "knn"}, {"ece": 0.2}],
        "votes": [
            {"noise_std": std, "vote": "rank", "k": 3, "validation_top1": 0.5, "top1": vote}
            for std in (0.0, 0.2)
        ],
        "drift": [],
    }

    def counterfactual(name: str) -> CounterfactualStack:
        facts = {"change": -0.25, "flips": 0.25, "kl": 0.1, "top1": 0.5}
        facts |= {"neighbour_agreement": None, "total_variation": 0.2}
        rows = [{"noise_std": 0.0, "swap": name, **facts} for _ in range(seeds)]
        distance = np.stack([np.full(N, 0.2 + 0.1 * seed, np.float32) for seed in range(seeds)])
        change = np.where(np.arange(N) % 4, 0.0, -1.0) * np.ones((seeds, 1))
        return CounterfactualStack(rows, change, distance)

    shares = {NONE: 0.5, KNN: knn}
    if noisy:
        shares |= {Condition("net+noise", name): 0.9 for name in ("none", "knn")}
    return Evidence(
        levels=(0.0, 0.2),
        stacks={own: stack(share, own.retrieval) for own, share in shares.items()},
        runs={condition: [copy.deepcopy(run) for _ in range(seeds)] for condition in shares},
        histories={},
        near_duplicates=np.zeros(N, bool),
        seed=0,
        counterfactuals={
            own: {(0.0, name): counterfactual(name) for name in ("none", "knn", OTHER_IMAGE)}
            for own in shares
            if own.retrieval == "knn"
        },
        noise_augmented={"net": "net+noise"} if noisy else {},
    )


def with_controls(seeds: int = 3, probe: float = 0.6, own: float = 0.9) -> Evidence:
    """The network with knn right for .7, with its own vector, with both for .72; the encoder's
    linear probe, its vote (.3) and itself, fine-tuned, as `encoder` (.95)."""
    base = evidence(0.7, 0.6, seeds)

    def correct(share: float, count: int = seeds) -> np.ndarray:
        return np.broadcast_to(np.arange(N) < share * N, (count, 2, N))

    tuned = Condition("encoder", "none")
    shared = {"corpus": "c", "encoder": "e", "seed": 0, "train.label_fraction": 1}
    settings: dict[Condition, dict] = {
        own: {**shared, "train.epochs": 6, "initial": own.backbone} for own in (NONE, tuned)
    }
    settings[tuned]["pretrain.epochs"] = 3
    for condition in (NONE, tuned):
        del settings[condition]["encoder"]
    for condition in (KNN, SELF, BESIDE):
        settings[condition] = {**settings[NONE], "encoder": "e", "retrieval.k": 4, "store": "s"}
    stacks = {NONE: base.stacks[NONE], KNN: base.stacks[KNN]}
    stacks[SELF] = Stack(correct(own), confidence=base.stacks[NONE].confidence)
    stacks[BESIDE] = base.stacks[KNN]._replace(correct=correct(0.72))
    stacks[tuned] = Stack(correct(0.95), confidence=base.stacks[NONE].confidence)
    runs = {
        condition: [
            {**copy.deepcopy(run), "setting": settings[condition]} for run in base.runs[KNN]
        ]
        for condition in stacks
    }
    for run in runs[SELF]:
        run |= {"votes": [], "drift": []}
    return replace(
        base,
        stacks=stacks,
        runs=runs,
        encoder_baselines={
            "probe": EncoderBaseline(PROBE, "C = 1", correct(probe, 1), shared),
            "vote": EncoderBaseline(ENCODER_VOTE, "rank, k = 2", correct(0.3, 1), shared),
        },
        fine_tuned="encoder",
    )
