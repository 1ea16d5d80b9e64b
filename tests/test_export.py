"""An exported folder: it predicts the same without the project, and damage is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images
from predictors import CLASSES, predictor_of
from typer.testing import CliRunner

import rapipe
from rapipe import metrics
from rapipe.batches.preprocess import Preprocess
from rapipe.classifier.fusions import FUSIONS
from rapipe.cli import app
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.encoder.imported import ImportedVectors
from rapipe.errors import UserError
from rapipe.io.checksums import write_checksums
from rapipe.pipeline import predict
from rapipe.pipeline.inputs import labelled
from rapipe.prediction import onnx_files
from rapipe.prediction.abstention import Abstention
from rapipe.prediction.graphs import FixedPreprocess
from rapipe.prediction.predictor import Predictor
from rapipe.retrieval.strategies import STRATEGIES

PIXELS = make_images(9, seed=1).pixels


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its packages were not installed: to trace a network takes seconds."""
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))


def check_same(one: Predictor, other: Predictor) -> None:
    answers, others = one.predict(PIXELS), other.predict(PIXELS)
    assert answers.rows() == others.rows()
    np.testing.assert_array_equal(answers.probabilities, others.probabilities)


@pytest.mark.parametrize("strategy", ["none", *STRATEGIES])
def test_what_is_loaded_predicts_the_same(
    strategy: str, tmp_path: Path, without_onnx: None
) -> None:
    threshold = Abstention(0.05, 0.4, 0.5, 0.04, 100)
    predictor = replace(predictor_of(strategy), abstention=threshold)
    card = rapipe.export(predictor, tmp_path / "out", {"classifier": "mine"})
    loaded = rapipe.load(tmp_path / "out")
    check_same(loaded, predictor)
    assert loaded.abstention == threshold
    assert json.loads((tmp_path / "out/card.json").read_text()) == card
    assert card["classes"] == list(CLASSES)
    assert card["bank_rows"] == (0 if strategy in ("none", "self") else 40)
    assert len((tmp_path / "out/README.md").read_text().splitlines()) <= 12
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".npy", ".arrow", ".md", ""}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_loaded(fusion: str, tmp_path: Path, without_onnx: None) -> None:
    predictor = predictor_of(fusion=fusion, similarity=(0.4, 0.2))
    rapipe.export(predictor, tmp_path / "out")
    check_same(rapipe.load(tmp_path / "out"), predictor)


def test_without_the_packages_there_is_no_onnx_and_a_remedy(
    tmp_path: Path, without_onnx: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rapipe.export(predictor_of("none"), tmp_path / "out")["onnx"] == {}
    assert "pip install 'rapipe[export]'" in capsys.readouterr().err


@pytest.mark.ci
def test_the_command_exports_what_a_fresh_process_loads_elsewhere(
    in_tiny: Params, tmp_path: Path, without_onnx: None
) -> None:
    name = Variant.of(in_tiny, "alexnet", "knn", 0).name
    runner, folder = CliRunner(), tmp_path / "deep/exported"
    done = runner.invoke(app, ["export", name, str(folder), "--risk", "0.9"])
    assert done.exit_code == 0, done.stderr
    assert f"{folder} holds {name}; it answers from a confidence of" in done.stderr
    pixels = labelled("test").pixels[:20]
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import numpy as np, rapipe\n"
        "answers = rapipe.load('deep/exported').predict(np.load('pixels.npy'))\n"
        "np.savez('answers.npz', p=answers.probabilities, ids=answers.neighbour_ids, "
        "abstain=answers.abstain)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "answers.npz")
    expected = predict.choose(in_tiny, name, 0.9).predictor.predict(pixels)
    np.testing.assert_array_equal(found["p"], expected.probabilities)
    np.testing.assert_array_equal(found["ids"], expected.neighbour_ids)
    np.testing.assert_array_equal(found["abstain"], expected.abstain)
    card = json.loads((folder / "card.json").read_text())
    assert card["classifier"] == name
    assert card["retrieval"]["k"] == in_tiny.retrieval.k
    assert card["abstention"]["risk"] == 0.9
    assert 0 < card["validation_top1"] < 1
    wrong = runner.invoke(app, ["export", "vgg", str(tmp_path / "x")])
    assert wrong.exit_code == 2
    assert "--classifier is 'vgg'; trained ones are alexnet-none-s0" in wrong.stderr
    refused = runner.invoke(app, ["export", name, str(tmp_path)])
    assert refused.exit_code == 2
    assert "FOLDER is" in refused.stderr
    assert "other files than an export" in refused.stderr


def test_only_an_export_is_replaced(tmp_path: Path, without_onnx: None) -> None:
    predictor, folder = predictor_of("none"), tmp_path / "out"
    folder.mkdir()
    for _ in range(2):
        rapipe.export(predictor, folder)
    (folder / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match=r"`folder` is .* other files than an export"):
        rapipe.export(predictor, folder)
    assert (folder / "thesis.tex").exists()
    with pytest.raises(UserError, match="which is a file"):
        rapipe.export(predictor, folder / "thesis.tex")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_damage_is_refused_in_one_sentence(tmp_path: Path, without_onnx: None) -> None:
    whole = tmp_path / "whole"
    rapipe.export(predictor_of(), whole)
    files = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file()]
    for number, file in enumerate(file for file in files if file.name != "SHA256SUMS"):
        for damage in (flip, Path.unlink):
            copy = tmp_path / f"{number}{damage.__name__}"
            shutil.copytree(whole, copy)
            damage(copy / file)
            with pytest.raises(UserError, match=r"no folder that rapipe export|export it again"):
                rapipe.load(copy)
    card = json.loads((whole / "card.json").read_text())
    (whole / "card.json").write_text(json.dumps({**card, "format": 2, "rapipe": "9.0"}))
    write_checksums(whole)
    with pytest.raises(UserError, match=r"has the format 2, but .* install rapipe 9.0"):
        rapipe.load(whole)
    with pytest.raises(UserError, match="is no folder that rapipe export wrote"):
        rapipe.load(tmp_path / "nowhere")


