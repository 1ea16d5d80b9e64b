"""Encoders of transformers and OpenCLIP: tiny ones, on disk and on a hub of this machine.

The hub answers as the real one does, in this process; no test goes further than that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import COMMIT, FakeHub, serving
from safetensors.torch import save_file
from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone, build
from rapipe.encoder.checkpoints import Published, check, describe, fill, read
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import ArgumentError, UserError

transformers = pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")
pytestmark = pytest.mark.ci

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
VIT = {**SMALL, "image_size": 32, "patch_size": 16}
TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8, "eos_token_id": 1}
HALF = [0.5, 0.5, 0.5]
PROCESSOR = {
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "image_mean": HALF,
    "image_std": [0.25] * 3,
    "resample": 3,
}
TOWER = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 4, "head_width": 16}
CLIP_TEXT = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}


def two_towers(kind: str, **vision: Any) -> nn.Module:
    """The whole of a CLIP or SigLIP, with its text tower."""
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VIT, **vision},
        text_config={**TEXT, "pad_token_id": 0, "bos_token_id": 0},
        projection_dim=24,
    )
    network: nn.Module = getattr(transformers, f"{kind}Model")(config)
    return network


MODELS = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VIT)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=4)
    ),
    "dinov3": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)
    ),
    "siglip": lambda: two_towers("Siglip"),
    "siglip2": lambda: two_towers("Siglip2", num_patches=4),
    "clip": lambda: two_towers("CLIP"),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**VIT, num_labels=3)
    ),
    "convnext": lambda: transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    ),
}
"""By name of a repository, what its authors have saved."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    """The models, each also saved in a folder of the hub, which `root` finds."""
    torch.manual_seed(0)
    saved = {name: make().eval() for name, make in MODELS.items()}
    root = tmp_path_factory.mktemp("hub")
    for name, network in saved.items():
        folder = root / "org" / name
        network.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    saved["root"] = root
    return saved


@pytest.fixture
def hub(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    fake = FakeHub(models["root"])
    with serving(fake, tmp_path / "cache", monkeypatch):
        yield fake


def theirs(name: str, network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers itself gives: the model's vector, and the last tokens."""
    if name == "siglip2":
        b, c, h, w = images.shape
        patches = images.reshape(b, c, h // 16, 16, w // 16, 16).permute(0, 2, 4, 3, 5, 1)
        output = network.vision_model(
            patches.reshape(b, -1, c * 256),
            torch.ones(b, (h // 16) * (w // 16)),
            torch.tensor([[h // 16, w // 16]] * b),
        )
        return output.pooler_output, output.last_hidden_state
    if name in ("siglip", "clip"):
        output = network.vision_model(images, interpolate_pos_encoding=True)
        if name == "siglip":
            return output.pooler_output, output.last_hidden_state
        tokens = network.vision_model.post_layernorm(output.last_hidden_state)
        return network.visual_projection(output.pooler_output), tokens
    if name == "vit":
        tokens = network.vit(images, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 0], tokens
    output = network(images)
    return output.pooler_output, output.last_hidden_state


PREFIXES = {
    "dinov2": 1,
    "registers": 5,
    "dinov3": 5,
    "siglip": 0,
    "siglip2": 0,
    "clip": 1,
    "vit": 1,
}


def filled(name: str, size: int, pool: str = "model", init: str = "") -> Backbone:
    published = describe(name)
    backbone = build(name, 1, "half", size, pool, published.config).eval()
    fill(backbone, read(init or name), name)
    return backbone


def described(init: str) -> Published:
    return describe("timm:vit_tiny_patch16_224", init)


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 48], ids=["own size", "another size"])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_transformers(
    name: str, size: int, models: dict[str, Any], hub: FakeHub
) -> None:
    images = torch.randn(2, 3, size, size)
    vector, tokens = theirs(name, models[name], images)
    torch.testing.assert_close(filled(f"hf:org/{name}", size)(images), vector)
    if name not in PREFIXES:
        return
    prefix = PREFIXES[name]
    mean = filled(f"hf:org/{name}", size, "mean")
    torch.testing.assert_close(mean(images), tokens[:, prefix:].mean(dim=1))
    if prefix:
        both = filled(f"hf:org/{name}", size, "cls+mean")
        assert both.features == 2 * mean.features
        torch.testing.assert_close(both(images), torch.cat((tokens[:, 0], mean(images)), dim=1))
    else:
        with pytest.raises(ArgumentError, match=r"`pool` is 'cls'.* no CLS token"):
            filled(f"hf:org/{name}", size, "cls")


def test_what_the_hub_says_of_a_model(hub: FakeHub) -> None:
    published = describe("hf:org/clip")
    assert (published.image_size, published.crop) == (32, 0.8)
    assert (published.mean, published.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (published.revision, published.licence) == (COMMIT, "mit")
    assert "text_config" not in published.config
    assert not any(request.endswith(".safetensors") for request in hub.requests), "no weights"


@torch.no_grad()
def test_a_folder_and_an_encoder_read_back_need_no_hub(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub(tmp_path)
    with serving(fake, tmp_path / "cache", monkeypatch):
        monkeypatch.chdir(models["root"])
        name = "hf:./org/dinov2"
        published = describe(name)
        assert (published.image_size, published.licence, published.revision) == (32, "mit", "")
        backbone = filled(name, 48, "cls")
        spec = EncoderSpec(
            name, 1, "half", 48, published.mean, published.std, pool="cls", config=published.config
        )
        Encoder(spec, backbone).write(tmp_path / "encoder", {})
        monkeypatch.chdir(tmp_path)
        again = Encoder.read(tmp_path / "encoder")
        images = torch.randn(2, 3, 48, 48)
        torch.testing.assert_close(again.backbone(images), backbone(images))
        with pytest.raises(ArgumentError, match=r"`init` is .*there is no folder"):
            check("hf:./org/dinov2")
        with pytest.raises(ArgumentError, match=r"`config` is empty, and the name hf:org/dinov2"):
            build("hf:org/dinov2", 1, "half", 32)
    assert not fake.requests


@torch.no_grad()
def test_weights_in_parts_and_as_a_pickle(
    models: dict[str, Any], tmp_path: Path, hub: FakeHub
) -> None:
    network, images = models["dinov2"], torch.randn(2, 3, 32, 32)
    parts, pickle = hub.root / "org/parts", hub.root / "org/pickle"
    network.save_pretrained(parts, max_shard_size="40KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    pickle.mkdir()
    (pickle / "config.json").write_bytes((parts / "config.json").read_bytes())
    torch.save(network.state_dict(), pickle / "pytorch_model.bin")
    for name in ("hf:org/parts", "hf:org/pickle"):
        torch.testing.assert_close(filled(name, 32)(images), network(images).pooler_output)
    torch.save({"a": Path("x")}, pickle / "pytorch_model.bin")
    with pytest.raises(ArgumentError, match="whose weights do not load"):
        read(f"hf:{pickle}")
    state = network.state_dict()
    del state["layernorm.weight"]
    (pickle / "pytorch_model.bin").unlink()
    save_file(state, pickle / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArgumentError, match=r"whose weights lack layernorm\.weight"):
        read(f"hf:{pickle}")


@pytest.mark.parametrize("ask", [described, read])
@pytest.mark.parametrize(
    "name", ["hf:org/{}", "open_clip:hf-hub:org/{}", "hub:hf-hub:org/{}", "open_clip:RN50/x"]
)
@pytest.mark.parametrize("status", [401, 403])
def test_gated_weights(
    name: str, status: int, ask: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated["org/gated"] = status
    if name.startswith("open_clip:RN50"):
        if ask is described:
            return
        weights = {"hf_hub": "org/gated/", "quick_gelu": True}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED["RN50"], "x", weights)
    sentence = r"weights are gated: ask for access on https://huggingface\.co/org/gated, log in"
    with pytest.raises(
        ArgumentError, match=rf"^`init` is '{name.format('gated')}', whose {sentence}"
    ):
        ask(name.format("gated"))


@pytest.mark.parametrize(
    "name", ["hf:org/none", "open_clip:hf-hub:org/none", "hub:hf-hub:org/none"]
)
def test_a_name_that_the_hub_does_not_have(name: str, hub: FakeHub) -> None:
    message = r"the hub has no https://huggingface\.co/org/none, or hides it: mend the name"
    for ask in (described, read):
        with pytest.raises(ArgumentError, match=rf"^`init` is '{name}', but {message}"):
            ask(name)


@pytest.mark.parametrize(
    "name", ["hf:org/dinov2", "open_clip:hf-hub:org/x", "hub:vit_tiny_patch16_224"]
)
def test_a_hub_out_of_reach(
    name: str, models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with serving(FakeHub(tmp_path), tmp_path / "cache", monkeypatch):
        pass
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    for ask in (described, read):
        if ask is described and name.startswith("hub:"):
            assert described(name).revision == ""
            continue
        with pytest.raises(ArgumentError, match=r"not in the cache .*hub is out of reach"):
            ask(name)
    assert "127.0.0.1" in constants.ENDPOINT


def test_what_is_cached_needs_no_network(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    before = describe("hf:org/dinov2"), read("hf:org/dinov2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert describe("hf:org/dinov2") == before[0]
    assert list(read("hf:org/dinov2")) == list(before[1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "vit_tiny", "pretrained_cfg": {}}, "it is a model of timm: name it timm"),
        ({"model_type": "bert"}, "which is no plain vision model"),
        ({"model_type": "no_such_kind"}, "which transformers .* does not have"),
    ],
)
def test_other_models_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build("hf:org/other", 1, "half", 32, "model", json.dumps(config))


def test_sizes_that_patches_do_not_fill(models: dict[str, Any]) -> None:
    config = (models["root"] / "org/dinov2/config.json").read_text()
    with pytest.raises(ArgumentError, match=r"`image_size` is 40, .* choose 32 or 48"):
        build("hf:org/dinov2", 1, "half", 40, "model", config)
    config = json.dumps({"embed_dim": 24, "vision_cfg": TOWER})
    with pytest.raises(ArgumentError, match=r"`image_size` is 5, .* choose 16 or 32"):
        build("open_clip:hf-hub:a/b", 1, "half", 5, "model", config)


CLIPS: dict[str, dict[str, Any]] = {
    "vit": TOWER,
    "coca": {**TOWER, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "timm": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_pool": "token",
        "timm_proj": "linear",
    },
    "resnet": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8},
}
SIZES = {"vit": (32, 64), "coca": (32,), "timm": (160, 64), "resnet": (64,)}


def published_clip(name: str, root: Path) -> Any:
    """A CLIP with random weights, in a folder as OpenCLIP writes it for the hub."""
    torch.manual_seed(0)
    model = {"embed_dim": 24, "vision_cfg": CLIPS[name], "text_cfg": CLIP_TEXT, "quick_gelu": True}
    if name == "coca":
        model |= {"multimodal_cfg": {**CLIP_TEXT, "attn_pooler_heads": 2}, "custom_text": True}
        model["text_cfg"] = {**CLIP_TEXT, "embed_cls": True, "output_tokens": True}
    kind = open_clip.CoCa if name == "coca" else open_clip.CLIP
    network = kind(**{key: value for key, value in model.items() if key != "custom_text"}).eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn_like(tensor)
    folder = root / "org" / f"clip-{name}"
    folder.mkdir(parents=True)
    stated = {"mean": HALF, "std": HALF, "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": stated})
    )
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return network


@torch.no_grad()
@pytest.mark.parametrize("name", CLIPS)
def test_features_are_those_of_open_clip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, encoder = published_clip(name, tmp_path), f"open_clip:hf-hub:org/clip-{name}"
    with serving(FakeHub(tmp_path), tmp_path / "cache", monkeypatch):
        published = describe(encoder)
        assert published.image_size == SIZES[name][0]
        assert (published.mean, published.interpolation) == ((0.5,) * 3, "bilinear")
        assert published.revision == COMMIT
        for size in SIZES[name]:
            backbone, images = filled(encoder, size), torch.randn(2, 3, size, size)
            tower = network.visual
            if size != SIZES[name][0]:
                model = f"hf-hub:org/clip-{name}"
                tower = open_clip.create_model(model, force_image_size=size).eval().visual
            output = tower(images)
            expected = output[0] if isinstance(output, tuple) else output
            torch.testing.assert_close(backbone(images), expected)
            if name == "vit":
                tokens = tower.ln_post(tower.transformer(tower._embeds(images)))
                means = tokens[:, 0], tokens[:, 1:].mean(dim=1)
                both = filled(encoder, size, "cls+mean")
                torch.testing.assert_close(both(images), torch.cat(means, dim=1))


@torch.no_grad()
def test_named_weights_of_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GELU is that of the weights, not that of the model's name."""
    model = {"embed_dim": 24, "vision_cfg": TOWER, "text_cfg": CLIP_TEXT}
    (tmp_path / "tiny.json").write_text(json.dumps(model))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {"tiny": model})
    network = open_clip.CLIP(**model, quick_gelu=True).eval()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    weights = {"file": str(tmp_path / "a.pt"), "mean": HALF, "std": HALF, "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"a": weights})
    published = describe("open_clip:tiny/a")
    assert (published.mean, published.image_size) == ((0.5,) * 3, 32)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(filled("open_clip:tiny/a", 32)(images), network.visual(images))
    check("open_clip:tiny/a")
    for name, message in (
        ("open_clip:tiny/b", "has no weights of the tag 'b'; tiny has a"),
        ("open_clip:tiniest/a", "is no NAME/TAG of OpenCLIP"),
        ("open_clip:tiny", "is no NAME/TAG of OpenCLIP"),
    ):
        with pytest.raises(UserError, match=message):
            check(name)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["hf:dinov3", "hf:convnext", "open_clip:vit", "open_clip:timm"])
def test_neighbours_enter_after_quarters(encoder: str, models: dict[str, Any]) -> None:
    family, _, name = encoder.partition(":")
    if family == "hf":
        config = (models["root"] / f"org/{name}/config.json").read_text()
    else:
        config = json.dumps({"embed_dim": 24, "vision_cfg": CLIPS[name]})
    size = 160 if name == "timm" else 64
    full_name = f"{family}:hf-hub:org/{name}"
    backbone = build(full_name, 1, "half", size, "model", config).eval()
    images, calls = torch.randn(2, 3, size, size), list[tuple[int, int]]()

    def roll(stage: int, tokens: Tensor) -> Tensor:
        calls.append((stage, tokens.shape[2]))
        return tokens * tokens.roll(1, 2) if stage == active else tokens

    active, plain = -1, backbone(images)
    torch.testing.assert_close(backbone(images, roll), plain)
    assert calls == list(enumerate(backbone.widths))
    assert len(backbone.widths) == 4
    for active in range(4):  # noqa: B007 (which `roll` reads)
        assert (backbone(images, roll) - plain).abs().max() > 1e-4
