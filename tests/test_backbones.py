"""Backbones: what must hold whatever their weights, for every name and several models of timm."""

from __future__ import annotations

import copy
import re
import sys
from functools import cache

import pytest
import timm
import torch
from torch import Tensor

from rapipe.encoder.backbones import BACKBONES, FAMILIES, Backbone, build, find, no_fusion
from rapipe.encoder.backbones.base import fuse_map
from rapipe.encoder.backbones.hooks import Stage
from rapipe.encoder.backbones.timm_plan import make_plan
from rapipe.errors import ArgumentError, UserError

TRANSFORMERS = (
    "timm:vit_tiny_patch16_224",
    "timm:deit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:tnt_s_patch16_224",
    "timm:mixer_s32_224",
)
CONVNETS = ("timm:convnext_atto", "timm:mobilenetv3_small_050", "timm:resnet10t")
TIMM = (*TRANSFORMERS, *CONVNETS)
NAMES = (*BACKBONES, *TIMM)
STEMS = ("cifar", "half", "imagenet")
PERCEIVERS = tuple(name for name in BACKBONES if name.startswith("perceiver"))


@cache
def shared_backbone(name: str, stem: str = "half", size: int = 64) -> Backbone:
    """Shared by tests that leave its weights as they are."""
    torch.manual_seed(0)
    return build(name, 8, stem, size).eval()


def fused_shapes(backbone: Backbone, size: int) -> list[tuple[int, torch.Size]]:
    """Stage numbers and shapes of two images' tokens, which a `fuse` leaves as they are."""
    calls: list[tuple[int, torch.Size]] = []

    def record(stage: int, tokens: Tensor) -> Tensor:
        calls.append((stage, tokens.shape))
        return tokens

    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = backbone(images, record)
        assert features.shape == (2, backbone.features)
        torch.testing.assert_close(features, backbone(images, no_fusion))
    return calls


def check_stages(backbone: Backbone, size: int) -> None:
    calls = fused_shapes(backbone, size)
    assert [stage for stage, _ in calls] == list(range(len(backbone.widths)))
    assert [shape[2] for _, shape in calls] == list(backbone.widths)
    assert all(len(shape) == 3 and shape[0] == 2 for _, shape in calls)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("stem", STEMS)
def test_tokens_are_fused_after_each_stage(name: str, size: int, stem: str) -> None:
    check_stages(BACKBONES[name](8, stem, size).eval(), size)


@pytest.mark.parametrize("name", TIMM)
def test_tokens_are_fused_after_each_stage_of_timms(name: str) -> None:
    backbone = shared_backbone(name)
    check_stages(backbone, 64)
    assert len(backbone.widths) == 4


@pytest.mark.parametrize(
    ("name", "stem", "size", "tokens"),
    [
        ("timm:vit_tiny_patch16_224", "imagenet", 32, [1 + 4] * 4),
        ("timm:vit_tiny_patch16_224", "half", 64, [1 + 64] * 4),
        ("timm:vit_tiny_patch16_224", "cifar", 96, [1 + 576] * 4),
        ("timm:swin_tiny_patch4_window7_224", "imagenet", 32, [64, 16, 4, 1]),
        ("timm:swin_tiny_patch4_window7_224", "half", 64, [1024, 256, 64, 16]),
        ("timm:swin_tiny_patch4_window7_224", "cifar", 32, [1024, 256, 64, 16]),
        ("timm:tnt_s_patch16_224", "half", 64, [1 + 64] * 4),
        ("timm:tnt_s_patch16_224", "imagenet", 16, [1 + 1] * 4),
        ("timm:mixer_s32_224", "cifar", 96, [144] * 4),
        ("timm:mixer_s32_224", "imagenet", 32, [1] * 4),
        ("timm:convnext_atto", "cifar", 32, [1024, 256, 64, 16]),
        ("timm:convnext_atto", "imagenet", 32, [64, 16, 4, 1]),
        ("timm:resnet10t", "cifar", 96, [576, 144, 36, 9]),
        ("timm:resnet10t", "imagenet", 96, [576, 144, 36, 9]),
    ],
)
def test_the_stem_says_how_finely_an_image_is_seen(
    name: str, stem: str, size: int, tokens: list[int]
) -> None:
    """`imagenet` is the model's own; a model without patches keeps its own whatever the stem."""
    with torch.device("meta"):  # shapes are all that is compared
        backbone = build(name, 8, stem, size).eval()
    counts: list[int] = []

    def count_tokens(stage: int, x: Tensor) -> Tensor:
        counts.append(x.shape[1])
        return x

    features = backbone(torch.empty(2, 3, size, size, device="meta"), count_tokens)
    assert counts == tokens
    assert features.shape == (2, backbone.features)


