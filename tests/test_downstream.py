"""Encoders that are kept on the way, what each is worth, and the figure of several."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_objectives import pretraining
from trainings import Stop

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import ArgumentError, UserError
from rapipe.evaluation.encoder_baselines import LabelledVectors, choose_probe
from rapipe.evaluation.uses import FINE_TUNED, Curve
from rapipe.io.tables import read_json
from rapipe.pipeline import downstream, pretrain
from rapipe.pipeline.inputs import labelled, read_result
from rapipe.pipeline.pretraining_results import read_curves
from rapipe.pretraining.kept import KeptEncoders, folders_by_epoch
from rapipe.pretraining.pretrain import pretrain as pretrain_encoder
from rapipe.report.downstream import accuracy_by_pretraining
from rapipe.specs import PretrainingRecipe
from rapipe.training.loop import fit


@pytest.fixture
def apart(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The corpus of `tiny` in a folder where an encoder may be pretrained anew."""
    shutil.copytree(tiny[0] / "data/corpus", tmp_path / "data/corpus")
    monkeypatch.chdir(tmp_path)
    return tiny[1]


def with_pretraining(params: Params, **more: Any) -> Params:
    recipe = dataclasses.replace(params.pretrain, learning_rate=0.02, **more)
    return dataclasses.replace(params, pretrain=recipe)


