"""The library without a configuration: what the README and the notebook show runs as written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, make_images, make_spec
from PIL import Image

import rapipe
from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.records import Images
from rapipe.specs import TrainingRecipe


def quickstart() -> str:
    """The code of the README."""
    text = (ROOT / "README.md").read_text()
    match = re.search(r"<!-- quickstart -->\n```python\n(.*?)```\n<!-- end -->", text, re.DOTALL)
    assert match
    return match[1]


@pytest.mark.ci
def test_the_quickstart_of_the_readme_runs_as_written(tmp_path: Path) -> None:
    """In a folder of its own, without a guard for processes, and leaves nothing there."""
    assert len([line for line in quickstart().splitlines() if line.strip()]) <= 15
    rng = np.random.default_rng(0)
    for name, colour in (("cat", (200, 60, 60)), ("dog", (60, 60, 200))):
        for number in range(20):
            noise = rng.integers(-60, 60, (40, 48, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "new").mkdir()
    for number in (1, 2):
        (tmp_path / f"new/{number}.jpg").write_bytes((tmp_path / "photos/cat/0.png").read_bytes())
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", quickstart()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"noise 0: [\d.]+% right\nnoise 0\.1: [\d.]+% right\n\[\[", done.stdout)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, one after the other; neighbours help, as its stored output says."""
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", pyplot.close)
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for source in sources:
        exec(compile(source, "quickstart.ipynb", "exec"), names)
    fused, plain = (names[name].best["validation_top1"] for name in ("fused", "plain"))  # type: ignore[attr-defined]
    assert fused > plain
    assert any("image/png" in str(cell.get("outputs")) for cell in cells)


def test_importing_the_library_is_instant_and_its_names_are_documented() -> None:
    code = "import sys, rapipe; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in rapipe.PUBLIC:
        assert getattr(rapipe, name).__doc__, name
        assert name in dir(rapipe)
    with pytest.raises(AttributeError, match="rapipe has no trane"):
        _ = rapipe.trane


def test_arrays_become_images_with_an_id_for_each_content() -> None:
    pixels = make_images(6).pixels.copy()
    pixels[4] = pixels[1]
    images = rapipe.images_of(pixels, np.array([0, 1, 2, 0, 1, -1]))
    assert images.ids[4] == images.ids[1]
    assert len(np.unique(images.ids)) == 5
    assert images.classes == ("0", "1", "2")
    assert (rapipe.images_of(pixels).labels == -1).all()


