"""Checkpoints from elsewhere: the loaded backbone computes what the network of the file does."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import make_spec
from lightly.models import ResNetGenerator
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import mlp_mixer
from timm.models.swin_transformer import SwinTransformer
from timm.models.tnt import TNT
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rapipe.classifier.classifier import Classifier
from rapipe.encoder.backbones import Backbone, Fuse, build, no_fusion
from rapipe.encoder.checkpoints import check, fill, read
from rapipe.encoder.checkpoints.resampling import grid_map, resample_mixer
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import ArgumentError, UserError
from rapipe.io import weights

PLAIN = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def settled(net: nn.Module) -> nn.Module:
    """In evaluation mode, with BatchNorm statistics that are not those of a new network."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def published() -> nn.Module:
    torch.manual_seed(0)
    return settled(torchvision.models.resnet18(num_classes=5))


@pytest.fixture(scope="module")
def lightlys() -> nn.Module:
    """lightly's own ResNet-18, for small images."""
    torch.manual_seed(0)
    return settled(ResNetGenerator("resnet-18", num_classes=5))


@pytest.fixture(scope="module")
def ours() -> Backbone:
    """As wide as published, with the published stem."""
    return build("resnet18", 64, "imagenet", 64)


class Wrapped(Backbone):
    """A timm model as a backbone."""

    def __init__(self, net: nn.Module, features: int) -> None:
        super().__init__()
        self.net, self.features, self.widths = net, features, (features,)

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        return self.net(images)


def vit(image: int, patch: int, classes: int = 0, depth: int = 2) -> VisionTransformer:
    torch.manual_seed(image + patch)
    return VisionTransformer(
        image, patch, embed_dim=32, depth=depth, num_heads=2, num_classes=classes
    ).eval()


def below(prefix: str, state: dict[str, Tensor], *without: str) -> dict[str, Tensor]:
    return {prefix + n: t for n, t in state.items() if not n.startswith(without)}


def without_net(network: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("net."): t for n, t in network.items()}


def features_of_torchvisions(net: Any, images: Tensor) -> Tensor:
    return nn.Sequential(*list(net.children())[:-1])(images).flatten(1)


def features_of_lightlys(net: Any, images: Tensor) -> Tensor:
    out = torch.relu(net.bn1(net.conv1(images)))
    return net.layer4(net.layer3(net.layer2(net.layer1(out)))).mean((2, 3))


def scrambled(backbone: Backbone) -> Backbone:
    """So that what another test loaded cannot pass for what this one loads."""
    for tensor in backbone.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.2)
    return backbone.eval()


@torch.no_grad()
def test_torchvision_file(published: nn.Module, ours: Backbone, tmp_path: Path) -> None:
    path = str(tmp_path / "resnet18.pth")
    torch.save(published.state_dict(), path)
    summary = fill(scrambled(ours), read(path), path)
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(ours(images), features_of_torchvisions(published, images))
    assert summary == f"{path}: 120 tensors, found by its own names; left out: fc (2)"


@torch.no_grad()
@pytest.mark.parametrize("form", ["solo-learn", "moco", "sequential", "timm", "without counters"])
def test_other_forms_of_the_published_resnet(
    form: str, published: nn.Module, ours: Backbone
) -> None:
    state = published.state_dict()
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    layers = nn.Sequential(*list(published.children())[:-1])
    tensors, unused = {
        "solo-learn": (
            below("momentum_backbone.", other, "fc")
            | below("backbone.", state, "fc")
            | {"projector.0.weight": torch.ones(2, 2), "classifier.weight": torch.ones(2, 2)},
            "momentum_backbone (120), projector (1), classifier (1)",
        ),
        "moco": (
            below("module.encoder_k.", other) | below("module.encoder_q.", state),
            "module.encoder_k (122), module.encoder_q.fc (2)",
        ),
        "sequential": (
            below("backbone.", layers.state_dict()) | {"prediction_head.0.bias": torch.ones(2)},
            "prediction_head (1)",
        ),
        "timm": (below("model.", state, "fc"), "nothing"),
        "without counters": (
            {n: t for n, t in state.items() if not n.endswith("tracked")},
            "fc (2)",
        ),
    }[form]
    summary = fill(scrambled(ours), tensors, "file.ckpt")
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(ours(images), features_of_torchvisions(published, images))
    assert summary.endswith(f"; left out: {unused}")