@pytest.mark.parametrize("name", TIMM)
def test_timms_take_the_usual_sizes(name: str) -> None:
    for stem, size in (("imagenet", 32), ("half", 96), ("cifar", 64)):
        assert len(make_plan(name.removeprefix("timm:"), stem, size).stages) == 4


def test_its_own_size_is_taken_though_patches_leave_an_edge() -> None:
    assert make_plan("vit_so400m_patch14_siglip_384", "imagenet", 384).features == 1152


@pytest.mark.parametrize("name", NAMES)
def test_fused_tokens_reach_the_features(name: str) -> None:
    """What is added after any one stage changes the output, and gets gradients."""
    backbone = shared_backbone(name)
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(1)
    shifts = [torch.randn(width, requires_grad=True) for width in backbone.widths]

    def add(stage: int, tokens: Tensor) -> Tensor:
        return tokens + shifts[stage] * (stage in active)

    active = set(range(len(shifts)))
    backbone(images, add).square().sum().backward()
    for shift in shifts:
        assert shift.grad is not None
        assert shift.grad.abs().sum() > 0
    with torch.inference_mode():
        plain = backbone(images)
        for stage in range(len(shifts)):
            active = {stage}
            assert (backbone(images, add) - plain).abs().max() > 1e-3, stage


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    backbone = copy.deepcopy(shared_backbone(name))
    torch.manual_seed(1)
    for parameter in backbone.parameters():
        if not parameter.any():  # blocks of a ResNet begin as if they were not there
            torch.nn.init.normal_(parameter, std=0.1)
    features = backbone(torch.randn(2, 3, 64, 64))
    slopes = torch.autograd.grad(
        (features * torch.randn_like(features)).sum(),
        list(backbone.parameters()),
        allow_unused=True,
    )
    for (parameter, _), slope in zip(backbone.named_parameters(), slopes, strict=True):
        assert slope is not None, parameter
        assert slope.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", BACKBONES)
def test_six_images_are_soon_learned_by_heart(name: str) -> None:
    torch.manual_seed(0)
    backbone, head = build(name, 8, "half", 16), torch.nn.LazyLinear(3)
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    head(backbone.eval()(images))
    network = torch.nn.Sequential(backbone.train(), head)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (network.eval()(images).argmax(dim=1) == labels).all()


def test_token_order_is_that_of_positions() -> None:
    """A change to the token of one position stays at that position of the map."""

    def mark(stage: int, tokens: Tensor) -> Tensor:
        changed = tokens.clone()
        changed[:, 1 * 4 + 2] = 7
        return changed

    marked = fuse_map(mark, 0, torch.zeros(1, 5, 3, 4))
    assert (marked[0, :, 1, 2] == 7).all()
    assert marked.sum() == 5 * 7
    for stage, zeros, position in (
        (Stage("", None, 5, True), torch.zeros(1, 5, 3, 4), (0, slice(None), 1, 2)),
        (Stage("", None, 5, False), torch.zeros(1, 3, 4, 5), (0, 1, 2)),
        (Stage("", None, 5, False), torch.zeros(1, 12, 5), (0, 6)),
    ):
        marked = stage.fuse_output(mark, 0, zeros)
        assert marked.shape == zeros.shape
        assert (marked[position] == 7).all()
        assert marked.sum() == 5 * 7


def test_of_several_outputs_only_the_part_with_the_tokens_is_fused() -> None:
    pixels, patches = torch.zeros(8, 4, 3), torch.zeros(2, 4, 5)
    other, fused = Stage("", 1, 5, False).fuse_output(lambda _, x: x + 1, 0, (pixels, patches))
    assert other is pixels
    assert torch.equal(fused, patches + 1)