def test_a_memory_without_an_encoder_is_not_exported(tmp_path: Path) -> None:
    predictor = predictor_of()
    bank = predictor.retriever.bank  # type: ignore[union-attr]
    vectors: Any = ImportedVectors(bank.ids, bank.vectors)
    alone = replace(predictor, retriever=replace(predictor.retriever, encoder=vectors))  # type: ignore[type-var]
    with pytest.raises(UserError, match="without an encoder that could embed new images"):
        rapipe.export(alone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "side", "kind", "crop"),
    [(16, 16, "bicubic", 1.0), (40, 16, "bicubic", 0.875), (9, 24, "bilinear", 1.0)],
)
def test_images_are_resized_as_torch_does(size: int, side: int, kind: str, crop: float) -> None:
    preprocess = Preprocess(side, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), kind, crop)
    images = torch.rand(5, 3, size, size)
    fixed = FixedPreprocess(preprocess, size)(images)
    torch.testing.assert_close(fixed, preprocess(images), atol=1e-5, rtol=1e-5)


def exported(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """The facts of its ONNX files, all of which there must be."""
    facts: dict[str, Any] = rapipe.export(predictor, folder)["onnx"]
    errors = {name: network["error"] for name, network in facts.items() if "error" in network}
    assert not errors
    return facts


def run_onnx(predictor: Predictor, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and logits of `PIXELS`, by the files alone, and the neighbours that rapipe finds."""
    import onnxruntime

    def session(name: str) -> Any:
        return onnxruntime.InferenceSession(folder / f"{name}.onnx")

    images = PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (vectors,) = session("encoder").run(None, {"images": images})
    bank = predictor.retriever.bank  # type: ignore[union-attr]
    answers = predictor.predict(PIXELS)
    row_of = {number: row for row, number in enumerate(bank.ids.tolist())}
    rows = np.vectorize(row_of.get)(answers.neighbour_ids)
    similarities = np.take_along_axis(vectors @ bank.vectors.T, rows, axis=1)
    np.testing.assert_allclose(similarities, answers.similarities, atol=1e-5)
    network = session("classifier")
    available = {
        "images": images,
        "vectors": bank.vectors[rows],
        "labels": bank.labels[rows],
        "similarities": similarities,
        "query_vectors": vectors,
    }
    inputs = {own.name: available[own.name] for own in network.get_inputs()}
    return vectors, network.run(None, inputs)[0]


def check_onnx(predictor: Predictor, folder: Path) -> dict[str, Any]:
    facts = exported(predictor, folder)
    assert all(network["difference"] <= network["tolerance"] for network in facts.values())
    vectors, logits = run_onnx(predictor, folder)
    encoder = predictor.retriever.encoder  # type: ignore[union-attr]
    np.testing.assert_allclose(vectors, encoder.embed(PIXELS), atol=1e-4)
    answers = predictor.predict(PIXELS)
    np.testing.assert_allclose(metrics.softmax(logits), answers.probabilities, atol=1e-4)
    return facts


@pytest.mark.ci
def test_onnx_gives_what_torch_gives(tmp_path: Path) -> None:
    """In a batch of another size than that of the example, too."""
    predictor = predictor_of()
    facts = check_onnx(predictor, tmp_path / "out")
    assert facts["classifier"]["inputs"]["vectors"][:2] == ["batch", 4]
    for file in (tmp_path / "out").glob("*.onnx"):  # no folder of this machine
        assert b".py" not in file.read_bytes()
    check_same(rapipe.load(tmp_path / "out"), predictor)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_onnx_of_every_fusion(fusion: str, tmp_path: Path) -> None:
    check_onnx(predictor_of(fusion=fusion, similarity=(0.4, 0.2)), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "perceiver", "timm:efficientnet_lite0"])
def test_onnx_of_backbones_that_resize(backbone: str, tmp_path: Path) -> None:
    predictor = predictor_of("self+knn", backbone, side=24)
    facts = exported(predictor, tmp_path / "out")
    assert set(facts["classifier"]["inputs"]) >= {"images", "query_vectors"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "self"])
def test_onnx_without_neighbours(strategy: str, tmp_path: Path) -> None:
    facts = exported(predictor_of(strategy), tmp_path / "out")
    inputs = {"none": {"images"}, "self": {"images", "query_vectors"}}
    assert set(facts["classifier"]["inputs"]) == inputs[strategy]


def test_a_network_that_cannot_be_exported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_files, "PACKAGES", ())

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("torch.onnx.export", fails)
    card = rapipe.export(predictor_of("none"), tmp_path / "out")
    assert card["onnx"] == {"classifier": {"error": "no such operator"}}
    assert not (tmp_path / "out/classifier.onnx").exists()
    assert "warning: no classifier.onnx" in capsys.readouterr().err
    check_same(rapipe.load(tmp_path / "out"), predictor_of("none"))