@pytest.mark.ci
def test_encoders_of_every_few_epochs_are_tested(
    apart: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = with_pretraining(apart, epochs=3, keep_every=2, objective="simclr")
    pretrain.run(params)
    kept = folders_by_epoch(paths.ENCODER_EPOCHS)
    assert list(kept) == [0, 2, 3]
    assert [read_json(folder / "card.json", "")["epoch"] for folder in kept.values()] == [0, 2, 3]
    last, state = load_file(kept[3] / "weights.safetensors"), "weights.safetensors"
    assert all(np.array_equal(v, last[k]) for k, v in load_file(paths.ENCODER / state).items())
    assert any(not np.array_equal(v, last[k]) for k, v in load_file(kept[2] / state).items())
    rows = downstream.run(params)
    assert [(row["epoch"], row["use"]) for row in rows] == [
        (epoch, use) for epoch in kept for use in ("vote", "probe")
    ]
    train, validation, test = (labelled(name) for name in ("train", "validation", "test"))
    train, validation, test = (
        LabelledVectors(part.ids, Encoder.read(kept[2]).embed(part.pixels), part.labels)
        for part in (train, validation, test)
    )
    correct = choose_probe(train, validation).answer(test).correct
    assert rows[3]["top1"] == correct.mean()
    assert rows[3]["low"] < rows[3]["top1"] < rows[3]["high"]
    assert downstream.FIGURE.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(downstream, "as_it_is", None)  # what is known is not measured again
    assert downstream.run(params) == rows


def test_what_is_kept_survives_an_interruption(tmp_path: Path) -> None:
    """The encoders of every second epoch, of the first step and of the end are the same."""
    spec = EncoderSpec("resnet18", 4, "half", 16, (0.5,) * 3, (0.5,) * 3)
    kept = {}
    for name in ("whole", "cut"):
        keep = KeptEncoders(spec, tmp_path / name / "epochs", every=2)
        if name == "cut":
            with pytest.raises(RuntimeError, match="killed"):
                fit(pretraining("simclr", epochs=3), [keep, Stop(2)], tmp_path / name)
        fit(pretraining("simclr", epochs=3), [keep], tmp_path / name, keep=True)
        kept[name] = folders_by_epoch(keep.folder)
        assert list(kept[name]) == [0, 2, 3]
    for epoch, folder in kept["whole"].items():
        other = load_file(kept["cut"][epoch] / "weights.safetensors")
        for key, value in load_file(folder / "weights.safetensors").items():
            assert np.array_equal(value, other[key]), (epoch, key)


def test_without_kept_encoders_it_says_what_to_do(in_tiny: Params) -> None:
    with pytest.raises(UserError, match=r"holds no encoders .* set pretrain\.keep_every"):
        downstream.run(in_tiny)


def test_the_library_needs_a_folder_to_keep_them_in(in_tiny: Params) -> None:
    with pytest.raises(ArgumentError, match="`keep_every` is 2, but without `checkpoints`"):
        pretrain_encoder(
            labelled("train").take(np.arange(40)),
            labelled("validation").take(np.arange(20)),
            recipe=PretrainingRecipe(keep_every=2, batch_size=8, epochs=1),
            precision="fp32",
        )


def written(name: str, facts: dict[str, Any], top1: float) -> None:
    row = {"epoch": 1, "use": "vote", "top1": top1, "low": top1, "high": top1}
    content = {"facts": facts, "training": {"train.epochs": 1}, "rows": [row]}
    downstream.write_checksummed(paths.DOWNSTREAM / f"{name}.json", content)


def test_curves_are_of_one_corpus_and_named_by_what_differs(
    apart: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {
        "corpus": read_json(paths.CORPUS_CARD, "")["hash"],
        "train.label_fraction": 1.0,
        "pretrain.encoder": "resnet18",
        "pretrain.objective": "simclr",
        "pretrain.width": 8,
    }
    written("a", facts, 0.1)
    written("b", {**facts, "pretrain.width": 16}, 0.2)
    written("c", {**facts, "pretrain.objective": "byol", "pretrain.width": 4}, 0.3)
    written("d", {**facts, "train.label_fraction": 0.1}, 0.4)
    written("e", {**facts, "corpus": "another"}, 0.5)
    curves = {curve.name: curve.rows[0]["top1"] for curve in read_curves(apart)}
    assert curves == {
        "resnet18 by simclr, width 8": 0.1,
        "resnet18 by simclr, width 16": 0.2,
        "resnet18 by byol": 0.3,
    }
    assert "2 in results/downstream left out" in capsys.readouterr().err


def test_a_panel_a_use_and_in_it_a_line_an_encoder() -> None:
    def row(epoch: int, use: str, top1: float) -> dict[str, Any]:
        return {"epoch": epoch, "use": use, "top1": top1, "low": top1 - 0.1, "high": top1 + 0.1}

    curves = [
        Curve("one", [row(4, "vote", 0.5), row(0, "vote", 0.3), row(4, FINE_TUNED, 0.9)]),
        Curve("other", [row(2, "vote", 0.4)]),
    ]
    figure = accuracy_by_pretraining(curves)
    assert figure is not None
    vote, tuned = figure.axes
    assert [axes.get_title() for axes in (vote, tuned)] == ["vote of neighbours", "fine-tuned"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in vote.lines}
    assert lines == {"one": [[0, 0.3], [4, 0.5]], "other": [[2, 0.4]]}
    assert vote.get_xticks().tolist() == [0, 2, 4]  # what was measured
    assert accuracy_by_pretraining([]) is None


@pytest.mark.slow
def test_classifiers_are_fine_tuned_from_each_and_once(apart: Params, monkeypatch: Any) -> None:
    params = with_pretraining(apart, epochs=2, keep_every=1, objective="simclr")
    pretrain.run(params)
    downstream.run(params)
    params = dataclasses.replace(
        params, classifiers=dataclasses.replace(params.classifiers, seeds=(0, 1))
    )
    rows = downstream.run(params, fine_tune=True)
    assert [row["epoch"] for row in rows if row["use"] == FINE_TUNED] == [0, 1, 2]
    assert not list(paths.CHECKPOINTS.glob("downstream-*"))
    [path] = paths.DOWNSTREAM.glob("*.json")
    recipe = dataclasses.replace(params.train, learning_rate=0.002)
    changed = dataclasses.replace(params, train=recipe)
    facts = read_result(path)["facts"]
    kept = downstream.measured(path, facts, downstream.training_facts(changed))
    assert {row["use"] for row in kept} == {"vote", "probe"}  # those are of no recipe
    monkeypatch.setattr(downstream, "fine_tuned", None)
    assert downstream.run(params, fine_tune=True) == rows