@pytest.mark.parametrize("name", PERCEIVERS)
def test_perceivers_know_where_pixels_stand(name: str) -> None:
    backbone = BACKBONES[name](8, "half", 16).eval()
    images = torch.randn(2, 3, 16, 16)
    assert (backbone(images) - backbone(images.flip(3))).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "millions"), [("perceiver_m", 0.293), ("perceiver_l", 1.15), ("perceiver_xl", 4.4)]
)
def test_perceivers_have_the_published_sizes(name: str, millions: float) -> None:
    """Those of the Perceivers that the reference accuracies on CIFAR-10 are of."""
    assert count(BACKBONES[name](64, "cifar", 32)) == pytest.approx(millions * 1e6, rel=0.03)
    assert count(BACKBONES[name](32, "cifar", 32)) < count(BACKBONES[name](64, "cifar", 32)) / 3


def count(backbone: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


def test_no_two_names_make_the_same_network() -> None:
    assert len({count(BACKBONES[name](8, "half", 16)) for name in BACKBONES}) == len(BACKBONES)


@pytest.mark.parametrize(("name", "stages"), [("resnet34", 8), ("resnet50", 32)])
def test_resnets_are_timms(name: str, stages: int) -> None:
    backbone = BACKBONES[name](64, "imagenet", 64)
    assert backbone.widths == tuple(8 * stages * 2**i for i in range(4))
    published = timm.create_model(name, num_classes=0)
    shapes = {key: value.shape for key, value in published.state_dict().items()}
    assert {key: value.shape for key, value in backbone.net.state_dict().items()} == shapes


@pytest.mark.parametrize("name", TIMM)
def test_timms_weights_have_timms_names(name: str) -> None:
    with torch.device("meta"):
        published = timm.create_model(name.removeprefix("timm:"), num_classes=0)
    backbone = shared_backbone(name)
    assert list(backbone.net.state_dict()) == list(published.state_dict())
    assert set(backbone.state_dict()) == {f"net.{key}" for key in published.state_dict()}


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"])
def test_building_draws_what_timm_draws_and_nothing_else(name: str) -> None:
    torch.manual_seed(5)
    published = timm.create_model(name.removeprefix("timm:"), num_classes=0).state_dict()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    backbone = build(name, 8, "imagenet", 224)
    assert torch.equal(torch.get_rng_state(), after)
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, published[key]), key


