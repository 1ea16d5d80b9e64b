"""Objectives: their losses against slow references, what they learn, and what they must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.batches.preprocess import Preprocess
from rapipe.encoder.backbones import BACKBONES, Backbone, Fuse, no_fusion
from rapipe.errors import ArgumentError
from rapipe.pretraining.module import PretrainingModule
from rapipe.pretraining.objectives import OBJECTIVES, Objective, ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.specs import PretrainingRecipe
from rapipe.training.loop import fit

NAMES = tuple(name for name, objective in OBJECTIVES.items() if objective.trains)
SIZE = 16
SMALL = {"dino": (16, 8, 12), "mae": (), "supervised": (), "simclr-v2": (32, 12)}
"""Heads that are quick; of all others (16, 12)."""
LABELS = torch.arange(12) % 3


class Transformer(Backbone):
    """A tiny vision transformer of timm's."""

    def __init__(self, **options: Any) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        sizes = {"img_size": SIZE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
        self.net = VisionTransformer(num_classes=0, **{**sizes, **options})
        self.features = 32
        self.widths = ()

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        features: Tensor = self.net(images)
        return features


def encoder_for(name: str) -> Backbone:
    return Transformer() if name == "mae" else BACKBONES["resnet18"](4, "half", SIZE)


def make_objective(name: str, encoder: Backbone | None = None, **fields: Any) -> Any:
    """The objective of this name with a small head and the same weights each time."""
    torch.manual_seed(0)
    head = SMALL.get(name, (16, 12))
    defaults = {"image_size": SIZE, "classes": 3, "head": head, "temperature": 0}
    spec = ObjectiveSpec(**{**defaults, **fields})
    return OBJECTIVES[name](encoder or encoder_for(name), spec)


def views_for(objective: Objective, n: int = 12) -> tuple[Tensor, ...]:
    """Views of images of three kinds, each with noise of its own."""
    torch.manual_seed(1)
    images = torch.randn(3, 3, SIZE, SIZE)[LABELS[:n]] + 0.3 * torch.randn(n, 3, SIZE, SIZE)
    return tuple(images + 0.3 * torch.randn_like(images) for _ in range(objective.views))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (F.normalize(x) * F.normalize(y)).sum(1)


def test_byol_is_two_summed_terms_with_a_momentum_encoder() -> None:
    byol = make_objective("byol")
    a, b = views_for(byol)
    loss = byol((a, b), LABELS)

    def side(x: Tensor, y: Tensor) -> Tensor:
        p, z = (
            byol.predictor(byol.projector(byol.encoder(x))),
            byol.momentum_projector(byol.momentum_encoder(y)),
        )
        return -cosine(p, z).mean()

    torch.testing.assert_close(loss, side(a, b) + side(b, a))


@pytest.mark.parametrize("name", ["byol", "moco", "dino", "simclr-v2"])
def test_momentum_encoders_follow_by_their_momentum(name: str) -> None:
    objective = make_objective(name)
    for average, network in (
        (objective.momentum_encoder, objective.encoder),
        (objective.momentum_projector, objective.projector),
    ):
        for (key, copied), parameter in zip(
            average.named_parameters(), network.parameters(), strict=True
        ):
            assert torch.equal(copied, parameter), key
            assert not copied.requires_grad
    copied = next(objective.momentum_encoder.parameters())
    before = copied.clone()
    nn.init.zeros_(next(objective.encoder.parameters()))
    objective.before_step(0, 10)
    torch.testing.assert_close(copied, 0.99 * before)
    objective.before_step(9, 10)
    torch.testing.assert_close(copied, 0.99 * before * (1 if name in ("byol", "dino") else 0.99))


@pytest.mark.parametrize("temperature", [0, 0.1])
def test_simclr_is_ntxent_over_the_batch(temperature: float) -> None:
    simclr = make_objective("simclr", temperature=temperature)
    views = views_for(simclr)
    z = F.normalize(torch.cat([simclr.projector(simclr.encoder(v)) for v in views]))
    n, terms = len(LABELS), []
    for i in range(2 * n):
        logits = z @ z[i] / (temperature or 0.5)
        others = torch.arange(2 * n) != i
        terms.append(logits[others].logsumexp(0) - logits[(i + n) % (2 * n)])
    torch.testing.assert_close(simclr(views, LABELS), torch.stack(terms).mean())


def test_moco_tells_keys_from_the_queue_as_it_was() -> None:
    moco = make_objective("moco").eval()  # so that a key does not depend on its part of the batch
    a, b = views_for(moco)
    queue, negatives = moco.contrast.memory_bank, moco.contrast.memory_bank.bank.clone()
    loss = moco((a, b), LABELS)
    keys = [F.normalize(moco.momentum_projector(moco.momentum_encoder(v))) for v in (b, a)]
    terms = []
    for view, key in zip((a, b), keys, strict=True):
        q = F.normalize(moco.projector(moco.encoder(view)))
        logits = torch.cat(((q * key).sum(1, keepdim=True), q @ negatives.T), 1) / 0.2
        terms.append(logits.logsumexp(1) - logits[:, 0])
    torch.testing.assert_close(loss, torch.cat(terms).mean())
    torch.testing.assert_close(queue.bank[:24], torch.cat(keys))
    assert torch.equal(queue.bank[24:], negatives[24:])
    assert queue.bank_ptr.item() == 24


@pytest.mark.parametrize("n", [2, 3, 10, 12])
def test_moco_shuffles_and_puts_back(n: int) -> None:
    moco = make_objective("moco")
    view = views_for(moco)[0][:n]
    torch.testing.assert_close(moco.eval().keys(view), moco.momentum_embed(view))
    if n > 4:
        assert not torch.allclose(moco.train().keys(view), moco.momentum_embed(view))


def test_simsiam_stops_the_gradient_of_its_targets() -> None:
    simsiam = make_objective("simsiam")
    views = views_for(simsiam)
    z = [simsiam.projector(simsiam.encoder(v)) for v in views]
    expected = -(cosine(simsiam.predictor(z[0]), z[1]) + cosine(simsiam.predictor(z[1]), z[0]))
    loss = simsiam(views, LABELS)
    torch.testing.assert_close(loss, expected.mean() / 2)
    nn.init.zeros_(simsiam.predictor.layers[-1].weight)
    simsiam(views, LABELS).backward()  # only targets could pass gradients on now
    assert not any(p.grad.any() for p in simsiam.encoder.parameters())


def test_barlow_twins_is_a_correlation_against_the_identity() -> None:
    barlow = make_objective("barlow-twins")
    views = views_for(barlow)
    z0, z1 = (barlow.projector(barlow.encoder(v)).detach().numpy() for v in views)
    d, expected = z0.shape[1], 0.0
    for i in range(d):
        for j in range(d):
            c = np.corrcoef(z0[:, i], z1[:, j])[0, 1]
            expected += (1 - c) ** 2 if i == j else 5e-3 * c**2
    assert barlow(views, LABELS).item() == pytest.approx(expected, rel=1e-2)  # eps of the variance


def test_vicreg_is_invariance_variance_and_covariance() -> None:
    vicreg = make_objective("vicreg")
    views = views_for(vicreg)
    z = [vicreg.projector(vicreg.encoder(v)).detach() for v in views]
    expected = 25 * ((z[0] - z[1]) ** 2).mean()
    for embeddings in z:
        expected += 25 / 2 * F.relu(1 - (embeddings.var(0) + 1e-4).sqrt()).mean()
        c = torch.cov(embeddings.T)
        expected += (c**2).sum().sub((c.diagonal() ** 2).sum()) / len(c)
    torch.testing.assert_close(vicreg(views, LABELS), expected)


def test_dino_compares_views_crosswise_after_centring() -> None:
    dino = make_objective("dino")
    views = views_for(dino)
    centre = dino.agree.center.normal_().clone()[0, 0]
    s = [dino.projector(dino.encoder(v)) for v in views]
    t = [dino.momentum_projector(dino.momentum_encoder(v)) for v in views]
    expected = [
        -(((t[i] - centre) / 0.04).softmax(1) * (s[1 - i] / 0.1).log_softmax(1)).sum(1).mean()
        for i in (0, 1)
    ]
    torch.testing.assert_close(dino(views, LABELS), (expected[0] + expected[1]) / 2)
    next_centre = 0.9 * centre + 0.1 * torch.cat(t).mean(0)
    torch.testing.assert_close(dino.agree.center[0, 0], next_centre)


@pytest.mark.parametrize("options", [{}, {"patch_size": 8}, {"patch_size": 2, "reg_tokens": 3},
    {"class_token": False, "global_pool": "avg"}, {"no_embed_class": True},
    {"dynamic_img_size": True}])  # fmt: skip
def test_mae_reconstructs_masked_patches_from_visible_ones_alone(options: dict[str, Any]) -> None:
    encoder = Transformer(**options).to(memory_format=torch.channels_last)
    mae = make_objective("mae", encoder).eval()
    side, (images,) = options.get("patch_size", 4), views_for(mae)
    grid = SIZE // side
    visible, masked = mae.draw_mask(len(images), images.device)
    assert visible.shape == (len(images), grid**2 // 4)
    both = torch.cat((visible, masked), 1).sort().values
    assert torch.equal(both, torch.arange(grid**2).expand(len(images), -1))
    pixels = mae.reconstruct(images, visible)
    assert pixels.shape == (len(images), grid**2, 3 * side**2)

    def patch(b: int, p: int) -> tuple[int, slice, slice]:
        row, column = divmod(int(p), grid)
        rows, columns = (slice(i * side, (i + 1) * side) for i in (row, column))
        return b, rows, columns

    changed, terms = images.clone(), []
    for b in range(len(images)):
        for p in masked[b]:
            i, rows, columns = patch(b, p)
            target = images[i, :, rows, columns].permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            terms.append((pixels[b, p] - target) ** 2)
            changed[i, :, rows, columns] += 1
    torch.testing.assert_close(mae.reconstruct(changed, visible), pixels)
    i, rows, columns = patch(0, visible[0, 0])
    changed[i, :, rows, columns] += torch.randn(3, side, side)
    assert not torch.allclose(mae.reconstruct(changed, visible)[0], pixels[0])
    mae.draw_mask = lambda b, device: (visible, masked)
    torch.testing.assert_close(mae((images,), LABELS), torch.cat(terms).mean())


def test_mae_keeps_the_encoder_s_weights_but_fixes_its_positions() -> None:
    torch.manual_seed(0)
    before = Transformer().state_dict()
    torch.manual_seed(0)
    mae = make_objective("mae", Transformer())
    after = mae.encoder.state_dict()
    assert {key for key in after if not torch.equal(after[key], before[key])} == {"net.pos_embed"}
    assert not mae.encoder.net.pos_embed.requires_grad


def test_supervised_leaves_rows_without_a_label_out() -> None:
    supervised = make_objective("supervised").eval()
    views = views_for(supervised)
    labels = torch.where(torch.arange(12) < 5, LABELS, -1)
    logits = supervised.head(supervised.encoder(views[0]))
    torch.testing.assert_close(supervised(views, labels), F.cross_entropy(logits[:5], LABELS[:5]))
    loss = supervised(views, torch.full((12,), -1))
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in supervised.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_that_learns(name: str) -> None:
    objective = make_objective(name)
    objective(views_for(objective), LABELS).backward()
    for key, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        else:
            assert parameter.grad is None, key
    assert sum(bool(p.grad.any()) for p in objective.encoder.parameters() if p.requires_grad) > 5


def error(objective: Any, views: tuple[Tensor, ...], loss: Tensor) -> float:
    """The loss; where there is a queue, SimCLR's: it rises while that fills with real images."""
    if not any(name.endswith("bank") for name in objective.state_dict()):
        return loss.item()
    z0, z1 = (F.normalize(objective.embed(view)) for view in views)
    return F.cross_entropy(z0 @ z1.T / 0.2, torch.arange(len(z0))).item()


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_does_not_collapse(name: str) -> None:
    """A few steps on images of three kinds lower the loss, and features still differ."""
    objective = make_objective(name)
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 3e-3)
    errors, steps = [], 25
    for step in range(steps):
        objective.before_step(step, steps)
        views = views_for(objective)
        torch.manual_seed(100 + step)
        views = tuple(view + 0.2 * torch.randn_like(view) for view in views)
        loss = objective(views, LABELS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(error(objective, views, loss))
    assert np.isfinite(errors).all()
    first, last = np.mean(errors[:5]), np.mean(errors[-5:])
    assert last < first - 0.05 * abs(first)
    with torch.no_grad():
        features = F.normalize(objective.eval().encoder(views[0]))
    nearest = (features @ features.T - 2 * torch.eye(len(features))).argmax(1)
    assert (LABELS[nearest] == LABELS).float().mean() > 0.6  # by chance .27
    if objective.may_collapse:
        assert features.std(0).mean() * features.shape[1] ** 0.5 > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near_float32(name: str) -> None:
    losses = []
    for enabled in (False, True):
        objective = make_objective(name)
        views = views_for(objective)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective(views, LABELS)
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    assert losses[1] == pytest.approx(losses[0], rel=0.1, abs=0.1)


def pretraining(
    name: str, optimiser: str = "sgd", epochs: int = 2, n: int = 24
) -> PretrainingModule:
    recipe = PretrainingRecipe(
        epochs=epochs, batch_size=8, learning_rate=0.01, optimiser=optimiser, views="affine"
    )
    preprocess = Preprocess(16, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    return PretrainingModule(
        make_objective(name), make_images(n), preprocess, recipe, 0, np.ones(n)
    )


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    from trainings import Stop

    uninterrupted, killed, resumed = (pretraining(name) for _ in range(3))
    fit(uninterrupted, [], tmp_path / "uninterrupted")
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, [Stop(1)], tmp_path / "cut")
    fit(resumed, [], tmp_path / "cut")
    states = resumed.network.state_dict()
    for key, value in uninterrupted.network.state_dict().items():
        assert torch.equal(value, states[key]), key


class Spy(Objective):
    """Records its arguments."""

    def __init__(self, views: int) -> None:
        super().__init__(encoder_for("spy"), ObjectiveSpec(SIZE, 3, (), 0))
        self.views = views
        self.calls: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        self.calls.append((views, labels))
        return self.encoder(views[0]).sum()


@pytest.mark.parametrize("views", [1, 2, 3])
def test_objectives_get_their_views_with_the_labels_of_the_images(views: int) -> None:
    module, images = pretraining("byol"), make_images(24)
    module.views = nn.Identity()
    module.preprocess = nn.Identity()  # type: ignore[assignment]
    module.network = spy = Spy(views)
    for batch in module.train_dataloader():
        module.training_step(batch, 0)
    assert len(spy.calls) == 3
    for batch_views, labels in spy.calls:
        assert len(batch_views) == views
        for view in batch_views:
            pixels = (view * 255).round().permute(0, 2, 3, 1).numpy()
            rows = [int(np.flatnonzero((images.pixels == p).all((1, 2, 3)))[0]) for p in pixels]
            assert images.labels[rows].tolist() == labels.tolist()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_optimisers_decay_as_they_say_and_train(optimiser: str, tmp_path: Path) -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    stepper = OPTIMISERS[optimiser]([weight, bias], 1.0)
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    stepper.step()
    decay = {"sgd": 5e-4, "adamw": 0.05}.get(optimiser, 0.0)  # zero gradients: LARS waits
    torch.testing.assert_close(weight, torch.full((2, 2), 1 - decay))
    torch.testing.assert_close(bias, torch.full((2,), 1 - decay * (optimiser == "sgd")))
    module = pretraining("simclr", optimiser)
    before = [p.clone() for p in module.network.parameters()]
    fit(module, [], tmp_path / "c")
    assert not any(
        torch.equal(p, q) for p, q in zip(before, module.network.parameters(), strict=True)
    )


def test_only_sgd_s_momentum_is_cycled() -> None:
    def at_first(optimiser: str) -> dict[str, Any]:
        cycled = pretraining("simclr", optimiser).configure_optimizers()["optimizer"]
        group: dict[str, Any] = cycled.param_groups[0]
        return group

    assert at_first("sgd")["momentum"] == 0.95
    assert at_first("adamw")["betas"] == (0.9, 0.95)
    assert at_first("adam")["betas"] == (0.9, 0.999)
    assert at_first("lars")["momentum"] == 0.9


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SMALL)))
@pytest.mark.parametrize("head", [(8,), (16, 8), (16, 16, 8)])
def test_heads_have_the_widths_of_the_spec(name: str, head: tuple[int, ...]) -> None:
    objective = make_objective(name, head=head)
    layers = [part for part in objective.projector.modules() if isinstance(part, nn.Linear)]
    assert tuple(layer.out_features for layer in layers) == head
    assert objective(views_for(objective), LABELS).isfinite()


