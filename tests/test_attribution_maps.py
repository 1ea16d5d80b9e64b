"""Attribution maps against what is known exactly, and their sanity checks against slow loops."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from rapipe import paths
from rapipe.batches.loader import CPU
from rapipe.batches.preprocess import Preprocess
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.cli import app
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.evaluation.measures.attribution_maps import methods, sanity
from rapipe.evaluation.measures.attribution_maps.evaluate import evaluate_maps, spread
from rapipe.evaluation.measures.attribution_maps.methods import (
    EXACT,
    METHODS,
    TOLERANCE,
    DoesNotApplyError,
    completeness_error,
    deep_lift,
    integrated_gradients,
)
from rapipe.evaluation.measures.attribution_maps.record import AttributionMaps
from rapipe.evaluation.measures.attribution_maps.subject import FixedNeighbours, Subject, subjects
from rapipe.records import Images, Neighbours
from rapipe.report.attribution_maps import overlay

SIDE, CLASSES = 16, 3


class Net(nn.Module):
    """Stands for a classifier: any layers on pixels, and no neighbours."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.preprocess = Preprocess(SIDE, (0.0,) * 3, (1.0,) * 3)

    def forward(self, images: torch.Tensor, neighbours: None) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def subject_of(*layers: nn.Module, target: int = 1, seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    image = torch.rand(1, 3, SIDE, SIDE)
    baseline = torch.full_like(image, 0.4)
    network = FixedNeighbours(Net(*layers), None)  # type: ignore[arg-type]
    return Subject(network, image, target, baseline, baseline, seed)


def linear() -> tuple[nn.Linear, torch.Tensor]:
    """A linear classifier, and the weights (3, S, S) of its centred logit of class 1."""
    torch.manual_seed(1)
    layer = nn.Linear(3 * SIDE * SIDE, CLASSES)
    weights = (layer.weight[1] - layer.weight.mean(dim=0)).detach().view(3, SIDE, SIDE)
    return layer, weights


@pytest.mark.parametrize("name", ["integrated-gradients", "deep-lift", "gradient-shap"])
def test_maps_of_a_linear_classifier_are_weight_times_difference(name: str) -> None:
    layer, weights = linear()
    subject = subject_of(nn.Flatten(), layer)
    exact = (weights * (subject.image - subject.baseline)[0]).sum(dim=0)
    map_ = METHODS[name](subject)
    tolerance = {"gradient-shap": 0.05}.get(name, 1e-5)  # its points are random
    torch.testing.assert_close(map_, exact * map_.norm() / exact.norm(), atol=tolerance, rtol=1e-4)
    if name != "gradient-shap":
        torch.testing.assert_close(map_, exact, atol=1e-5, rtol=1e-4)
        assert completeness_error(subject, map_) < 1e-4


def test_noise_tunnel_averages_over_noise_and_its_seed_decides_the_map() -> None:
    layer, weights = linear()
    subject = subject_of(nn.Flatten(), layer)
    exact = (weights * (subject.image - subject.baseline)[0]).sum(dim=0)
    before = np.random.get_state()[1][:5].tolist()  # noqa: NPY002
    map_, again = METHODS["noise-tunnel"](subject), METHODS["noise-tunnel"](subject)
    assert torch.equal(map_, again)
    assert np.random.get_state()[1][:5].tolist() == before  # noqa: NPY002
    error = (map_ - exact).std()
    noise = methods.NOISE_STD * weights.norm(dim=0).mean() / methods.NOISY_IMAGES**0.5
    assert 0.5 * noise < error < 1.5 * noise  # that of a mean of 16


def test_occlusion_is_the_loss_of_each_window() -> None:
    layer, weights = linear()
    subject = subject_of(nn.Flatten(), layer)
    per_pixel = (weights * (subject.image - subject.baseline)[0]).sum(dim=0)
    window, slow = SIDE // methods.WINDOWS, torch.zeros(SIDE, SIDE)
    counts = torch.zeros(SIDE, SIDE)
    for top in range(0, SIDE - window + 1, window // 2):
        for left in range(0, SIDE - window + 1, window // 2):
            part = slice(top, top + window), slice(left, left + window)
            slow[part] += per_pixel[part].sum()
            counts[part] += 1
    torch.testing.assert_close(METHODS["occlusion"](subject), slow / counts, atol=1e-4, rtol=1e-3)


def relu_net(relu: nn.Module, last: nn.Module | None = None) -> list[nn.Module]:
    torch.manual_seed(2)
    layers = [nn.Conv2d(3, 4, 3, padding=1), relu, nn.Conv2d(4, 4, 3, padding=1), last or nn.ReLU()]
    return [*layers, nn.Flatten(), nn.Linear(4 * SIDE * SIDE, CLASSES)]


def test_deep_lift_is_complete_and_leaves_the_network_as_it_was() -> None:
    in_place = nn.ReLU(inplace=True)
    subject = subject_of(*relu_net(in_place))
    assert completeness_error(subject, deep_lift(subject)) < EXACT
    assert in_place.inplace
    assert not in_place._forward_hooks


class Functional(nn.Module):
    """Has no rule."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) ** 2


class Square(nn.Conv2d):
    """Looks linear, and computes what is not outside of modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x)) ** 2


def reused() -> list[nn.Module]:
    relu = nn.ReLU()
    return relu_net(relu, relu)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (reused(), "one ReLU is used 2 times"),
        (relu_net(nn.GELU()), "no rule for GELU"),
        (relu_net(Functional()), "no rule for Functional"),
        (relu_net(nn.ReLU(), nn.MaxPool2d(3, 1, 1)), "no rule for MaxPool2d"),
        (relu_net(nn.ReLU(), Square(4, 4, 1)), "outside of modules"),
    ],
)
def test_deep_lift_refuses_what_it_has_no_rule_for(layers: list[nn.Module], words: str) -> None:
    """And names what applies; integrated gradients does, and is complete."""
    subject = subject_of(*layers)
    with pytest.raises(DoesNotApplyError, match=words) as refusal:
        deep_lift(subject)
    for name in METHODS:
        assert (name in str(refusal.value).partition("choose from")[2]) == (name != "deep-lift")
    assert completeness_error(subject, integrated_gradients(subject)) <= TOLERANCE


