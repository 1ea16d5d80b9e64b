"""What the encoder knows by itself: a linear probe and a vote, and which labels they see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_images
from test_provenance import OTHERS, UNCHANGED, changed, other_value, stages_of
from typer.testing import CliRunner

from rapipe import metrics, paths
from rapipe.cli import app
from rapipe.config import deciding
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.corpus.labels import visible_label_mask
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.scores import linear_accuracy
from rapipe.errors import UserError
from rapipe.evaluation.comparisons import FINE_TUNED, Pair, Side, _about
from rapipe.evaluation.encoder_baselines import (
    NEIGHBOURS,
    STRENGTHS,
    LabelledVectors,
    choose_probe,
    choose_vote,
)
from rapipe.io import provenance
from rapipe.io.checksums import write_checksums
from rapipe.pipeline import baselines
from rapipe.pipeline.inputs import baseline_facts, encoder_fingerprint, labelled
from rapipe.pipeline.results import read_baselines, read_evidence, read_results
from rapipe.records import Images, Predictions
from rapipe.retrieval.search import VectorsWithIds, search


@pytest.fixture
def project(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of the tiny folder to write in."""
    shutil.copytree(tiny[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tiny[1]


def placed(points: Any, labels: Any, start: int = 0) -> LabelledVectors:
    """Points of the plane on the unit sphere, as seen from a camera above its pole."""
    vectors = np.column_stack([np.asarray(points, np.float32), np.full(len(points), 9)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return LabelledVectors(start + np.arange(len(points)), vectors, np.asarray(labels))


def slanted(n: int, seed: int, start: int) -> LabelledVectors:
    """Two long, thin classes side by side: a line divides them, but neighbours are of both."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    along, across = rng.uniform(-3, 3, n), 0.02 * (2 * labels - 1)
    return placed(np.column_stack([along, across]), labels, start)


def test_the_probe_is_right_where_neighbours_are_wrong() -> None:
    train, validation, test = (slanted(n, i, 1000 * i) for i, n in enumerate((60, 40, 200)))
    probe, vote = choose_probe(train, validation), choose_vote(train, validation, 2)
    answers, votes = probe.answer(test), vote.answer(test)
    assert answers.correct.all()
    assert votes.correct.mean() < 0.75
    assert probe.choice["validation_top1"] == 1
    for answer in (answers, votes):
        assert answer.confidence.dtype == np.float32
        assert ((answer.confidence > 0) & (answer.confidence <= 1)).all()


def test_a_vote_is_what_the_nearest_say() -> None:
    """Four heaps, each opposite to one of its class: no line divides them."""
    rng = np.random.default_rng(0)

    def heaps(n: int, start: int) -> LabelledVectors:
        signs = rng.choice([-1, 1], (n, 2))
        points = 2 * signs + 0.3 * rng.standard_normal((n, 2))
        return placed(points, (signs[:, 0] * signs[:, 1] + 1) // 2, start)

    train, validation, test = heaps(80, 0), heaps(40, 100), heaps(100, 200)
    vote = choose_vote(train, validation, 2)
    k = vote.choice["k"]
    assert vote.answer(test).correct.all()
    assert choose_probe(train, validation).answer(test).correct.mean() < 0.75
    assert 1 <= k <= min(NEIGHBOURS, 80)
    table = search(test.vectors, VectorsWithIds(train.ids, train.vectors), k, test.ids)
    counts = vote.vote(table.similarities, train.labels[table.indices], 2)
    assert vote.answer(test).correct.mean() == metrics.top_k(counts, test.labels, 1)


def test_the_penalty_is_chosen_on_validation() -> None:
    """Among many features of noise a strong penalty is better, among few a weak one."""
    rng = np.random.default_rng(0)

    def noisy(n: int, start: int) -> LabelledVectors:
        labels = np.arange(n) % 2
        vectors = rng.standard_normal((n, 200)).astype(np.float32)
        vectors[:, 0] += 2 * labels - 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return LabelledVectors(start + np.arange(n), vectors, labels)

    assert choose_probe(noisy(300, 0), noisy(3000, 1000)).strength < 1
    exact = slanted(60, 0, 0)
    probe = choose_probe(exact, slanted(40, 1, 1000))
    assert probe.strength in STRENGTHS


def test_one_class_and_one_way_to_score_an_encoder() -> None:
    one = placed([(0, 1), (1, 0)], [1, 1])
    other = placed([(0, 2), (2, 2)], [1, 0], start=10)
    assert choose_probe(one, other).answer(other).correct.tolist() == [True, False]
    assert choose_vote(one, other, 2).answer(other).correct.tolist() == [True, False]
    images = [replace(make_images(40, seed), labels=np.arange(40) % 2) for seed in (0, 1)]
    train, queries = slanted(40, 0, 0), slanted(40, 1, 1000)
    score = linear_accuracy(images[0], train.vectors, images[1], queries.vectors)
    assert score == 1
    assert linear_accuracy(images[0], train.vectors, images[0], train.vectors) == 0


# The stage


def written() -> tuple[dict[str, Any], dict[str, Predictions]]:
    """The results, and the answers by image."""
    results = json.loads(paths.BASELINES.read_text())
    files = {name: paths.BASELINE_ANSWERS / f"{name}.arrow" for name in ("probe", "vote")}
    return results, {name: Predictions.read(file) for name, file in files.items()}


def test_answers_by_image_are_those_of_the_results(in_tiny: Params) -> None:
    results, answers = written()
    test, levels = labelled("test"), (0.0, *in_tiny.evaluate.noise_std)
    assert results["labelled"] == 3500
    for name, answer in answers.items():
        rows = results[name]["rows"]
        assert answer.ids.tolist() == test.ids.tolist()
        assert answer.levels == tuple(row["noise_std"] for row in rows) == levels
        assert answer.correct.mean(axis=1).tolist() == [row["top1"] for row in rows]
        assert max(0.2, rows[1]["top1"]) < rows[0]["top1"]  # chance is .1
    assert results["probe"]["strength"] in STRENGTHS
    assert results["vote"]["k"] <= NEIGHBOURS
    train, validation, _ = baselines.embedded(in_tiny)
    vote = choose_vote(train, validation, 10)
    noisy = baselines.noisy(baselines.embedded(in_tiny)[2], test, levels[1], in_tiny.seed)
    for level, queries in enumerate((baselines.embedded(in_tiny)[2], noisy)):
        assert vote.answer(queries).correct.tolist() == answers["vote"].correct[level].tolist()


def test_the_stage_repeats_itself_and_noisy_images_are_embedded_once(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("an image is embedded again")

    monkeypatch.setattr(Encoder, "embed", refuse)  # store and cache have all: evaluate's too
    before = paths.BASELINES.read_bytes()
    paths.BASELINES.unlink()
    assert CliRunner().invoke(app, ["baselines"], catch_exceptions=False).exit_code == 0
    assert paths.BASELINES.read_bytes() == before


def relabelled(change: Callable[[Images], None]) -> None:
    """Change the corpus's training images on the disk."""
    images = Images.read(paths.split("train"))
    copied = replace(images, labels=images.labels.copy(), sources=images.sources.copy())
    change(copied)
    copied.write(paths.split("train"))
    write_checksums(paths.CORPUS)


def test_hidden_labels_and_rows_of_memory_are_never_used(project: Params) -> None:
    """Whatever the labels are that nobody may see, the baselines are the same."""
    params = changed(project, "train.label_fraction", 0.1)
    train = Images.read(paths.split("train"))
    visible = visible_label_mask(train.ids, train.labels, 0.1, params.seed)
    learned, _, _ = baselines.embedded(params)
    assert sorted(learned.ids) == sorted(train.ids[visible])
    baselines.run(params)
    before = paths.BASELINES.read_bytes()

    def memory_only(images: Images) -> None:
        images.labels[:] = np.where(visible, images.labels, -1)
        images.sources[~visible] = "memory"

    relabelled(memory_only)
    again, _, _ = baselines.embedded(changed(project, "train.label_fraction", 1.0))
    assert sorted(again.ids) == sorted(train.ids[visible])
    assert again.vectors.tobytes() == learned.vectors.tobytes()
    assert json.loads(before)["labelled"] == visible.sum() < len(train)


def test_what_the_memory_calls_an_image_is_no_label(project: Params) -> None:
    """And an image that was removed from the memory is still one of the task's."""
    before = paths.BASELINES.read_text()
    assert CliRunner().invoke(app, ["store", "remove", "--class", "3"]).exit_code == 0
    baselines.run(project)
    results, old = written()[0], json.loads(before)
    assert results["labelled"] == old["labelled"]
    assert results["params"] == old["params"]
    for name in ("probe", "vote"):  # what was embedded again differs in its last digits
        top1, expected = (content[name]["rows"][0]["top1"] for content in (results, old))
        assert top1 == pytest.approx(expected, abs=5e-3)


def test_a_held_out_image_is_not_learned_from(project: Params) -> None:
    """Even where the corpus has it among the training images too, which the audit refuses."""
    train, test = (Images.read(paths.split(name)) for name in ("train", "test"))
    leaked = train.ids.copy()
    leaked[:5] = test.ids[:5]
    replace(train, ids=leaked, labels=train.labels.copy()).write(paths.split("train"))
    write_checksums(paths.CORPUS)
    learned, _, _ = baselines.embedded(project)
    assert not np.isin(learned.ids, test.ids).any()
    assert len(learned.ids) == len(train) - 5


# Which results they belong to


@pytest.mark.parametrize("key", OTHERS)
def test_they_are_stale_exactly_where_dvc_makes_them_anew(key: str, in_tiny: Params) -> None:
    params = changed(in_tiny, key, other_value(key))
    recorded = written()[0]["params"]
    try:
        provenance.check(paths.BASELINES, recorded, baseline_facts(params), "baselines")
        stale = False
    except UserError:
        stale = True
    assert stale == ("baselines" in stages_of(key) and key not in UNCHANGED)


def test_the_encoder_fine_tuned_is_compared_with_what_was_trained_alike(in_tiny: Params) -> None:
    def side(name: str, backbone: str, retrieval: str, params: Params = in_tiny) -> Side:
        variant = Variant.of(params, backbone, retrieval, 0)
        setting = {"corpus": "c", "initial": backbone}
        setting |= deciding.of_initial(params, backbone, "fp32")
        setting |= deciding.of_training(params, variant, "fp32")
        if retrieval != "none":
            setting |= {**deciding.of_table(params, retrieval), "encoder": "e", "store": "s"}
        return Side(name, np.ones((1, 1, 4), bool), setting)

    tuned = side(FINE_TUNED, "encoder", "none")
    for backbone in ("alexnet", "alexnet+noise", "alexnet+pretrained"):
        knn = side("knn", backbone, "knn")
        Pair(backbone, knn, tuned, _about(knn, tuned)).check()
        longer = side("knn", backbone, "knn", changed(in_tiny, "train.epochs", 9))
        with pytest.raises(UserError, match=r"the encoder fine-tuned, since .* train\.epochs"):
            Pair(backbone, longer, tuned, _about(longer, tuned)).check()


def test_the_report_refuses_what_is_stale_or_of_another_run(project: Params) -> None:
    results = read_results(project)
    evidence = read_evidence(project, results)
    assert list(evidence.encoder_baselines) == ["probe", "vote"]
    setting = evidence.encoder_baselines["probe"].setting
    assert setting["encoder"] == encoder_fingerprint()
    levels, ids = project.noise_levels, labelled("test").ids
    for key, value in (("train.label_fraction", 0.5), ("evaluate.noise_std", [0.2])):
        with pytest.raises(UserError, match=rf"with {key} .*: run rapipe baselines, or dvc repro"):
            read_baselines(changed(project, key, value), levels, ids)
    with pytest.raises(UserError, match="another test split"):
        read_baselines(project, levels, ids[::-1])
    file = paths.BASELINE_ANSWERS / "vote.arrow"
    answers = Predictions.read(file)
    replace(answers, correct=~answers.correct).write(file)
    with pytest.raises(UserError, match=r"vote\.arrow is not what was written.*rapipe baselines"):
        read_baselines(project, levels, ids)
    write_checksums(paths.BASELINE_ANSWERS)
    with pytest.raises(UserError, match=r"vote\.arrow is of other results .*: run rapipe baseli"):
        read_baselines(project, levels, ids)
    paths.BASELINES.unlink()
    with pytest.raises(UserError, match=r"baselines\.json is missing: run rapipe baselines"):
        read_evidence(project, results)
