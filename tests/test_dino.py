"""DINO with local crops: its loss as a double sum over pairs, its crops, and its entropies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import make_images
from test_objectives import LABELS, SIZE, Spy, Transformer, encoder_for, make_objective, views_for
from torch import Tensor

from rapipe.batches.preprocess import Preprocess
from rapipe.batches.transforms import VIEWS, multi_crop
from rapipe.encoder.backbones import BACKBONES
from rapipe.errors import ArgumentError
from rapipe.pretraining.module import PretrainingModule
from rapipe.specs import PretrainingRecipe


def crops_for(side: int, count: int) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return tuple(torch.randn(len(LABELS), 3, side, side) for _ in range(count))


@pytest.mark.parametrize("transformer", [False, True])
def test_every_student_view_is_compared_with_every_other_teacher_view(transformer: bool) -> None:
    encoder = Transformer() if transformer else encoder_for("dino")
    dino = make_objective("dino", encoder, local_crops=3).eval()  # BatchNorm: any grouping is alike
    side = dino.local_side
    assert side == (8 if transformer else 7)  # 3/7 of 16: with patches of 4 pixels two of them
    views = (*views_for(dino), *crops_for(side, 3))
    centre = dino.agree.center.normal_().clone()[0, 0]
    students = [dino.projector(dino.encoder(view)) for view in views]
    teachers = [dino.momentum_projector(dino.momentum_encoder(view)) for view in views[:2]]
    terms = []
    for t, teacher in enumerate(teachers):
        for s, student in enumerate(students):
            if s != t:
                target = ((teacher - centre) / 0.04).softmax(1)
                terms.append(-(target * (student / 0.1).log_softmax(1)).sum(1).mean())
    assert len(terms) == 2 * (2 + 3) - 2
    torch.testing.assert_close(dino(views, LABELS), torch.stack(terms).mean())
    next_centre = 0.9 * centre + 0.1 * torch.cat(teachers).mean(0)
    torch.testing.assert_close(dino.agree.center[0, 0], next_centre)


def test_a_transformer_that_takes_crops_sees_images_as_before() -> None:
    torch.manual_seed(0)
    encoder = Transformer().eval()
    image = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        before = encoder(image)
        make_objective("dino", encoder, local_crops=1)
        assert torch.equal(encoder.eval()(image), before)
        assert encoder(image[..., :8, :8]).shape == before.shape


def test_entropies_are_of_the_targets_and_of_their_mean() -> None:
    dino = make_objective("dino").eval()
    views = views_for(dino)
    dino.agree.center.normal_()
    outputs = [dino.momentum_projector(dino.momentum_encoder(view)) for view in views]
    targets = [((out - dino.agree.center[0]) / 0.04).softmax(1) for out in outputs]
    entropies = [-(p * p.log()).sum().item() for p in torch.cat(targets).double()]
    mean = torch.cat(targets).double().mean(0)
    loss = dino(views, LABELS)
    measured = {name: value.item() for name, value in dino.measured.items()}
    assert measured["teacher_entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    expected = -(mean * mean.log()).sum().item()
    assert measured["mean_target_entropy"] == pytest.approx(expected, rel=1e-4)
    assert measured["teacher_entropy"] < measured["mean_target_entropy"] <= math.log(12)
    assert measured["teacher_entropy"] <= loss.item()  # the rest of it is a divergence


def test_an_encoder_of_one_size_is_refused() -> None:
    perceiver = BACKBONES["perceiver"](8, "half", SIZE)
    with pytest.raises(ArgumentError, match=r"`local_crops` is 2, .* images of 7 pixels beside"):
        make_objective("dino", perceiver, local_crops=2)


def test_the_objective_gets_its_views_and_then_its_crops() -> None:
    dino = make_objective("dino", local_crops=2)
    images = make_images(8)
    recipe = PretrainingRecipe(objective="dino", views="crop", batch_size=8, epochs=1)
    preprocess = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3)
    module = PretrainingModule(dino, images, preprocess, recipe, 0, np.ones(8))
    module.network = spy = Spy(2)
    spy.local_crops = 2
    [batch] = module.train_dataloader()
    module.training_step(batch, 0)
    [(views, _)] = spy.calls
    assert [view.shape for view in views] == [(8, 3, 16, 16)] * 2 + [(8, 3, 7, 7)] * 2
    assert all(-1 <= view.min() < 0 < view.max() <= 1 for view in views)  # normalised, all of them
    assert len({float(view.mean()) for view in views}) == 4


@pytest.mark.parametrize("name", ["crop", "affine"])
def test_crops_are_small_parts_and_views_large_ones(name: str) -> None:
    """Of a ramp across the image, a crop shows a range as wide as it is itself."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(128, 3, 64, 64)
    views, local = multi_crop(name, 64, 27)
    if name == "crop":
        views[-1].p = local[-1].p = 0.0  # no other colours
        views[-1].grey = local[-1].grey = 0.0
    else:
        local = local[0]
        torch.manual_seed(5)
        whole = views(ramp)
        torch.manual_seed(5)
        assert torch.equal(whole, VIEWS[name](64)(ramp))

    def width(images: Tensor) -> float:
        rows = images[:, 0, images.shape[2] // 2]
        return float((rows.amax(1) - rows.amin(1)).mean())

    assert local(ramp).shape == (128, 3, 27, 27)
    assert 0.3 < width(local(ramp)) < 0.6  # the root of .05 to .4
    if name == "crop":
        assert 0.7 < width(views(ramp)) < 1.0
