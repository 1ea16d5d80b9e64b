"""No result of one setting stands beside one of another, whatever is changed and run by hand.

The oracle is dvc.yaml, which names the parameters and artefacts of each stage: what DVC would run
again is out of date, and so nothing made before may be read with what was made since.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_dvc import STAGES, downstream

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.errors import UserError
from rapipe.evaluation.comparisons import NEIGHBOURS, Pair, Side
from rapipe.io import provenance
from rapipe.io.provenance import differences
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.pipeline import (
    audit,
    baselines,
    corpus,
    embed,
    evaluate,
    initialise,
    prefetch,
    pretrain,
    report,
    train,
)
from rapipe.pipeline.inputs import corpus_card
from rapipe.pipeline.results import read_evidence, read_results
from rapipe.pipeline.running.fresh import RETRIEVAL, SELECTING
from rapipe.retrieval.search import EXACT

OTHERS: dict[str, Any] = {
    "seed": 1,
    "corpus.sources": [{"kind": "digits", "limit": 0.5}],
    "corpus.image_size": 24,
    "corpus.resize": "pad",
    "corpus.background": "black",
    "corpus.max_pixels": 1000,
    "corpus.depth": 12,
    "corpus.on_error": "skip",
    "corpus.on_conflict": "drop",
    "corpus.merge_classes": True,
    "corpus.download": True,
    "corpus.validation_fraction": 0.2,
    "corpus.test_fraction": 0.3,
    "generate.method": "acgan",
    "generate.images": 3,
    "generate.width": 8,
    "generate.epochs": 2,
    "generate.batch_size": 16,
    "generate.learning_rate": 0.002,
    "generate.guidance": 0.5,
    "generate.sampler": "ddim",
    "generate.steps": 5,
    "pretrain.devices": 2,
    "pretrain.nodes": 2,
    "pretrain.objective": "simclr",
    "pretrain.encoder": "alexnet",
    "pretrain.init": "data/encoder",
    "pretrain.image_size": 24,
    "pretrain.pool": "mean",
    "pretrain.precision": "bf16",
    "pretrain.width": 8,
    "pretrain.stem": "cifar",
    "pretrain.views": "crop",
    "pretrain.head": [16],
    "pretrain.temperature": 0.5,
    "pretrain.optimiser": "adamw",
    "pretrain.epochs": 2,
    "pretrain.batch_size": 64,
    "pretrain.learning_rate": 0.1,
    "pretrain.local_crops": 2,
    "pretrain.keep_every": 1,
    "embed.engine": "ray",
    "embed.address": "auto",
    "embed.storage": "s3://bucket/prefix",
    "retrieval.strategies": ["knn"],
    "retrieval.k": 2,
    "retrieval.diversity": 0.25,
    "retrieval.replay": 500,
    "retrieval.bank": 300,
    "retrieval.backend": "faiss",
    "retrieval.index": "IVF4,Flat",
    "retrieval.engine": "ray",
    "retrieval.min_recall": 0.5,
    "retrieval.attend": "both",
    "retrieval.stages": "all",
    "retrieval.gate": True,
    "retrieval.dropout": 0.25,
    "retrieval.prune": 0.1,
    "classifiers.backbones": ["alexnet"],
    "classifiers.seeds": [1],
    "classifiers.init": "weights.pt",
    "classifiers.distill": "resnet18",
    "classifiers.distill_temperature": 2.0,
    "classifiers.noise_std": 0.2,
    "train.label_fraction": 0.5,
    "train.width": 8,
    "train.stem": "cifar",
    "train.image_size": 12,
    "train.augment": "shift",
    "train.mixup": 0.2,
    "train.label_smoothing": 0.1,
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.accumulate": 2,
    "train.learning_rate": 0.01,
    "train.schedule": "linear",
    "train.warmup": 0.1,
    "train.weight_decay": 0.1,
    "train.clip": 1.0,
    "train.average": "ema",
    "train.patience": 1,
    "train.tune": ["learning_rate"],
    "train.loggers": ["csv"],
    "train.measure_every": 2,
    "train.probe_every": 0,
    "train.precision": "bf16",
    "train.compile": True,
    "train.deterministic": True,
    "train.devices": 2,
    "train.nodes": 2,
    "evaluate.noise_std": [0.2],
    "evaluate.swap_std": [],
    "evaluate.poisoned": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": ["fog:1"],
    "retrieval.query_noise": 0.1,
}
"""Another value of each parameter of `tiny`."""
ONE_CHOICE = {"retrieval.fusion"}
UNCHANGED = {
    "corpus.download": "nothing is missing",
    **{key: "no source is generated" for key in OTHERS if key.startswith("generate.")},
    **{key: "the rows are the same" for key in OTHERS if key.startswith("embed.")},
    "retrieval.diversity": "of a strategy that is not among them",
    "retrieval.replay": "of a strategy that is not among them",
    "retrieval.backend": "exact search is the same by every backend",
    "retrieval.engine": "the tables are the same",
    "retrieval.min_recall": "exact search finds all",
    "classifiers.init": "of a classifier that is not among them",
    "classifiers.distill": "of a classifier that is not among them",
    "classifiers.distill_temperature": "of a classifier that is not among them",
    "classifiers.backbones": "others stay as they are",
    "retrieval.strategies": "others stay as they are",
    "train.loggers": "marked as one that changes no result",
    "train.probe_every": "marked as one that changes no result",
    "train.compile": "marked as one that changes no result",
    "train.deterministic": "marked as one that changes no result",
    **{
        f"{group}.{name}": "marked as one that changes no result"
        for group in ("pretrain", "train")
        for name in ("devices", "nodes")
    },
}
"""Parameters after whose change DVC runs stages again, but classifiers come out the same."""
RUNS: dict[str, Callable[[Params], None]] = {
    stage.__name__.rpartition(".")[2]: stage.run
    for stage in (corpus, pretrain, embed, prefetch, audit, baselines, initialise)
}


def of_variant(run: Callable[[Params, Variant], None], plain: bool, params: Params) -> None:
    """Run a stage of variants for the first of its kind."""
    run(params, next(v for v in variants(params) if (v.retrieval == "none") == plain))


for name, run in (("train", train.run), ("evaluate", evaluate.run)):
    RUNS[f"{name}-plain"] = partial(of_variant, run, True)
    RUNS[f"{name}-retrieval"] = partial(of_variant, run, False)


def leaves(record: Any, prefix: str = "") -> Iterator[str]:
    """The full keys of all parameters; sources are one."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def changed(params: Params, key: str, value: Any) -> Params:
    """The same parameters but for one."""
    content = json.loads(json.dumps(dataclasses.asdict(params)))
    group, _, name = key.rpartition(".")
    (content[group] if group else content)[name] = value
    return parse(read_yaml(write_yaml(content)))