def test_steps_are_doubled_until_the_map_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steep sigmoid: few steps miss it."""
    subject = subject_of(nn.Flatten(), nn.Linear(768, 8), Steep(), nn.Linear(8, CLASSES))
    monkeypatch.setattr(methods, "STEPS", 2)
    few = completeness_error(subject, integrated_gradients(subject, 2))
    assert few > TOLERANCE
    assert completeness_error(subject, integrated_gradients(subject)) <= TOLERANCE


class Steep(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * torch.sigmoid(30 * x)


def test_completeness_error_of_a_wrong_map() -> None:
    layer, _ = linear()
    subject = subject_of(nn.Flatten(), layer)
    map_ = integrated_gradients(subject)
    off = 0.5 * max(1.0, abs(subject.difference))
    wrong = map_ + off / map_.numel()
    assert completeness_error(subject, wrong) == pytest.approx(0.5, abs=1e-3)


def test_areas_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion and insertion, each written out pixel by pixel."""
    monkeypatch.setattr(sanity, "CURVE_STEPS", 8)
    layer, _ = linear()
    with torch.no_grad():
        layer.weight.mul_(3)
    subject = subject_of(nn.Flatten(), layer)
    map_ = integrated_gradients(subject)
    order = torch.argsort(map_.flatten(), descending=True, stable=True).tolist()

    def slow(start: torch.Tensor, end: torch.Tensor) -> float:
        heights, now = [], start.clone()
        for step in range(9):
            for pixel in order[round((step - 1) * 256 / 8) : round(step * 256 / 8)] if step else []:
                row, column = divmod(pixel, SIDE)
                now[0, :, row, column] = end[0, :, row, column]
            heights.append(float(subject.logits(now).softmax(dim=1)[0, subject.target]))
        return float(sum((a + b) / 2 for a, b in pairwise(heights)) / 8)

    deletion, insertion, random = sanity.areas(subject, map_)
    assert deletion == pytest.approx(slow(subject.image, subject.baseline), abs=1e-5)
    assert insertion == pytest.approx(slow(subject.baseline, subject.image), abs=1e-5)
    assert deletion < random < insertion