@torch.no_grad()
@pytest.mark.parametrize("form", ["names", "sequential"])
def test_lightlys_own_resnet(form: str, lightlys: nn.Module) -> None:
    layers = nn.Sequential(*list(lightlys.children())[:-1], nn.AdaptiveAvgPool2d(1))
    state = lightlys.state_dict() if form == "names" else layers.state_dict()
    backbone = build("resnet18", 64, "cifar", 16).eval()
    summary = fill(backbone, below("backbone.", state), "file.ckpt")
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(backbone(images), features_of_lightlys(lightlys, images))
    assert "lightly's" in summary


def test_nested_tables_and_what_lightning_adds(tmp_path: Path) -> None:
    network = build("resnet18", 4, "half", 16).state_dict()
    path = tmp_path / "a.ckpt"
    torch.save(
        {
            "epoch": 3,
            "state_dict": below("student.backbone.", without_net(network)),
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
            "hyper_parameters": {"lr": 0.1},
        },
        path,
    )
    backbone = build("resnet18", 4, "half", 16)
    fill(backbone, read(str(path)), str(path))
    assert all(torch.equal(t, network[n]) for n, t in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("student.module.backbone.", "teacher.backbone."),
        ("model.student.backbone.", "model.teacher.backbone."),
        ("student_backbone.", "teacher_backbone."),
    ],
    ids=["dino", "dinov2", "lightly"],
)
def test_dinos_teacher_comes_before_its_student(student: str, teacher: str, tmp_path: Path) -> None:
    """The teacher is what DINO's authors publish and evaluate."""
    networks = [build("resnet18", 4, "half", 16).state_dict() for _ in range(2)]
    learner, average = (without_net(network) for network in networks)
    tensors = below(student, learner) | below(teacher, average)
    for state in (tensors, dict(reversed(tensors.items()))):
        backbone = build("resnet18", 4, "half", 16)
        summary = fill(backbone, state, "a.pth")
        assert all(torch.equal(t, networks[1][n]) for n, t in backbone.state_dict().items())
        assert teacher in summary