@pytest.mark.parametrize("name", ["perceiver_io", "timm:mixer_s32_224"])
def test_a_seed_makes_the_same_weights_again(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(name, 8, "cifar", 32).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vit_small_patch16_dinov3", {"model": "avg", "cls": "token"}),
        ("test_vit", {"model": "token", "cls": "token", "mean": "avg"}),
        ("test_vit2", {"model": "avg", "mean": "avg"}),
    ],
)
def test_pools_are_timms(name: str, theirs: dict[str, str]) -> None:
    """`model` is timm's default, which for DINOv3 is not what its authors use."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    published = timm.create_model(name, num_classes=0, img_size=64).eval()
    tokens = published.forward_features(images)
    for pool, timms_pool in theirs.items():
        backbone = build(f"timm:{name}", 8, "imagenet", 64, pool).eval()
        backbone.net.load_state_dict(published.state_dict())
        features = published.fc_norm(published.pool(tokens, timms_pool))
        torch.testing.assert_close(backbone(images), features)
        assert backbone.features == features.shape[1]


@torch.no_grad()
def test_cls_and_mean_are_concatenated_and_registers_left_out() -> None:
    name = "timm:vit_small_patch16_dinov3"
    backbone = build(name, 8, "imagenet", 64, "cls+mean").eval()
    check_stages(backbone, 64)
    images = torch.randn(2, 3, 64, 64)
    tokens = backbone.net.forward_features(images)
    assert tokens.shape[1] == 1 + 4 + 16, "CLS, registers, patches"
    expected = torch.cat((tokens[:, 0], tokens[:, 5:].mean(dim=1)), dim=1)
    torch.testing.assert_close(backbone(images), expected)
    assert backbone.features == 2 * tokens.shape[2]


@pytest.mark.parametrize(
    ("name", "pool", "choices"),
    [
        ("resnet18", "cls", "model or mean, which are the same"),
        ("timm:resnet10t", "cls+mean", "model or mean, which are the same"),
        ("timm:test_vit2", "cls", "model or mean"),
        ("timm:test_vit2", "max", "model, cls, mean, cls+mean"),
    ],
)
def test_pools_that_a_model_lacks_are_refused(name: str, pool: str, choices: str) -> None:
    """A register is no CLS token."""
    message = rf"^`pool` is '.*: choose (from )?{re.escape(choices)}$"
    with pytest.raises(ArgumentError, match=message):
        build(name, 8, "imagenet", 64, pool)


def test_mean_of_a_convolutional_model_is_what_it_does() -> None:
    for name in ("resnet18", "timm:resnet10t"):
        images = torch.randn(2, 3, 64, 64)
        mean, backbone = build(name, 8, "half", 64, "mean").eval(), shared_backbone(name)
        mean.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(mean(images), backbone(images))


def test_packages_of_encoders_are_imported_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("transformers", "open_clip"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, module in (("hf:a/b", "transformers"), ("open_clip:ViT-B-32/openai", "open_clip")):
        message = rf"'{name}' needs the package {module}, .* pip install 'rapipe\[pretrained\]'$"
        with pytest.raises(UserError, match=message):
            find(name)
    build("timm:test_vit2", 8, "imagenet", 64)


def test_a_models_own_features_come_out() -> None:
    """With timm's weights and without neighbours, features are timm's."""
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, patch_size=8)
    backbone = build("timm:vit_tiny_patch16_224", 8, "half", 64).eval()
    backbone.net.load_state_dict(published.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), published.eval()(images))


def test_a_copy_fuses_for_itself_and_a_failure_leaves_nothing_behind() -> None:
    backbone = shared_backbone("timm:convnext_atto")
    other = copy.deepcopy(backbone)
    images, calls = torch.randn(2, 3, 64, 64), []

    def record(stage: int, tokens: Tensor) -> Tensor:
        calls.append(stage)
        return tokens

    def fail(stage: int, tokens: Tensor) -> Tensor:
        raise RuntimeError("stop")

    with torch.inference_mode():
        other(images, record)
        assert calls == [0, 1, 2, 3]
        with pytest.raises(RuntimeError, match="stop"):
            backbone(images, fail)
        torch.testing.assert_close(backbone(images), other(images))


def test_a_model_that_hides_its_stages_is_fused_at_its_end() -> None:
    plan = make_plan("mvitv2_tiny", "imagenet", 32)
    assert [(stage.module, stage.channels) for stage in plan.stages] == [("norm", 768)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet19",
            r"'resnet19' is no backbone; choose from resnet18, .*, or hf:NAME, .* \(did",
        ),
        ("tim:vit", r"'tim:vit' is no backbone; choose from resnet18, .*, or open_clip:NAME$"),
        ("timm:vit_tinny", "'timm:vit_tinny' is no model of timm; did you mean timm:vit_tiny"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "did you mean timm:vit_tiny_patch16_224 or"),
        ("timm:zzzzz", r"'timm:zzzzz' is no model of timm; timm\.list_models\(\) has the names"),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(name)


@pytest.mark.parametrize(
    ("name", "stem", "size", "remedy"),
    [
        ("efficientformer_l1", "half", 32, "with this stem it takes images of 224 pixels"),
        ("volo_d1_224", "cifar", 32, "it takes them with the stem imagenet or half"),
        (
            "vit_tiny_patch16_224",
            "imagenet",
            40,
            "it takes them with the stem half or cifar, and with this stem it takes images of 32 "
            "or 48 pixels$",
        ),
        (
            "crossvit_tiny_240",
            "half",
            32,
            "choose another model: neither another stem",
        ),
    ],
)
def test_images_that_a_model_does_not_take_are_refused(
    name: str, stem: str, size: int, remedy: str
) -> None:
    start = f"timm:{name} does not take images of {size} pixels with the stem {stem}; "
    with pytest.raises(UserError, match=start + remedy):
        build(f"timm:{name}", 8, stem, size)


@pytest.mark.parametrize("method", [*BACKBONES.values(), *FAMILIES.values()])
def test_every_method_says_what_it_is_and_whose(method: object) -> None:
    doc = method.__doc__ or ""
    assert doc.partition("\n")[0].endswith(".")
    assert "\n    Source: " in doc