def real(attend: str = "", backbone: str = "resnet18") -> Classifier:
    torch.manual_seed(0)
    return Classifier(make_spec(backbone, attend=attend, std=(0.2,) * 3)).eval()


def shown_to(images: Images) -> tuple[DeviceBank, Neighbours]:
    rows = np.arange(4 * len(images), dtype=np.int32).reshape(-1, 4)
    neighbours = Neighbours(images.ids, rows, np.ones(rows.shape, np.float32))
    return DeviceBank(make_embeddings(40), CLASSES, CPU), neighbours


def test_neighbours_stay_those_of_each_image() -> None:
    """The function at the image is what the classifier predicts for it with its neighbours."""
    classifier, images = real("both", "alexnet"), make_images(3)
    bank, neighbours = shown_to(images)
    logits = classifier.predict(images.pixels, bank, neighbours.indices)
    explained = subjects(classifier, images.pixels, images.labels, bank, neighbours)
    found = [s.logits(s.image)[0] for s in explained]
    centred = torch.from_numpy(logits - logits.mean(axis=1, keepdims=True))
    torch.testing.assert_close(torch.stack(found), centred, atol=1e-5, rtol=1e-4)
    alone = [s.logits(s.image)[0] for s in subjects(classifier, images.pixels, images.labels)]
    assert not torch.allclose(torch.stack(alone), centred, atol=1e-3)