def test_what_rapipe_wrote(tmp_path: Path) -> None:
    """An encoder and a classifier, and neither if a byte is not what it was."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec("perceiver", 4, "half", 16, *PLAIN))
    classifier = Classifier(make_spec("perceiver"))
    for network, name in ((encoder, "encoder"), (classifier, "classifier")):
        folder = tmp_path / name
        network.write(folder, {})
        backbone = build("perceiver", 4, "half", 16)
        summary = fill(backbone, read(str(folder)), str(folder))
        expected = network.backbone.state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in backbone.state_dict().items())
    assert summary.endswith("under 'backbone.'; left out: fusions (18), head (2)")
    state = weights.read_card(folder, "train")
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ArgumentError, match=r"`init` is .*does not match its card"):
        read(str(folder))
    assert state["hash"]
    with pytest.raises(ArgumentError, match=r"a folder without card\.json"):
        read(str(tmp_path))


def test_safetensors(tmp_path: Path) -> None:
    network, path = build("alexnet", 4, "half", 16), str(tmp_path / "a.safetensors")
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, path)
    backbone = build("alexnet", 4, "half", 16)
    fill(backbone, read(path), path)
    assert torch.equal(backbone.hidden[2].weight, network.hidden[2].weight)
    assert backbone.convolutions[0][0].weight.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_positions_of_a_larger_image_are_resampled() -> None:
    pretrained, backbone = vit(32, 4, classes=7), Wrapped(vit(16, 4), 32)
    summary = fill(backbone, pretrained.state_dict(), "vit.pth")
    expected = resample_abs_pos_embed(pretrained.pos_embed, [4, 4], num_prefix_tokens=1)
    assert torch.equal(backbone.net.pos_embed, expected)
    assert "resampled to this image and patch size: pos_embed; left out: head (2)" in summary


@torch.no_grad()
def test_patches_of_another_size_are_resampled() -> None:
    """A kernel for patches twice as large answers alike to images twice as large."""
    pretrained, backbone = vit(32, 8), Wrapped(vit(16, 4), 32)
    summary = fill(backbone, below("vit.", pretrained.state_dict()), "vit.pth")
    assert "resampled to this image and patch size: patch_embed.proj.weight" in summary
    coarse = torch.randn(1, 3, 16, 16)
    fine = nn.functional.interpolate(coarse, scale_factor=2, mode="bicubic")
    ours, theirs = backbone.net.patch_embed(coarse), pretrained.patch_embed(fine)
    assert torch.corrcoef(torch.stack((ours.flatten(), theirs.flatten())))[0, 1] > 0.9


@torch.no_grad()
def test_swins_relative_positions_are_resampled() -> None:
    """A slope stays a slope, and buffers that old files hold are no sign of another network."""
    options: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
    pretrained = SwinTransformer(56, 4, window_size=7, num_classes=3, **options)
    backbone = Wrapped(SwinTransformer(32, 4, window_size=4, num_classes=0, **options), 16)
    down = torch.arange(13.0).repeat_interleave(13)[:, None]
    pretrained.layers[0].blocks[0].attn.relative_position_bias_table.copy_(down)
    state = pretrained.state_dict() | {"layers.0.blocks.1.attn_mask": torch.ones(4)}
    summary = fill(backbone, state, "swin.pth")
    slope = backbone.net.layers[0].blocks[0].attn.relative_position_bias_table.view(7, 7)
    assert (slope.diff(dim=0) > 0.5).all()
    torch.testing.assert_close(slope, slope[:, :1].expand(7, 7))
    assert "bias_table and 1 more; left out: head (2), layers (1)" in summary


def slow_images(side: int, count: int = 4) -> Tensor:
    """Images that vary slowly, over many tokens at any size: the same ones at every size."""
    coarse = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    large = nn.functional.interpolate(coarse, (224, 224), mode="bicubic")
    return nn.functional.interpolate(large, (side, side), mode="bicubic", antialias=True)


def likeness(one: Tensor, other: Tensor) -> float:
    """Least cosine similarity of features, less their mean over the images."""
    centred = (one - one.mean(0), other - other.mean(0))
    return float(nn.functional.cosine_similarity(*centred).min())


def without_resampling(backbone: Backbone, state: dict[str, Tensor]) -> Backbone:
    """A control: what has another shape stays random."""
    own = without_net(backbone.state_dict())
    fits = {n: state[n] if state[n].shape == t.shape else t for n, t in own.items()}
    backbone.load_state_dict({f"net.{n}": t for n, t in fits.items()})
    return backbone


MIXERS: dict[str, tuple[Any, Any, Any]] = {
    "mixer": (mlp_mixer.MixerBlock, mlp_mixer.Mlp, (0.5, 4.0)),
    "gmixer": (mlp_mixer.MixerBlock, mlp_mixer.GluMlp, (1.0, 4.0)),
    "resmlp": (mlp_mixer.ResBlock, mlp_mixer.Mlp, 4),
    "gmlp": (mlp_mixer.SpatialGatingBlock, mlp_mixer.GatedMlp, 4),
}


@torch.no_grad()
@pytest.mark.parametrize("family", MIXERS)
def test_what_mixes_tokens_is_resampled(family: str) -> None:
    """At its own size it is the same network; at others it computes alike what varies slowly."""

    def net(image: int, patch: int) -> Any:
        torch.manual_seed(image)
        block, layer, ratio = MIXERS[family]
        sizes = {"embed_dim": 32, "num_blocks": 2, "num_classes": 0, "mlp_ratio": ratio}
        return mlp_mixer.MlpMixer(
            img_size=image, patch_size=patch, block_layer=block, mlp_layer=layer, **sizes
        ).eval()

    pretrained = net(112, 16)  # 7 x 7 tokens
    for name, tensor in pretrained.state_dict().items():
        if name.endswith("bias") or "gate.proj" in name or ".ls" in name:
            nn.init.normal_(tensor, std=0.3)  # which timm has near 0, so that it would not show
    state, expected = pretrained.state_dict(), pretrained(slow_images(112))
    for image, patch, least in ((112, 16, 1.0), (56, 8, 0.97), (64, 8, 0.9), (32, 4, 0.9)):
        backbone = Wrapped(net(image, patch), 32)
        summary = fill(backbone, below("model.", state), "mixer.pth")
        features = backbone(slow_images(image))
        assert likeness(features, expected) >= least - 1e-6, (image, patch)
        control = without_resampling(Wrapped(net(image, patch), 32), state)
        if patch != 16:
            assert likeness(control(slow_images(image)), expected) < 0.6, (image, patch)
        assert ("resampled" in summary) is (patch != 16)
        if patch == 16:
            assert torch.equal(features, expected)
            assert all(torch.equal(t, state[n]) for n, t in backbone.net.state_dict().items())


def test_maps_between_grids_of_tokens() -> None:
    """A constant stays one, a slope stays one; a layer reads and gives tokens of the new grid."""
    slope = torch.linspace(0, 1, 7).repeat(7)
    for other in (4, 8, 14):
        there = grid_map(49, other**2)
        torch.testing.assert_close(there.sum(1), torch.ones(other**2))
        rows = (there @ slope).reshape(other, other)
        torch.testing.assert_close(rows, rows[:1].expand(other, other))
        assert (rows[0].diff() > 0.4 / other).all()
    assert torch.equal(grid_map(49, 49), torch.eye(49))
    state = {"linear_tokens.weight": torch.randn(49, 49), "linear_tokens.bias": torch.randn(49)}
    state["fc.weight"] = torch.randn(49, 49)  # of no tokens
    shapes = ((64, 64), (64,), (64, 64))
    targets = {n: torch.empty(s) for n, s in zip(state, shapes, strict=True)}
    new, x = resample_mixer(state, targets), torch.randn(64)
    read = state["linear_tokens.weight"] @ (grid_map(64, 49) @ x) + state["linear_tokens.bias"]
    given = new["linear_tokens.weight"] @ x + new["linear_tokens.bias"]
    torch.testing.assert_close(given, grid_map(49, 64) @ read, rtol=1e-4, atol=1e-4)
    assert new["fc.weight"] is state["fc.weight"]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["mixer_s16_224", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
)
def test_a_file_of_a_model_for_224_pixels_serves_32_and_64(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pretrained = timm.create_model(name, num_classes=0).eval()
    path = str(tmp_path / "weights.pth")
    torch.save(pretrained.state_dict(), path)
    expected = pretrained(slow_images(224))
    for size in (224, 64, 32):
        stem = "imagenet" if size == 224 else "cifar"
        backbone = build(f"timm:{name}", 64, stem, size).eval()
        if size < 224:
            control = without_resampling(backbone, pretrained.state_dict())
            assert likeness(control(slow_images(size)), expected) < 0.3, size
        fill(backbone, read(path), path)
        features = backbone(slow_images(size))
        if size == 224:
            torch.testing.assert_close(features, expected)
        assert likeness(features, expected) > 0.8, size


def test_tnt_keeps_its_patches_and_resamples_their_positions() -> None:
    """Its inner patches are of so many pixels; positions of its patches are resampled."""
    sizes: dict[str, Any] = {"embed_dim": 24, "inner_dim": 8, "depth": 1, "num_classes": 0}
    sizes |= {"num_heads_inner": 2, "num_heads_outer": 2}
    state = TNT(64, 16, **sizes).state_dict()
    small = Wrapped(TNT(32, 16, **sizes), 24)
    assert "resampled to this image and patch size: patch_pos;" in fill(small, state, "tnt.pth")
    pixels = {n: t for n, t in state.items() if not n.startswith("patch_pos")}
    assert all(torch.equal(small.net.state_dict()[n], t) for n, t in pixels.items())


@pytest.mark.slow
def test_what_would_work_for_tnt_is_said() -> None:
    with torch.device("meta"):
        state = timm.create_model("tnt_s_patch16_224", num_classes=0).state_dict()
        backbone = build("timm:tnt_s_patch16_224", 64, "cifar", 32)
    message = (
        "not all that depends on the size of patches can be resampled: set `stem` to imagenet "
        "and `image_size` to 32, or"
    )
    with pytest.raises(ArgumentError, match=message):
        fill(backbone, state, "tnt.pth")


@torch.no_grad()
def test_a_timm_model_computes_what_timms_does() -> None:
    torch.manual_seed(0)
    pretrained = timm.create_model("resnet10t", num_classes=5).eval()
    backbone = build("timm:resnet10t", 64, "imagenet", 32).eval()
    fill(backbone, pretrained.state_dict(), "a.pth")
    images = torch.randn(2, 3, 32, 32)
    expected = pretrained.forward_head(pretrained.forward_features(images), pre_logits=True)
    torch.testing.assert_close(backbone(images), expected)


def test_another_width_or_stem_is_refused(
    published: nn.Module, lightlys: nn.Module, ours: Backbone
) -> None:
    backbone = build("resnet18", 16, "half", 32)
    before = weights.weights_hash(backbone)
    message = (
        "`init`: conv1.weight is (64, 3, 7, 7) in a.pth but (64, 3, 3, 3) in the backbone: "
        "set `width` to 64 and `stem` to imagenet, as in that checkpoint"
    )
    with pytest.raises(ArgumentError, match=re.escape(message)):
        fill(backbone, published.state_dict(), "a.pth")
    with pytest.raises(ArgumentError, match=r"set `width` to 64, as"):
        fill(backbone, lightlys.state_dict(), "a.pth")
    assert weights.weights_hash(backbone) == before, "all or nothing"
    with pytest.raises(ArgumentError, match=r"set `stem` to cifar or half, as"):
        fill(ours, lightlys.state_dict(), "a.pth")
    with pytest.raises(ArgumentError, match=r"pos_embed is .* of other settings"):
        fill(
            Wrapped(vit(16, 4), 32),
            vit(16, 4).state_dict() | {"pos_embed": torch.ones(1, 8, 32)},
            "a",
        )


def test_another_network_is_refused() -> None:
    backbone = build("resnet18", 8, "half", 16)
    tensors = {n.removeprefix("net."): t for n, t in backbone.state_dict().items()}
    extra = tensors | {"layer1.2.conv1.weight": torch.ones(2, 2)}
    with pytest.raises(ArgumentError, match=r"has layer1\.2\.conv1\.weight too.*larger network"):
        fill(backbone, extra, "resnet34.pth")
    fewer = {n: t for n, t in tensors.items() if not n.startswith("layer4.1.bn2")}
    with pytest.raises(ArgumentError, match=r"lacks layer4\.1\.bn2\.weight"):
        fill(backbone, fewer, "a.pth")
    with pytest.raises(ArgumentError, match=r"blocks\.2\..* too: it is of a larger network"):
        fill(Wrapped(vit(16, 4), 32), vit(16, 4, depth=3).state_dict(), "a.pth")
    with pytest.raises(ArgumentError, match=r"such as 'cls_token', and the backbone .*conv1"):
        fill(backbone, vit(16, 4).state_dict(), "a.pth")


class Hostile:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", str(tmp_path / "a.pt")
    torch.save({"conv1.weight": torch.ones(2), "more": Hostile(trace)}, path)
    with pytest.raises(ArgumentError, match=r"more than tensors.*torch\.save\(model\.state_dict"):
        read(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "else the test shows nothing"
    torch.save({"state_dict": {"a": torch.ones(2)}, "hp": argparse.Namespace(x=1)}, path)
    with pytest.raises(ArgumentError, match=r"more than tensors \(argparse\.Namespace\)"):
        read(path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    path, state = tmp_path / name, {"a": torch.ones(1000)}
    torch.save(state, path) if name == "a.pth" else save_file(state, path)
    intact = path.read_bytes()
    for bad in (b"hello, this is nothing at all", intact[: len(intact) // 2]):
        path.write_bytes(bad)
        with pytest.raises(ArgumentError, match=r"`init` is .*does not load.*is it whole"):
            read(str(path))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html>\n<html><body>404", "is an HTML page"),
        (b"\xef\xbb\xbf<!-- a -->\n<HTML>", "is an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is an XML document"),
        (b'{"error": "Repository not found"}', "is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    ],
)
def test_what_servers_send_in_place_of_weights(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    for judge in (check, read):
        with pytest.raises(ArgumentError, match=rf"`init` is .*{name}', but the file {sentence}"):
            judge(str(tmp_path / name))


def test_a_checkpoint_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert list(read("~/a.pt")) == ["a"]
    with pytest.raises(UserError, match="there is no such home folder"):
        read("~nobody-of-this-name/a.pt")


def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"does not exist: name a file .*hub:NAME"):
        read(str(tmp_path / "none.pth"))
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ArgumentError, match=r"another kind: name a file .*\.safetensors"):
        read(str(tmp_path / "a.txt"))
    torch.save({"epoch": 3, "losses": [torch.ones(2)]}, tmp_path / "a.pt")
    with pytest.raises(ArgumentError, match="holds no tensors"):
        read(str(tmp_path / "a.pt"))


def test_the_hub_gives_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create(name: str, pretrained: bool) -> nn.Module:
        calls.append((name, pretrained))
        return vit(16, 4)

    monkeypatch.setattr(timm, "create_model", create)
    state = read("hub:vit_some.of_some")
    assert calls == [("vit_some.of_some", True)]
    assert np.array_equal(state["pos_embed"], vit(16, 4).pos_embed.detach())


def test_a_hub_out_of_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, pretrained: bool) -> nn.Module:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ArgumentError, match=r"hub:resnet18', .*\(no route to host\).* name a file"):
        read("hub:resnet18")
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="Unknown model"):
        read("hub:resnet19")
