"""Numbers that can be trusted: none is NaN or infinite, and none depends on what stands beside it.

Each NaN here is made by the real thing: a learning rate, a weight, a vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, make_embeddings, make_images, make_spec
from trainings import pretraining, training

from rapipe import metrics, paths
from rapipe.batches.loader import CPU, ROW_MULTIPLE, pad_rows
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions.cross_attention import CrossAttention
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch, Shown
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.encoder.scores import knn_accuracy, linear_accuracy, raw_pixels
from rapipe.errors import UserError
from rapipe.evaluation.results import Condition
from rapipe.io import weights
from rapipe.io.checksums import write_checksums
from rapipe.io.tables import read_numbers, write_csv, write_json
from rapipe.pipeline import (
    audit,
    corpus,
    embed,
    evaluate,
    initialise,
    prefetch,
    pretrain,
    train,
)
from rapipe.pipeline.results import read_results
from rapipe.report import summary
from rapipe.specs import FusionSpec
from rapipe.training.callbacks import BestEpoch, History
from rapipe.training.loop import fit
from rapipe.training.tuner import finite, steepest

PLAIN = ((0.5,) * 3, (0.3,) * 3)
D, K = 8, 4


def classifier(backbone: str = "alexnet", retrieval: str = "knn", width: int = 4) -> Classifier:
    torch.manual_seed(0)
    attend = "both" if retrieval != "none" else ""
    made = Classifier(make_spec(backbone, width, attend=attend, dimension=D)).eval()
    for module in made.modules():  # as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr,operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return made


def encoder(width: int = 4) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderSpec("resnet18", width, "half", 16, *PLAIN))


def poison(module: torch.nn.Module, value: float = math.nan) -> None:
    """Put a value into the last weight."""
    with torch.no_grad():
        list(module.parameters())[-1].view(-1)[0] = value


@pytest.fixture
def own(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of the tiny folder to write in."""
    shutil.copytree(tiny[0], tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    return tiny[1]


# While networks learn


def diverging(module: Any, folder: Path, **more: Any) -> pytest.ExceptionInfo[UserError]:
    """What is told of a training that has weights of its own from the last step on."""
    history = History(lambda m: {"score": 1.0 - m.current_epoch})  # the first epoch is the best
    with pytest.raises(UserError) as told:
        fit(module, [history, BestEpoch(module.network, history, "score")], folder, **more)
    return told


@pytest.mark.parametrize("average", ["none", "ema", "swa"])
@pytest.mark.parametrize("where", ["weight", "buffer"])
def test_what_becomes_nan_at_the_very_last_step_is_told(
    average: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No loss sees it, and an earlier epoch is better."""
    module = training(epochs=2, average=average)

    def spoil(*_: Any) -> None:
        if module.global_step + 1 == module.steps:
            tensors = module.network.parameters() if where == "weight" else module.network.buffers()
            floats = [
                own for own in tensors if own.is_floating_point() and own.shape != (1, 3, 1, 1)
            ]
            floats[0].data.fill_(math.nan)

    monkeypatch.setattr(module, "on_before_zero_grad", spoil)
    told = diverging(module, tmp_path / "c")
    assert told.match(
        r"training diverged: the weight \S+ became nan or infinite in epoch 2 \(step 4"
    )
    assert told.match(r"lower `learning_rate`, now 0\.003$")


def test_a_learning_rate_without_bounds_is_told(tmp_path: Path) -> None:
    module = pretraining(epochs=3)
    object.__setattr__(module.recipe, "learning_rate", 1e30)  # which a recipe would refuse
    told = diverging(module, tmp_path / "c")
    assert told.match(
        r"pretraining diverged: the .* in epoch 1 .*lower `learning_rate`, now 1e\+30"
    )


@pytest.mark.slow
def test_a_rate_of_100_stops_the_stage_or_leaves_finite_weights(own: Params) -> None:
    """100 is the largest that the parameters may name."""
    wild = replace(own, pretrain=replace(own.pretrain, learning_rate=100.0))
    shutil.rmtree(paths.ENCODER)
    try:
        pretrain.run(wild)
    except UserError as error:
        assert "pretrain.learning_rate" in str(error)  # noqa: PT017
        assert not paths.ENCODER.exists()
    else:
        assert not weights.not_finite(Encoder.read(paths.ENCODER))


def test_the_finder_of_a_learning_rate_is_not_led_by_nan() -> None:
    rates = np.logspace(-6, 0, 9).tolist()
    falling = [9.0, 8.9, 8.0, 5.0, 4.9, math.inf, math.nan, math.nan, math.nan]
    assert steepest(finite(rates, falling)) == steepest(finite(rates[:5], falling[:5]))
    with pytest.raises(UserError, match=r"`tune` names learning_rate, but the loss falls at"):
        steepest(finite(rates, [math.nan] * 9))


def test_steps_without_a_label_leave_an_empty_value(own: Params) -> None:
    """What a student says of images is then compared with nothing: that is meant."""
    v = Variant.of(own, "alexnet", "none", 0)
    row = {"epoch": 1, "step": 3, "images_seen": 9, "loss": 0.1, "train_top1": math.nan}
    row |= {"validation_top1": 0.5, "test_top1_not_for_selection": 0.4}
    file = paths.MODELS / v.name / "history.csv"
    write_csv(file, [train.without_nan(row, "train_top1"), {**row, "step": 4, "train_top1": 0.5}])
    assert file.read_text().splitlines()[1:] == ["1,3,9,0.1,,0.5,0.4", "1,4,9,0.1,0.5,0.5,0.4"]
    condition = Condition("alexnet", "none", 0, 0)
    runs, histories = {condition: [{"rows": [{"seed": 0}]}]}, {condition: [read_numbers(file)]}
    curves = summary.curves(SimpleNamespace(histories=histories, runs=runs))  # type: ignore[arg-type]
    assert [row["train_top1"] for row in curves] == [None, 0.5]
    write_csv(paths.CURVES, curves)
    assert "nan" not in paths.CURVES.read_text()


# What networks give


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for value in (math.nan, math.inf):
        made = classifier()
        poison(made, value)
        with pytest.raises(
            UserError, match=r"weights\.safetensors is not written, since \S+ is not"
        ):
            made.write(tmp_path, {})
        assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_read(tmp_path: Path) -> None:
    made = encoder()
    made.write(tmp_path, {})
    poison(made.backbone)
    from safetensors.torch import save_file

    state = {name: own.contiguous() for name, own in made.backbone.state_dict().items()}
    save_file(state, tmp_path / weights.WEIGHTS)
    card = json.loads((tmp_path / weights.CARD).read_text())
    card["hash"] = weights.weights_hash(made.backbone)
    (tmp_path / weights.CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"has a \S+ that is not finite: run rapipe pretrain"):
        Encoder.read(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
def test_features_and_their_lengths_are_finite(value: float) -> None:
    """Of features of 1e25 only the length is infinite: divided by it they would be zero."""
    made = encoder()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, value)
    with pytest.raises(UserError, match=r"features that are not finite: .*\(rapipe pretrain\)"):
        made.embed(make_images(3).pixels)


def test_features_too_short_to_have_a_direction_are_one_point() -> None:
    made = encoder()
    scale = [m for m in made.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for module in scale:
        torch.nn.init.constant_(module.weight, 1e-14)
        torch.nn.init.constant_(module.bias, 1e-14)
    vectors = made.embed(make_images(3).pixels)
    assert np.ptp(vectors) == 0
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("retrieval", ["none", "knn"])
def test_logits_that_are_not_finite_are_no_answer(retrieval: str) -> None:
    """They were counted as right: no score is higher than one that is no number."""
    made, images = classifier(retrieval=retrieval), make_images(5)
    bank = DeviceBank(make_embeddings(20), 3, CPU)
    asked = (bank, np.zeros((5, K), np.int32)) if retrieval != "none" else ()
    made.predict(images.pixels, *asked)
    poison(made.head)
    told = r"gave 5 of 5 images logits that are not finite: .*\(rapipe train\)"
    with pytest.raises(UserError, match=told):
        made.predict(images.pixels, *asked)
    if asked:
        with pytest.raises(UserError, match=told):
            made.attention(images.pixels, Shown(*asked))


def test_a_vector_that_is_nan_makes_no_prediction() -> None:
    embeddings = make_embeddings(20)
    embeddings.vectors[3, 0] = math.nan
    bank = DeviceBank(embeddings, 3, CPU)
    indices = np.array([[0, 1, 2, 4], [0, 1, 2, 3]], np.int32)
    with pytest.raises(UserError, match="gave 1 of 2 images logits that are not finite"):
        classifier().predict(make_images(2).pixels, bank, indices)


def test_no_score_is_earned_by_what_is_no_number() -> None:
    scores = np.array([[math.nan] * 4, [0.1, math.nan, 0.2, 0.0], [0.3, math.nan, 0.2, 0.0]])
    assert metrics.hits(scores, np.array([0, 1, 0])).tolist() == [False, False, False]
    assert metrics.top_k(scores[:1], np.array([0]), 4) == 0


def test_images_without_neighbours_pass_the_fusion_as_they_are() -> None:
    """A row that is masked whole attends to nothing, and nothing comes of it: forth and back."""
    torch.manual_seed(0)
    fusion = CrossAttention(16, D, 3, FusionSpec(attend="both"))
    tokens = torch.randn(2, 7, 16, requires_grad=True)
    shown = NeighbourBatch(
        torch.randn(2, K, D), torch.full((2, K), -1), torch.zeros(2, dtype=torch.bool)
    )
    fused = fusion(tokens, shown)
    assert torch.equal(fused, tokens)
    assert fusion.weights(tokens, shown).sum() == 0
    fused.sum().backward()
    slopes = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, torch.ones_like(tokens))
    assert all(bool((own == 0).all()) for own in slopes)


def test_scores_of_black_images_are_finite() -> None:
    images = make_images(30)
    images.pixels[:] = 0
    black = raw_pixels(images.pixels)
    one = images.take(np.arange(20))
    other = images.take(np.arange(20, 30))
    assert 0 <= knn_accuracy(one, black[:20], other, black[20:]) <= 1
    assert 0 <= linear_accuracy(one, black[:20], other, black[20:]) <= 1


# Stages


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_results_hold_no_nan(value: float, tmp_path: Path) -> None:
    told = r"is not written, since rows 1 nll is -?(nan|inf): .*run them again"
    with pytest.raises(UserError, match=told):
        write_json(tmp_path / "a.json", {"rows": [{"nll": 0.5}, {"nll": value}]})
    with pytest.raises(UserError, match=r"a\.csv is not written, since 1 nll is"):
        write_csv(tmp_path / "a.csv", [{"nll": 0.5}, {"nll": np.float64(value)}])
    assert not list(tmp_path.iterdir())
    write_csv(tmp_path / "a.csv", [{"nll": None, "top1": 0.5}])
    assert (tmp_path / "a.csv").read_text() == "nll,top1\n,0.5\n"


def spoiled(folder: Path, read: Any) -> None:
    """A network on the disk gives infinities, though each of its weights is finite."""
    made = read(folder)
    made = made[0] if isinstance(made, tuple) else made
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1e30)
    card = json.loads((folder / weights.CARD).read_text())
    del card["spec"], card["hash"]
    made.write(folder, card)
    write_checksums(folder)


def test_stages_stop_at_networks_that_overflow(own: Params) -> None:
    v: Variant = Variant.of(own, "alexnet", "knn", 0)
    result, evidence = paths.RUNS / f"{v.name}.json", paths.EVIDENCE / v.name
    before = result.read_bytes()
    spoiled(paths.MODELS / v.name, Classifier.read)
    with pytest.raises(UserError, match=r"the classifier gave .*\(rapipe train\)"):
        evaluate.run(own, v)
    assert result.read_bytes() == before
    assert evidence.exists()
    manifest = paths.STORE_MANIFEST.read_bytes()
    spoiled(paths.ENCODER, Encoder.read)
    with pytest.raises(UserError, match=r"the encoder gave .*\(rapipe pretrain\)"):
        embed.run(own)
    assert paths.STORE_MANIFEST.read_bytes() == manifest


def test_a_teacher_that_overflows_teaches_nothing(own: Params) -> None:
    v = Variant.of(own, "alexnet", "none", 0)
    spoiled(paths.MODELS / v.name, Classifier.read)
    data = SimpleNamespace(images={"train": make_images(3)}, bank=None, neighbours=None)
    folder = paths.MODELS / v.name
    with pytest.raises(UserError, match="the classifier gave 3 of 3 images"):
        train._teacher_logits(own, v, data, SimpleNamespace(), folder, {})  # type: ignore[arg-type]


# What stands beside an image


def test_a_last_batch_is_filled_up() -> None:
    assert [len(pad_rows(n)) for n in (0, 1, ROW_MULTIPLE, ROW_MULTIPLE + 1, 513)] == [
        0,
        ROW_MULTIPLE,
        ROW_MULTIPLE,
        2 * ROW_MULTIPLE,
        576,
    ]
    assert pad_rows(2).tolist() == [0] + [1] * (ROW_MULTIPLE - 1)


@pytest.mark.parametrize("backbone", ["resnet18", "alexnet", "perceiver"])
@pytest.mark.parametrize("retrieval", ["none", "knn"])
def test_no_prediction_depends_on_other_images(
    backbone: str, retrieval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on how many there are, on their order, or how many are predicted at once, to the bit."""
    n = 190
    made, images = classifier(backbone, retrieval), make_images(n)
    rng = np.random.default_rng(0)
    table = rng.integers(0, 20, (n, K)).astype(np.int32)
    bank = DeviceBank(make_embeddings(20), 3, CPU)

    def predicted(rows: np.ndarray) -> np.ndarray:
        asked = (bank, table[rows]) if retrieval != "none" else ()
        return made.predict(images.pixels[rows], *asked)

    whole = predicted(np.arange(n))
    for rows in (np.arange(1), np.arange(7), np.arange(65), np.array([3]), rng.permutation(n)):
        assert np.array_equal(predicted(rows), whole[rows]), len(rows)
    for chunk in (ROW_MULTIPLE, 2 * ROW_MULTIPLE, 5 * ROW_MULTIPLE):
        monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", chunk)
        assert np.array_equal(predicted(np.arange(n)), whole), chunk


def test_no_vector_depends_on_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made, images = encoder(), make_images(190)
    whole = made.embed(images.pixels)
    order = np.random.default_rng(0).permutation(190)
    for rows in (np.arange(1), np.arange(7), np.arange(65), order):
        assert np.array_equal(made.embed(images.pixels[rows]), whole[rows]), len(rows)
    for chunk in (ROW_MULTIPLE, 2 * ROW_MULTIPLE):
        monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", chunk)
        assert np.array_equal(made.embed(images.pixels), whole), chunk


def test_blocks_of_a_stage_change_no_vector(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads(paths.STORE_MANIFEST.read_text())
    monkeypatch.setattr(embed, "BLOCK", 700)
    embed.run(own)
    assert json.loads(paths.STORE_MANIFEST.read_text())["sha256"] == manifest["sha256"]


# The same again


UNLIKE = ("data/store", "data/costs", "data/cache", "data/checkpoints", "data/logs")
"""Folders whose files have random names, or what work took; and scratch."""


def artefacts(folder: Path) -> dict[str, str]:
    """SHA-256 of every artefact."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not (name := path.relative_to(folder).as_posix()).startswith(UNLIKE)
        and name != "params.yaml"
    }


class Backwards:
    """`os.scandir`, last file first."""

    def __init__(self, *place: Any) -> None:
        with SCANDIR(*place) as found:
            self.left = iter(list(found)[::-1])

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Any:
        return self.left

    def __next__(self) -> Any:
        return next(self.left)

    def close(self) -> None:
        """Everything was read at once."""


SCANDIR, LISTDIR = os.scandir, os.listdir


def test_place_time_mask_and_the_order_of_files_change_no_byte(
    own: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of stages that read folders or many files; the folder is another one already."""
    here = Path.cwd()
    before = artefacts(here)
    results = read_results(own).rows()
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    mask = os.umask(0o077)
    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda *place: LISTDIR(*place)[::-1])
    try:
        for stage in (corpus, prefetch, audit, initialise):
            stage.run(own)
        assert read_results(own).rows() == results
    finally:
        os.umask(mask)
        monkeypatch.setattr(os, "scandir", SCANDIR)
        monkeypatch.setattr(os, "listdir", LISTDIR)
        monkeypatch.delenv("TZ")
        time.tzset()
    assert artefacts(here) == before


@pytest.mark.slow
def test_a_process_of_other_habits_makes_the_same_bytes(
    tiny: tuple[Path, Params], tmp_path: Path
) -> None:
    """The whole pipeline, in a fresh folder: every artefact, evidence, page and pictures too."""
    place = tmp_path / "an other place" / "deep"
    place.mkdir(parents=True)
    habits = {"PYTHONHASHSEED": "77", "TZ": "Asia/Kolkata", "LC_ALL": "C", "LANG": "C"}
    alike = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    code = "import sys, conftest, pathlib; conftest.make_tiny(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {code}", str(place)],
        cwd=ROOT / "tests",
        env={**os.environ, **habits, **alike},
        check=True,
        umask=0o077,
    )
    assert artefacts(place) == artefacts(tiny[0])
