"""SimCLR v2: its loss against a slow reference, its queue, and the middle of its head, from
which classifiers start."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images, make_spec
from safetensors.torch import load_file
from test_objectives import LABELS, make_objective, views_for
from torch.nn import functional as F

from rapipe import paths
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.heads import HEADS
from rapipe.classifier.train import train_classifier
from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.encoder.encoder import EncoderSpec
from rapipe.encoder.initial_weights import PROJECTION, InitialWeights
from rapipe.errors import UserError
from rapipe.pipeline import initialise, pretrain
from rapipe.pipeline.running.check_names import check
from rapipe.pretraining.objectives.simclr_v2 import QUEUE
from rapipe.specs import TrainingRecipe


def test_it_is_ntxent_with_the_queue_s_keys_as_further_negatives() -> None:
    objective = make_objective("simclr-v2")
    views, negatives = views_for(objective), objective.queue.bank.clone()
    z = F.normalize(torch.cat([objective.projector(objective.encoder(v)) for v in views]))
    n, terms = len(LABELS), []
    for i in range(2 * n):
        positive = z[i] @ z[(i + n) % (2 * n)] / 0.1
        others = torch.stack([z[i] @ z[j] for j in range(2 * n) if j != i])
        logits = torch.cat((others, negatives @ z[i])) / 0.1
        terms.append(logits.logsumexp(0) - positive)
    torch.testing.assert_close(objective(views, LABELS), torch.stack(terms).mean())


def test_the_queue_is_first_in_first_out() -> None:
    objective = make_objective("simclr-v2").eval()
    views, before = views_for(objective), objective.queue.bank.clone()
    keys = F.normalize(torch.cat([objective.momentum_embed(view) for view in views]))
    objective(views, LABELS)
    torch.testing.assert_close(objective.queue.bank[:24], keys)
    assert torch.equal(objective.queue.bank[24:], before[24:])
    objective.queue.bank_ptr[0] = QUEUE - 10
    objective(views, LABELS)
    torch.testing.assert_close(objective.queue.bank[-10:], keys[:10])
    assert objective.queue.bank_ptr.item() == 0
    assert {"queue.bank", "queue.bank_ptr"} <= set(objective.state_dict())  # for checkpoints


def test_the_middle_is_the_first_layer_of_the_head() -> None:
    objective = make_objective("simclr-v2", head=(32, 32, 12)).eval()
    features = objective.encoder(views_for(objective)[0])
    linear, norm = objective.projector.layers[:2]
    expected = norm(linear(features)).relu()
    torch.testing.assert_close(objective.middle(features), expected)
    assert make_objective("simclr").middle is None


def with_objective(params: Params, *backbones: str, **more: Any) -> Params:
    recipe = {"objective": "simclr-v2", "learning_rate": 0.02, **more}
    return dataclasses.replace(
        params,
        pretrain=dataclasses.replace(params.pretrain, **recipe),
        classifiers=dataclasses.replace(
            params.classifiers, backbones=backbones, distill="resnet18+pretrained+projection"
        ),
    )


@pytest.mark.ci
def test_classifiers_start_from_the_middle_of_the_head(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny[0] / "data/corpus", tmp_path / "data/corpus")
    monkeypatch.chdir(tmp_path)
    name = "resnet18+pretrained+projection"
    params = with_objective(
        tiny[1],
        *(name, "encoder+projection", "alexnet+pretrained+projection", "resnet18+projection"),
        *("resnet18+pretrained", "resnet18+pretrained+projection+distilled"),
    )
    check(params)
    pretrain.run(params)
    initialise.run(params)
    kept = load_file(paths.ENCODER / PROJECTION)
    for text in (name, "encoder+projection", "resnet18+pretrained+projection+distilled/teacher"):
        start = InitialWeights.read(paths.INITIAL / text).projection()
        assert start is not None
        assert set(start) == set(kept)
        assert all(np.array_equal(start[key], value) for key, value in kept.items())
    other = InitialWeights.read(paths.INITIAL / "alexnet+pretrained+projection").projection()
    assert other is not None
    assert other["0.weight"].shape != kept["0.weight"].shape  # its own, as wide as its features
    for text in ("resnet18+projection", "resnet18+pretrained"):
        assert InitialWeights.read(paths.INITIAL / text).projection() is None


def test_a_classifier_trains_from_the_weights_that_it_gets() -> None:
    objective = make_objective("simclr-v2")
    objective(views_for(objective), LABELS)  # statistics of BatchNorm too
    projection = {name: value.clone() for name, value in objective.middle.state_dict().items()}
    images = make_images(12, size=16)
    trained = train_classifier(
        {"train": images, "validation": images},
        network=EncoderSpec("resnet18", 4, "half", 16, (0.5,) * 3, (0.5,) * 3),
        head="projection",
        projection=projection,
        initial=objective.encoder,
        recipe=TrainingRecipe(epochs=1, learning_rate=1e-9, batch_size=12, precision="fp32"),
    )
    layers: Any = trained.classifier.head.layers
    torch.testing.assert_close(layers[0].weight, projection["0.weight"])
    features = torch.randn(3, 32)
    layers.load_state_dict(projection)
    torch.testing.assert_close(layers.eval()(features), objective.middle.eval()(features))


def test_a_frozen_backbone_s_features_may_have_any_scale() -> None:
    torch.manual_seed(0)
    head = HEADS["projection"](7, 16, 3)
    features = torch.randn(40, 16)
    torch.testing.assert_close(head(features), head(300 * features + 5), atol=1e-2, rtol=1e-2)
    assert isinstance(Classifier(make_spec(attend="", head="projection", frozen=True)).standardise,
                      torch.nn.Identity)  # fmt: skip


def test_objectives_that_keep_no_layer_are_refused(in_tiny: Params) -> None:
    params = with_objective(in_tiny, "resnet18+pretrained+projection", objective="byol")
    with pytest.raises(UserError, match=r"is byol, which keeps no layer .* choose simclr-v2, or"):
        check(params)


@pytest.mark.parametrize("name", ["simclr", "simclr-v2"])
def test_presets_name_what_there_is(name: str, tmp_path: Path) -> None:
    presets.write(name, tmp_path / "params.yaml")
    check(load(tmp_path / "params.yaml"))