def test_dino_normalises_batches_only_if_its_encoder_does() -> None:
    for encoder, norms in ((encoder_for("dino"), 2), (Transformer(), 0)):
        head = make_objective("dino", encoder).projector
        assert sum(isinstance(part, nn.BatchNorm1d) for part in head.modules()) == norms


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("byol", {"temperature": 0.2}, r"`temperature` is 0.2, .*\(BYOL\): set it to 0"),
        ("mae", {"head": (8,)}, r"`head` is \[8\], .*\(MAE\): set it to \[\]"),
        ("supervised", {"head": (8,)}, r"`head` is \[8\]"),
        ("supervised", {"classes": 0}, "`images` have no labels"),
        ("dino", {"head": (8, 8)}, r"`head` is \[8, 8\], .* three widths"),
        ("byol", {"local_crops": 2}, r"`local_crops` is 2, .*\(BYOL\): set it to 0"),
        ("simclr-v2", {"head": (16, 12)}, r"`head` is \[16, 12\], .* the 32 features"),
        ("simclr-v2", {"head": (32,)}, r"`head` is \[32\], .* such as \[32, 128\]"),
    ],
)
def test_specs_that_mean_nothing_are_refused(name: str, fields: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_objective(name, **fields)


def test_mae_refuses_other_encoders_and_too_few_patches() -> None:
    with pytest.raises(ArgumentError, match=r"`objective` is mae, .* timm:vit_tiny_patch16_224"):
        make_objective("mae", encoder_for("byol"))
    with pytest.raises(ArgumentError, match="makes 1 of an image"):
        make_objective("mae", Transformer(patch_size=16))


@pytest.mark.parametrize("name", NAMES)
def test_default_heads_work(name: str) -> None:
    objective = make_objective(name, head=())
    assert objective(views_for(objective), LABELS).isfinite()


def test_every_method_says_where_it_is_from() -> None:
    for method in (*OBJECTIVES.values(), *OPTIMISERS.values()):
        text = method.__doc__ or ""
        assert text.split("\n")[0].endswith("."), method
        assert "Source: " in text, method


def test_cautions_stand_where_they_must() -> None:
    cautioned = {name for name in NAMES if make_objective(name).caution}
    assert cautioned == {"mae", "supervised"}
    with_momentum = {name for name in NAMES if issubclass(OBJECTIVES[name], MomentumObjective)}
    assert with_momentum == {"byol", "moco", "dino", "simclr-v2"}