def other_value(key: str) -> Any:
    """Another value than the present one."""
    if key != "train.precision":
        return OTHERS[key]
    card = json.loads((paths.ENCODER / "card.json").read_text())
    return "fp32" if card["params"][key] == "bf16" else "bf16"  # `auto` was one of them


def declares(names: Iterable[str], key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def stages_of(key: str) -> set[str]:
    """The stages that run again where a parameter has changed.

    Those of variants are told apart by kinds, `train-plain` and `train-retrieval`, as each variant
    is made again only where something has changed that it depends on.
    """
    declared = {name for name, facts in STAGES.items() if declares(facts.get("params", ()), key)}
    stale = downstream(declared - {*SELECTING})
    names = stale - {*SELECTING, "report"}
    for stage, selecting in SELECTING.items():
        params = [name for name in STAGES[stage]["params"] if name not in selecting]
        if stage in stale or declares(params, key) or "train-retrieval" in names:
            names.add(f"{stage}-retrieval")
        params = [name for name in params if not name.startswith(RETRIEVAL)]
        if {"corpus", "initialise", "train-plain"} & names or declares(params, key):
            names.add(f"{stage}-plain")
    return names


def chain(variant: Variant) -> set[str]:
    """The stages that make a classifier; its evaluation is one more."""
    if variant.retrieval == "none":
        return {"corpus", "initialise", "train-plain"}
    return {"corpus", "pretrain", "embed", "prefetch", "initialise", "train-retrieval"}


def is_stale(key: str, variant: Variant, run_again: set[str]) -> bool:
    """Whether DVC would train a variant again, after these stages have been run by hand."""
    if key in UNCHANGED:
        return False
    stale = stages_of(key) - run_again
    if key == "classifiers.noise_std" and not variant.classifier.noisy:
        return False
    if key.startswith("pretrain."):  # no classifier starts from the encoder
        stale -= {"initialise"}
        if variant.retrieval == "none":
            return False
    return bool(stale & chain(variant))


@pytest.fixture
def project(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of the tiny folder to write in."""
    shutil.copytree(tiny[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tiny[1]


def names_read(params: Params) -> set[str]:
    """The evaluations that are read together."""
    try:
        return set(read_results(params).runs)
    except UserError:
        return set()


def test_every_parameter_has_another_value(in_tiny: Params) -> None:
    assert set(OTHERS) | ONE_CHOICE == set(leaves(in_tiny))
    for key, value in OTHERS.items():
        assert changed(in_tiny, key, value) != in_tiny, key


@pytest.mark.parametrize("key", OTHERS)
def test_results_are_read_unless_a_parameter_makes_others(key: str, in_tiny: Params) -> None:
    """Of each parameter: changed alone, exactly those that DVC would make anew are left out."""
    params = changed(in_tiny, key, other_value(key))
    present = {v.name: v for v in variants(params) if v in variants(in_tiny)}
    others = {v.name: v for v in variants(in_tiny)}  # of another k or bank than the present
    read = names_read(params)
    for name, variant in present.items():
        assert (name in read) != is_stale(key, variant, set()), name
    if key == "retrieval.k":
        assert read == set(others)  # an ablation
    elif key == "retrieval.bank":
        assert not {name for name in read if others[name].retrieval != "none"}
    elif key == "classifiers.seeds":
        assert not read
    else:
        assert read <= set(present)
    try:
        read_evidence(params, read_results(params))
        complete = True
    except UserError:
        complete = False
    assert not complete or key in UNCHANGED or not stages_of(key)


BY_HAND = [
    (key, stage) for key in OTHERS for stage in RUNS if stage in stages_of(key) or stage == "audit"
]


def run_by_hand(key: str, stage: str, params: Params) -> None:
    """Change a parameter, run one stage: its right result or a sentence, and nothing is mixed."""
    params = changed(params, key, other_value(key))
    images = corpus_card()["hash"]
    run_again, sentence = {stage}, ""
    try:
        RUNS[stage](params)
    except UserError as error:
        run_again, sentence = set(), str(error)
    assert "\n" not in sentence
    if run_again == {"corpus"} and corpus_card()["hash"] == images:
        return  # the digits come out the same, and so does all that is made of them
    present = {v.name: v for v in variants(params)}
    for name in names_read(params) & set(present):
        assert not is_stale(key, present[name], run_again), (name, run_again)


ALIKE: dict[tuple[str, ...], list[str]] = {}
for changed_key in OTHERS:
    ALIKE.setdefault(tuple(sorted(stages_of(changed_key))), []).append(changed_key)


@pytest.mark.parametrize(
    "key", [key for stages, keys in ALIKE.items() if stages for key in keys[:2]]
)
def test_a_stage_after_the_stale_one_refuses(key: str, project: Params) -> None:
    """The second stage that DVC would run, for two keys of those that put the same out of date.

    The others, and the first stage, are run in the slow test.
    """
    stages = [stage for stage in RUNS if stage in stages_of(key)]
    if key not in UNCHANGED and len(stages) > 1:
        run_by_hand(key, stages[1], project)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "stage"), BY_HAND)
def test_one_stage_by_hand(key: str, stage: str, project: Params) -> None:
    run_by_hand(key, stage, project)


DECIDED: dict[str, Callable[[Params], dict[str, Any]]] = {
    "generate": lambda params: deciding.of_generated(params, "fp32"),
    "corpus": lambda params: {**deciding.of_corpus(params), **deciding.of_shifts(params)},
    "pretrain": lambda params: deciding.of_encoder(params, "fp32"),
    "prefetch": lambda params: {**deciding.of_bank(params), **tables(params)},
    "baselines": deciding.of_baselines,
    "train-plain": lambda params: deciding.of_training(params, plain(params), "fp32"),
    "train-retrieval": lambda params: deciding.of_training(params, retrieving(params), "fp32"),
    "evaluate-plain": lambda params: deciding.of_evaluation(params, plain(params)),
    "evaluate-retrieval": lambda params: deciding.of_evaluation(params, retrieving(params)),
}


def plain(params: Params) -> Variant:
    return next(v for v in variants(params) if v.retrieval == "none")


def retrieving(params: Params) -> Variant:
    return next(v for v in variants(params) if v.retrieval != "none")


def tables(params: Params) -> dict[str, Any]:
    """Of every strategy, with an index that is not exact."""
    params = changed(changed(params, "retrieval.backend", "lance"), "retrieval.index", "IVF_FLAT")
    assert params.retrieval.index != EXACT
    facts = [deciding.of_table(params, strategy) for strategy in ("knn", "diverse", "replay")]
    return {key: value for part in facts for key, value in part.items()}


@pytest.mark.parametrize("stage", DECIDED)
def test_what_decides_is_what_dvc_watches(stage: str, in_tiny: Params) -> None:
    declared: list[str] = STAGES[stage.partition("-")[0]]["params"]
    for key in DECIDED[stage](in_tiny):
        assert any(
            key == name or key.startswith((f"{name}.", f"{name}[", f"{name} ")) for name in declared
        ), key


def test_differences_are_words() -> None:
    recorded = {"train.epochs": 1, "corpus": "a" * 64, "same": [1, 2], "gone": 1}
    present = {"train.epochs": 6, "corpus": "b" * 64, "same": (1, 2), "new": True}
    words = [str(difference) for difference in differences(recorded, present)]
    assert words == ["train.epochs 1, not 6", "another corpus", "new unknown, not true"]
    with pytest.raises(UserError, match=r"^x was made with train\.epochs 1, not 6; another corpus"):
        provenance.check("x", recorded, present, "train", ignored=("new",))
    with pytest.raises(UserError, match="x is of an older version"):
        provenance.check("x", None, present, "train")


def test_a_claim_is_about_what_its_sides_differ_in() -> None:
    import numpy as np

    correct = np.ones((1, 1, 4), bool)
    sides = [
        Side(name, correct, {"train.epochs": epochs, "retrieval.k": k, "store": k})
        for name, epochs, k in (("knn", 6, 4), ("none", 6, 0), ("longer", 7, 4))
    ]
    Pair("alexnet", sides[0], sides[1], NEIGHBOURS).check()
    with pytest.raises(UserError, match=r"knn cannot be compared .* differ in train\.epochs"):
        Pair("alexnet", sides[0], sides[2], NEIGHBOURS).check()
    with pytest.raises(UserError, match=r"differ in retrieval\.k, store"):
        Pair("alexnet", sides[0], sides[1], ()).check()


def test_an_ablation_has_the_present_seeds(project: Params) -> None:
    """A k that was run with one seed of three is no point of the figure, and is listed."""
    knn = next(v for v in variants(project) if v.retrieval == "knn")
    run = parse_checksummed((paths.RUNS / f"{knn.name}.json").read_text())
    for k, seeds in ((2, (0, 1)), (3, (0,))):
        for seed in seeds:
            other = dataclasses.replace(knn, k=k, seed=seed)
            rows = [{**row, "k": k, "seed": seed} for row in run["rows"]]
            (paths.RUNS / f"{other.name}.json").write_text(checksummed_json({**run, "rows": rows}))
    params = changed(project, "classifiers.seeds", [0, 1])
    results = read_results(params)
    ks = {row["k"] for row in results.rows() if row["retrieval"] == "knn"}
    assert ks == {2, 4}
    assert results.left_out["alexnet-knn-k3-all-s0"] == "has the seeds 0 alone, not 0, 1"
    assert {row["seed"] for row in read_results(project).rows()} == {0}


def test_the_page_lists_what_it_leaves_out(project: Params, undrawn: None) -> None:
    knn = next(v for v in variants(project) if v.retrieval == "knn")
    file = paths.RUNS / f"{knn.name}.json"
    run = parse_checksummed(file.read_text())
    run["setting"]["train.epochs"] = 7
    run["rows"] = [{**row, "k": 2} for row in run["rows"]]
    (paths.RUNS / "alexnet-knn-k2-all-s0.json").write_text(checksummed_json(run))
    report.run(project)
    assert "was made with train.epochs 7, not 1" in paths.PAGE.read_text()
    run["rows"] = [{**row, "k": 4} for row in run["rows"]]
    file.write_text(checksummed_json(run))
    with pytest.raises(UserError, match=r"s0\.json was made with train\.epochs 7, not 1: run"):
        report.run(project)


def test_the_page_is_of_the_encoder_that_embedded(project: Params, undrawn: None) -> None:
    scores = json.loads((paths.PRETRAINING / "scores.json").read_text())
    (paths.PRETRAINING / "scores.json").write_text(json.dumps({**scores, "encoder": "f" * 64}))
    (paths.PRETRAINING / "SHA256SUMS").unlink()
    from rapipe.io.checksums import write_checksums

    write_checksums(paths.PRETRAINING)
    with pytest.raises(UserError, match="was made with another encoder: run rapipe pretrain"):
        report.run(project)


def test_results_of_another_project_are_nobodys(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that came with a clone, where nothing has been run."""
    shutil.copytree(tiny[0] / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no results of these parameters: run dvc repro \(.*data"):
        read_results(tiny[1])