@pytest.mark.parametrize("backbone", ["resnet18", "alexnet", "perceiver"])
@pytest.mark.parametrize("attend", ["", "both"])
def test_every_method_on_a_real_network(backbone: str, attend: str) -> None:
    """Or one sentence: DeepLIFT applies to ResNets without neighbours alone."""
    classifier, images = real(attend, backbone), make_images(1)
    shown: tuple[Any, ...] = shown_to(images) if attend else (None, None)
    (subject,) = subjects(classifier, images.pixels, images.labels, *shown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, method in METHODS.items():
            if name == "deep-lift" and (backbone != "resnet18" or attend):
                with pytest.raises(DoesNotApplyError, match="no rule for"):
                    method(subject)
                continue
            map_ = method(subject)
            assert map_.shape == (SIDE, SIDE), name
            assert bool(map_.isfinite().all()), name
            assert float(map_.abs().max()) > 0, name


def test_randomised_weights_destroy_a_map_and_the_same_weights_do_not() -> None:
    """Of a network that sees all pixels: those that the strides of one skip are 0 in every map."""
    images = make_images(4)
    classifier = real(backbone="perceiver")
    copies = {"same": real(backbone="perceiver"), "randomised": sanity.randomised(classifier, 5)}
    maps = {
        name: [integrated_gradients(s, 32) for s in subjects(net, images.pixels, images.labels)]
        for name, net in {"trained": classifier, **copies}.items()
    }
    assert sanity.map_correlation(maps["trained"], maps["same"]) == pytest.approx(1)
    assert abs(sanity.map_correlation(maps["trained"], maps["randomised"]) or 1) < 0.3
    assert sanity.map_correlation([torch.zeros(4, 4)], [torch.rand(4, 4)]) is None


def test_figures_and_maps_of_some_images(tmp_path: Path) -> None:
    images = make_images(3)
    bank, neighbours = shown_to(images)
    maps, facts = evaluate_maps(real("both", "alexnet"), images, bank, neighbours)
    assert facts["deep_lift_completeness_error"] is None
    assert facts["images"] == 3
    assert 0 <= facts["deletion"] <= 1
    maps.write(tmp_path / "maps.arrow")
    read = AttributionMaps.read(tmp_path / "maps.arrow")
    for name in ("ids", "predicted", "probability", "maps"):
        assert np.array_equal(getattr(read, name), getattr(maps, name)), name
    assert read.method == "integrated-gradients"
    with pytest.raises(ValueError, match="shape"):
        AttributionMaps(maps.ids[:1], maps.predicted, maps.probability, maps.maps, "x")


def test_images_are_of_as_many_classes_as_there_can_be() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert spread(labels, 3).tolist() == [0, 3, 5]
    assert spread(labels, 4).tolist() == [0, 1, 3, 5]
    assert spread(labels, 99).tolist() == list(range(6))


def test_overlay_colours_by_sign() -> None:
    image, map_ = np.full((2, 2, 3), 128, np.uint8), np.array([[9, -9], [0, 0]], np.float32)
    (orange, blue), (grey, _) = overlay(image, map_).astype(int)
    assert orange[0] > orange[2]
    assert blue[2] > blue[0]
    assert len(set(grey.tolist())) == 1


def test_attribute_on_the_command_line(in_tiny: Params, tmp_path: Path) -> None:
    """By row and by file, beside each other; DeepLIFT only where it applies."""
    by_row = run("3", "--out", tmp_path / "row.png", "--json")
    rows = json.loads(by_row.stdout)
    first = [v.name for v in variants(in_tiny) if v.backbone == "alexnet"]
    assert [row["classifier"] for row in rows] == first
    for row in rows:
        assert row["completeness error"] <= TOLERANCE
        missed = abs(row["sum of map"] - row["f(image) - f(baseline)"])
        assert missed <= TOLERANCE * max(1, abs(row["f(image) - f(baseline)"])) + 1e-3
    assert (tmp_path / "row.png").read_bytes().startswith(b"\x89PNG")
    Image.fromarray(Images.read(paths.split("test")).pixels[3]).save(tmp_path / "x.png")
    by_file = run(tmp_path / "x.png", "--out", tmp_path / "file.png", "--json")
    assert json.loads(by_file.stdout) == rows
    plain = first[0]
    one = run("3", "--classifier", plain, "--method", "occlusion", "--out", tmp_path / "one.png")
    assert plain in one.stdout
    with Image.open(tmp_path / "row.png") as wide, Image.open(tmp_path / "one.png") as narrow:
        assert wide.width > 1.5 * narrow.width  # a column a classifier


def test_mistakes_in_attribute_are_one_sentence(in_tiny: Params, tmp_path: Path) -> None:
    out = tmp_path / "none.png"
    for wrong, words in (
        (["3", "--method", "saliency"], "--method is 'saliency'; choose from integrated-gradients"),
        (["3", "--classifier", "x"], "--classifier is 'x'; trained ones are alexnet-none-s0"),
        (["9999"], "there is no test image 9999; choose from 0 to 999"),
        (["nothing.png"], "no file that can be read"),
        (["3", "--method", "deep-lift"], "deep-lift does not apply to this classifier"),
    ):
        result = run(*wrong, "--out", out)
        assert result.exit_code == 2, wrong
        assert words in result.stderr, wrong
        assert len(result.stderr.strip().splitlines()) == 1, wrong
        assert not out.exists()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["attribute", *map(str, arguments)])


def test_maps_stand_in_the_evidence_and_on_the_page(in_tiny: Params) -> None:
    for variant in variants(in_tiny):
        maps = AttributionMaps.read(paths.EVIDENCE / variant.name / paths.MAPS)
        facts = json.loads((paths.RUNS / f"{variant.name}.json").read_text())["maps"]
        assert len(maps.ids) == facts["images"] == in_tiny.evaluate.maps
        jumps = variant.retrieval != "none"  # trust depends on which class is the likeliest
        assert facts["completeness_error"] <= (0.5 if jumps else TOLERANCE)
    page = paths.PAGE.read_text()
    for heading in ("Which pixels matter?", "Do the maps say anything?"):
        assert heading in page
    assert "Attention entropy of each head" in page
    assert (paths.FIGURES / "maps.png").exists()