def test_splits_share_no_image_and_are_the_same_for_the_same_seed() -> None:
    images = make_images(60)
    one, again, other = (rapipe.split_images(images, seed=seed) for seed in (0, 0, 1))
    ids = [set(split.ids.tolist()) for split in one.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 60
    assert [*map(len, one.values())] == [42, 6, 12]
    for split in one:
        assert np.array_equal(one[split].ids, again[split].ids)
    assert not np.array_equal(one["test"].ids, other["test"].ids)


def test_folders_are_loaded_as_squares(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    splits = rapipe.load_images(tmp_path, size=16)
    assert {split: len(images) for split, images in splits.items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
    pixels = rapipe.load_pixels([tmp_path / "a/0.png", tmp_path / "b/1.png"], size=16)
    assert pixels.shape == (2, 16, 16, 3)
    everything = np.concatenate([images.pixels for images in splits.values()])
    assert all((everything == image).all(axis=(1, 2, 3)).any() for image in pixels)
    with pytest.raises(ArgumentError, match="does not exist"):
        rapipe.load_images(tmp_path / "nowhere")


class Whitened:
    """Stands for an encoder: some pixels, as unit vectors."""

    def to(self, *_: object) -> Whitened:
        return self

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        flat = pixels.reshape(len(pixels), -1)[:, :8].astype(np.float32) + 1
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def retriever(k: int = 4) -> rapipe.Retriever:  # type: ignore[name-defined]
    train = make_images(20)
    return rapipe.Retriever.knn(Whitened(), rapipe.embed(Whitened(), train), k)


def test_scores_are_those_of_predictions_with_neighbours_of_the_noisy_image() -> None:
    classifier, images, source = Classifier(make_spec()), make_images(9, seed=5), retriever()
    rows = rapipe.evaluate(classifier, images, source, noise_std=[0, 0.2], seed=3)
    bank = DeviceBank(source.bank, 3, device())
    for row, std in zip(rows, (0, 0.2), strict=True):
        pixels = gaussian_noise(images.pixels, images.ids, std, 3)
        vectors = Whitened().embed(pixels)
        indices = rapipe.search(vectors, source.bank, 4, images.ids).indices
        logits = classifier.predict(pixels, bank, indices)
        assert row["top1"] == metrics.top_k(logits, images.labels, 1)
        assert row["nll"] == metrics.summarise(logits, images.labels)["nll"]
    chances = rapipe.predict(classifier, images.pixels, source)
    assert chances.shape == (9, 3)
    assert chances.sum(axis=1) == pytest.approx(1)


def test_what_does_not_fit_together_is_refused() -> None:
    classifier, images, source = Classifier(make_spec()), make_images(9), retriever()
    with pytest.raises(ArgumentError, match="`classifier` was trained with neighbours"):
        rapipe.evaluate(classifier, images)
    with pytest.raises(ArgumentError, match=r"8 dimensions, but `classifier` .* with none"):
        rapipe.predict(Classifier(make_spec(attend="")), images.pixels, source)
    splits = {"train": images, "validation": make_images(4, seed=1)}
    with pytest.raises(ArgumentError, match=r"`images` has no validation split, only train"):
        rapipe.train_classifier({"train": images})
    with pytest.raises(ArgumentError, match="`neighbours` and `bank` go together"):
        rapipe.train_classifier(splits, {split: source.retrieve(images) for split in splits})
    with pytest.raises(ArgumentError, match="`neighbours` of validation are of other images"):
        rapipe.train_classifier(
            splits, {split: source.retrieve(images) for split in splits}, source.bank
        )


def test_training_leaves_out_images_without_a_label() -> None:
    images = make_images(24)
    labels = images.labels.copy()
    labels[::2] = -1
    partly = Images(images.ids, images.pixels, labels, images.sources, images.classes)
    splits = {"train": partly, "validation": make_images(6, seed=1)}
    recipe = TrainingRecipe(epochs=1, batch_size=4, precision="fp32")
    source = retriever()
    neighbours = {split: source.retrieve(own) for split, own in splits.items()}
    trained = rapipe.train_classifier(
        splits,
        neighbours,
        source.bank,
        network=rapipe.EncoderSpec.of(partly, "alexnet", width=4),
        recipe=recipe,
    )
    assert trained.history[-1]["images_seen"] == 12
    assert set(trained.history[-1]) >= {"train_top1", "validation_top1"}
    assert "test_top1_not_for_selection" not in trained.history[-1]


def test_a_test_split_changes_nothing_of_a_training() -> None:
    """Its measurements, with neighbours too, draw no random number of the training's."""
    splits = {"train": make_images(24), "validation": make_images(6, seed=1)}
    recipe = TrainingRecipe(epochs=2, batch_size=8, probe_every=1, precision="fp32")
    source, network = retriever(), rapipe.EncoderSpec.of(splits["train"], "alexnet", width=4)
    histories, weights = [], []
    for images in (splits, {**splits, "test": make_images(9, seed=2)}):
        neighbours = {split: source.retrieve(part) for split, part in images.items()}
        options = {"network": network, "recipe": recipe}
        trained = rapipe.train_classifier(images, neighbours, source.bank, **options)
        histories.append(trained.history)
        weights.append(trained.classifier.state_dict())
    for without, with_test in zip(*histories, strict=True):
        assert without.items() < with_test.items()
        assert {*with_test} - {*without} == {
            "test_top1_not_for_selection",
            "test_loss_not_for_selection",
        }
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_the_same_seed_trains_the_same_classifier() -> None:
    splits = {"train": make_images(24), "validation": make_images(6, seed=1)}
    recipe = TrainingRecipe(epochs=2, batch_size=8, precision="fp32")
    network = rapipe.EncoderSpec.of(splits["train"], "alexnet", width=4)
    one, again, other = (
        rapipe.train_classifier(splits, network=network, recipe=recipe, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one.history == again.history
    assert one.history != other.history


def test_embeddings_say_whose_they_are() -> None:
    images = make_images(5)
    embeddings = rapipe.embed(Whitened(), images)
    assert np.array_equal(embeddings.ids, images.ids)
    assert (embeddings.splits == "train").all()
    assert np.array_equal(embeddings.vectors, Whitened().embed(images.pixels))
