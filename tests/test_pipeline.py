"""The real stages on tiny parameters, in one process."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from rapipe import metrics, paths
from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.cli import app
from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation.evidence import EncoderBaseline, Evidence, Stack
from rapipe.evaluation.results import KEYS, Condition
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.pipeline import (
    audit,
    corpus,
    embed,
    evaluate,
    initialise,
    prefetch,
    pretrain,
    report,
    train,
)
from rapipe.pipeline.inputs import encoder_fingerprint, labelled
from rapipe.pipeline.results import read_results
from rapipe.pipeline.running.check_names import load_checked
from rapipe.records import SPLITS, Embeddings, Images, Neighbours, Predictions
from rapipe.report import summary
from rapipe.report.ablations import ablation_curves
from rapipe.report.sections import SECTIONS
from rapipe.retrieval.store import Store


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def own(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of the tiny folder to write in."""
    shutil.copytree(tiny[0], tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    return tiny[1]


def knn(params: Params, backbone: str = "alexnet") -> Variant:
    return Variant.of(params, backbone, "knn", 0)


def test_the_corpus_of_digits(in_tiny: Params) -> None:
    splits = {name: Images.read(paths.split(name)) for name in SPLITS}
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 3500,
        "validation": 500,
        "test": 1000,
    }
    for images in splits.values():
        assert len(set(np.bincount(images.labels))) == 1
    card = json.loads(paths.CORPUS_CARD.read_text())
    train = splits["train"].pixels / 255
    assert card["mean"] == pytest.approx(train.mean((0, 1, 2)).tolist())
    assert card["std"] == pytest.approx(train.std((0, 1, 2)).tolist())
    assert card["splits"]["test"]["by_class"] == {str(i): 100 for i in range(10)}


def test_every_image_is_in_the_store(in_tiny: Params) -> None:
    memory = Store.open(paths.STORE, paths.STORE_MANIFEST)
    assert memory.manifest.splits == {"train": 3500, "validation": 500, "test": 1000}
    assert memory.manifest.classes == tuple("0123456789")
    memory.verify(encoder_fingerprint())
    vectors = np.concatenate([own for _, own in memory.blocks()])
    test = Images.read(paths.split("test"))
    own = memory.rows.splits == "test"
    assert np.array_equal(memory.rows.ids[own], test.ids)
    assert np.allclose(vectors[own], Encoder.read(paths.ENCODER).embed(test.pixels), atol=1e-5)


def test_no_self_and_no_test_image_among_neighbours(in_tiny: Params) -> None:
    bank = Embeddings.read(paths.BANK)
    held_out = np.concatenate([Images.read(paths.split(s)).ids for s in ("validation", "test")])
    assert not np.isin(bank.ids, held_out).any()
    for strategy in in_tiny.retrieval.strategies:
        for split in SPLITS:
            table = Neighbours.read(paths.table(strategy, split))
            assert np.array_equal(table.query_ids, Images.read(paths.split(split)).ids)
            assert not (bank.ids[table.indices] == table.query_ids[:, None]).any()


def test_prefetch_is_the_same_bytes_again(own: Params) -> None:
    before = hashes(paths.NEIGHBOURS)
    embed.run(own)
    prefetch.run(own)
    assert hashes(paths.NEIGHBOURS) == before


def test_a_smaller_k_is_the_beginning_of_a_larger(own: Params) -> None:
    wide = Neighbours.read(paths.table("knn", "test")).indices.copy()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("k: 4 ", "k: 2 "))
    params = load(Path("params.yaml"))
    prefetch.run(params)
    assert np.array_equal(Neighbours.read(paths.table("knn", "test")).indices, wide[:, :2])
    with pytest.raises(UserError, match=r"made with retrieval\.k 2, not 4: run rapipe prefetch"):
        train.run(own, knn(own))


@pytest.mark.ci
def test_stages_repeat_themselves(own: Params) -> None:
    """Corpus, encoder and a classifier, made again from the same seed, are the same bytes."""
    v = knn(own)
    folders = (paths.CORPUS, paths.ENCODER, paths.PRETRAINING, paths.MODELS / v.name)
    before = [hashes(folder) for folder in folders]
    corpus.run(own)
    pretrain.run(own)
    train.run(own, v)
    assert [hashes(folder) for folder in folders] == before
    assert not list(paths.CHECKPOINTS.iterdir())


def test_evaluation_searches_what_was_prefetched(in_tiny: Params) -> None:
    """On clean images, looking up anew gives the prefetched neighbours and the same score."""
    v = knn(in_tiny)
    classifier, _ = Classifier.read(paths.MODELS / v.name)
    test, bank = Images.read(paths.split("test")), DeviceBank(Embeddings.read(paths.BANK), 10, CPU)
    table = Neighbours.read(paths.table("knn", "test"))
    logits = classifier.predict(test.pixels, *Shown.of(bank, table))
    expected = metrics.summarise(logits, test.labels)
    run = json.loads((paths.RUNS / f"{v.name}.json").read_text())
    clean = run["rows"][0]
    assert clean["noise_std"] == 0
    assert clean["n_test"] == 1000
    for name, value in expected.items():
        assert clean[name] == pytest.approx(value, abs=2e-3)


def test_evaluation_repeats_itself(own: Params) -> None:
    v = knn(own, "perceiver")
    before = (paths.RUNS / f"{v.name}.json").read_bytes()
    evaluate.run(own, v)
    assert (paths.RUNS / f"{v.name}.json").read_bytes() == before


def test_history_and_choice_of_epoch(in_tiny: Params) -> None:
    v = knn(in_tiny)
    with (paths.MODELS / v.name / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [int(row["step"]) for row in history] == [10, 20, 27]
    measured = {"loss", "train_top1"}
    measured |= {"validation_top1", "validation_loss"}
    measured |= {"test_top1_not_for_selection", "test_loss_not_for_selection"}
    assert measured <= set(history[0])
    card = json.loads((paths.MODELS / v.name / "card.json").read_text())
    classifier, _ = Classifier.read(paths.MODELS / v.name)
    validation = Images.read(paths.split("validation"))
    bank = DeviceBank(Embeddings.read(paths.BANK), 10, CPU)
    table = Neighbours.read(paths.table("knn", "validation"))
    logits = classifier.predict(validation.pixels, *Shown.of(bank, table))
    assert metrics.top_k(logits, validation.labels, 1) == pytest.approx(
        card["validation_top1"], abs=4e-3
    )
    plain = v.name.replace("knn-k4-all", "none")  # with neighbours it is stacked after the last
    with (paths.MODELS / plain / "history.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    its_card = json.loads((paths.MODELS / plain / "card.json").read_text())
    assert its_card["validation_top1"] == pytest.approx(float(last["validation_top1"]))
    assert card["best_epoch"] == its_card["best_epoch"]  # they have one network
    clean = json.loads((paths.RUNS / f"{plain}.json").read_text())["rows"][0]
    loss = float(last["test_loss_not_for_selection"])
    assert loss == pytest.approx(clean["nll"], rel=0.01)


def test_results_rows(in_tiny: Params) -> None:
    found = read_results(in_tiny).rows()
    assert len(found) == 9 * 2
    assert all(tuple(row) == KEYS for row in found)
    keys = {(r["backbone"], r["retrieval"], r["k"], r["seed"], r["noise_std"]) for r in found}
    assert len(keys) == 18
    for row in found:
        plain = row["retrieval"] == "none"
        assert (row["k"], row["bank_size"]) == ((0, 0) if plain else (4, 3500))
        assert row["n_test"] == 1000
        assert 0 <= row["top1"] <= row["top3"] <= 1


def test_results_of_other_k_are_kept_and_stale_ones_left_out(own: Params) -> None:
    v = knn(own)
    run = parse_checksummed((paths.RUNS / f"{v.name}.json").read_text())
    for row in run["rows"]:
        row["k"] = 2
    (paths.RUNS / "alexnet-knn-k2-all-s0.json").write_text(checksummed_json(run))
    run["setting"] = "other"
    (paths.RUNS / "alexnet-knn-k1-all-s0.json").write_text(checksummed_json(run))
    (paths.RUNS / "alexnet-knn-k3-all-s0.json").write_text(json.dumps(run))  # as 0.6.0 did
    found = [
        r["k"]
        for r in read_results(own).rows()
        if (r["backbone"], r["retrieval"]) == ("alexnet", "knn")
    ]
    assert found == [2, 2, 4, 4]
    assert ablation_curves(read_results(own).rows(), "k") is not None
    assert "k" in {part.name for section in SECTIONS for part in section.parts}


def test_no_results_is_told(own: Params) -> None:
    shutil.rmtree(paths.RUNS)
    with pytest.raises(UserError, match="holds no results of these parameters: run dvc repro"):
        read_results(own).rows()


def test_the_page_needs_no_network_and_holds_its_pictures(in_tiny: Params) -> None:
    page = paths.PAGE.read_text()
    assert page.count("<script") == 1
    assert not re.findall(r"(?:src|srcset|href)=\"(?!data:|#)", page)
    assert not re.search(r"://|@import|url\(", re.sub(r"data:[^\"]+", "", page))
    drawn = [*paths.FIGURES.glob("*.png"), paths.CONTACT_SHEET]
    assert page.count("data:image/png;base64,") == len(drawn) == 25
    for v in variants(in_tiny):
        assert v.backbone in page
    with paths.TABLE.open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 18
    written = json.loads(paths.METRICS.read_text())
    assert set(written) == {"encoder", "alexnet", "alexnet+noise", "perceiver", "baselines"}
    encoder = json.loads(paths.BASELINES.read_text())
    for name in ("probe", "vote"):
        assert written["baselines"][name] == {"clean": encoder[name]["rows"][0]["top1"]}
    for row in read_results(in_tiny).rows():
        of_strategies = written[row["backbone"]]
        assert set(of_strategies) == {"none", "knn"}  # the control is no headline
        if row["retrieval"] in of_strategies:
            shift = "noise" if row["noise_std"] else "clean"
            top1 = of_strategies[row["retrieval"]][shift]
            assert top1 == pytest.approx(row["top1"], abs=1e-6)


@pytest.mark.ci
def test_report_is_the_same_bytes_again(own: Params) -> None:
    before = hashes(paths.RESULTS)
    report.run(own)
    assert hashes(paths.RESULTS) == before


def test_the_headline_is_a_dozen_columns_by_classifier() -> None:
    correct = np.ones((1, 2, 4), bool)
    nothing = dict.fromkeys(("levels", "histories", "near_duplicates", "seed"))

    def columns(backbones: int, strategies: tuple[str, ...]) -> list[str]:
        names = [(f"net{i}", name) for i in range(backbones) for name in ("none", *strategies)]
        stacks = {Condition(*pair): Stack(correct) for pair in names}
        evidence = Evidence(**{**nothing, "levels": (0.0, 0.2)}, stacks=stacks, runs={})
        more = SimpleNamespace(
            **{name: getattr(evidence, name) for name in ("stacks", "clean_and_noisiest")},
            searching=evidence.searching,
            with_neighbours=evidence.with_neighbours,
            pretraining=[{"knn_top1": 0.5}],
            encoder_baselines={"probe": EncoderBaseline("", "", correct, {})},
        )
        written = summary.metrics(more)  # type: ignore[arg-type]
        return [".".join(keys) for keys in leaves(written)]

    assert columns(2, ("sampled", "knn")) == [
        *("net0.none.clean", "net0.none.noise", "net0.knn.clean", "net0.knn.noise"),
        *("net1.none.clean", "net1.none.noise", "net1.knn.clean", "net1.knn.noise"),
        *("encoder.knn_top1", "baselines.probe.clean"),
    ]
    assert columns(3, ()) == [f"net{i}.none.{shift}" for i in range(3) for shift in summary.SHIFTS]
    many = columns(4, ("sampled", "self", "knn"))
    assert len(many) == 10
    assert not [name for name in many if "noise" in name]


def leaves(content: object, *keys: str) -> Iterator[tuple[str, ...]]:
    """The keys to each number."""
    if not isinstance(content, dict):
        yield keys
        return
    for key, value in content.items():
        yield from leaves(value, *keys, key)


def test_every_result_is_kept_and_what_differs_is_drawn(own: Params, undrawn: None) -> None:
    """Another learning rate leaves another file; the page and a command join the two."""
    v = Variant.of(own, "alexnet", "none", 0)
    assert len(list(paths.KEPT.iterdir())) == len(variants(own))
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.01"))
    params = load(Path("params.yaml"))
    shutil.rmtree(paths.RUNS)  # as DVC removes outputs
    train.run(params, v)
    evaluate.run(params, v)
    assert len(list(paths.KEPT.glob(f"{v.name}-*.json"))) == 2
    (paths.KEPT / "alexnet-none-s0-0.json").write_text("{}")

    rows = CliRunner().invoke(app, ["compare", "--json"], catch_exceptions=False)
    assert "left out: alexnet-none-s0-0.json, damaged: run rapipe eval" in rows.stderr
    found = json.loads(rows.stdout)
    assert [(row["key"], row["value"], row["backbone"]) for row in found] == [
        ("train.learning_rate", "0.001", "alexnet"),
        ("train.learning_rate", "0.01", "alexnet"),
    ]
    run = parse_checksummed((paths.RUNS / f"{v.name}.json").read_text())
    assert found[1]["test_top1"] == run["rows"][0]["top1"]
    assert found[1]["train_loss"] > 0
    with (paths.ABLATIONS / "ablations.csv").open() as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.001", "0.01"]
    assert {path.name for path in paths.ABLATIONS.iterdir()} == {
        *("ablations.csv", "ablations.md"),
        *("train.learning_rate-accuracy.png", "train.learning_rate-curves.png"),
    }
    for arguments, sentence in (
        (["train.learning_rat"], "which no result records (did you mean train.learning_rate?)"),
        (["train.epochs"], "train.epochs', which is 1 in all results; what differs: "),
        (["--backbone", "resnet"], "--backbone is 'resnet'; results/kept has alexnet, alexnet+"),
    ):
        refused = CliRunner().invoke(app, ["compare", *arguments])
        assert refused.exit_code == 2
        assert sentence in refused.stderr


@pytest.mark.parametrize("named", [True, False])
def test_a_study_without_retrieval_has_a_page(own: Params, named: bool, undrawn: None) -> None:
    """No strategies, or none evaluated yet; nothing of the memory need be there."""
    for folder in (paths.ENCODER, paths.STORE, paths.NEIGHBOURS, paths.PRETRAINING, paths.KEPT):
        shutil.rmtree(folder)
    for file in (paths.BASELINES, paths.LEAKAGE, paths.DUPLICATES, paths.LABEL_ERRORS):
        file.unlink()
    for v in variants(own):
        if v.retrieval != "none":
            (paths.RUNS / f"{v.name}.json").unlink()
    if not named:
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(re.sub("strategies: .*", "strategies: []", text))
    params = load(Path("params.yaml"))
    assert bool(params.retrieval.strategies) is named
    report.run(params)
    page = re.sub(r"data:[^\"]+", "", paths.PAGE.read_text()).partition("</style>")[2]
    assert page.count("<h2>") == page.count("<section") + 1 == 8
    for word in ("neighbour", "retriev", "memor", "looked", "looks", "encoder", "knn", "vote"):
        assert word not in page.lower(), word
    assert "alexnet+noise" in page
    assert set(json.loads(paths.METRICS.read_text())) == {"alexnet", "alexnet+noise", "perceiver"}
    assert {row["retrieval"] for row in read_results(params).rows()} == {"none"}
    with paths.CLAIMS.open() as file:
        pairs = {(row["first"], row["second"]) for row in csv.DictReader(file)}
    assert len(pairs) == 3


def test_a_retrieval_variant_reads_the_bank_it_is_given(own: Params) -> None:
    """A bank limited to some images changes the table, the model's name and its card."""
    text = Path("params.yaml").read_text().replace("bank: all", "bank: 300")
    Path("params.yaml").write_text(text)
    params = load(Path("params.yaml"))
    prefetch.run(params)
    v = knn(params)
    assert v.name == "alexnet-knn-k4-300-s0"
    train.run(params, v)
    evaluate.run(params, v)
    rows = [row for row in read_results(params).rows() if row["retrieval"] == "knn"]
    assert {row["bank_size"] for row in rows} == {300, 3500}
    assert Condition("alexnet", "knn", 4, 300) in map(Condition.of, rows)


def test_command_line_runs_a_stage_and_prints_results(own: Params) -> None:
    runner = CliRunner()
    before = hashes(paths.NEIGHBOURS)
    shutil.rmtree(paths.NEIGHBOURS)
    assert runner.invoke(app, ["prefetch"], catch_exceptions=False).exit_code == 0
    assert hashes(paths.NEIGHBOURS) == before
    v = Variant.of(own, "alexnet", "none", 0)
    kept = (paths.RUNS / f"{v.name}.json").read_bytes()
    (paths.RUNS / f"{v.name}.json").unlink()
    chosen = ["eval", "--backbone", "alexnet", "--retrieval", "none"]
    assert runner.invoke(app, chosen, catch_exceptions=False).exit_code == 0
    assert (paths.RUNS / f"{v.name}.json").read_bytes() == kept
    printed = runner.invoke(app, ["results", "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout) == read_results(own).rows()
    table = runner.invoke(app, ["results"], catch_exceptions=False).stdout
    assert len(table.splitlines()) == 19


def test_neighbors_without_a_classifier_are_neighbours_all_the_same(own: Params) -> None:
    shutil.rmtree(paths.MODELS)
    found = CliRunner().invoke(app, ["neighbors", "3", "--json"], catch_exceptions=False)
    assert "no classifier with neighbours is trained" in found.stderr
    assert set(json.loads(found.stdout)["neighbours"][0]) == {"similarity", "class", "source", "id"}


def test_evidence_agrees_with_itself(in_tiny: Params) -> None:
    """What the swaps say of its own neighbours and of none is what the predictions say."""
    test, bank = Images.read(paths.split("test")), DeviceBank(Embeddings.read(paths.BANK), 10, CPU)
    for v in variants(in_tiny):
        run = json.loads((paths.RUNS / f"{v.name}.json").read_text())
        seen = Predictions.read(paths.EVIDENCE / v.name / paths.PREDICTIONS)
        assert seen.ids.tolist() == test.ids.tolist()
        assert seen.correct.mean(axis=1).tolist() == [row["top1"] for row in run["rows"]]
        if v.retrieval == "none":
            assert "swaps" not in run
            continue
        swaps = {row["swap"]: row for row in run["swaps"]}
        assert (swaps[v.retrieval]["flips"], swaps[v.retrieval]["change"]) == (0, 0)
        classifier, _ = Classifier.read(paths.MODELS / v.name)
        none = metrics.top_k(classifier.predict(test.pixels), test.labels, 1)
        assert swaps["none"]["top1"] == none
        table = Neighbours.read(paths.table("knn", "test"))
        near = metrics.top_k(
            classifier.predict(test.pixels, *Shown.of(bank, table)), test.labels, 1
        )
        assert swaps["knn"]["top1"] == near
        clean, noisy = run["drift"]
        assert [clean[k] for k in ("recall", "retrieval_failed", "fusion_failed")] == [1, 0, 0]
        lost = run["rows"][0]["top1"] - run["rows"][1]["top1"]
        assert noisy["retrieval_failed"] + noisy["fusion_failed"] == pytest.approx(lost)
        best = max(run["votes"][:4], key=lambda row: row["validation_top1"])
        assert seen.vote_correct[0].mean() == best["top1"]
        with (paths.EVIDENCE / v.name / paths.INFLUENCE).open() as file:
            rows_ = list(csv.DictReader(file))
        assert len(rows_) == run["attribution"]["rows"] > run["attribution"]["harmful"] > 0
        assert sum(int(row["shown"]) for row in rows_) == 20 * 4


def test_evaluation_is_the_same_bytes_again(own: Params) -> None:
    v = knn(own)
    folders = (paths.RUNS, paths.EVIDENCE)
    before = [hashes(folder) for folder in folders]
    evaluate.run(own, v)
    assert [hashes(folder) for folder in folders] == before


@pytest.mark.ci
def test_an_images_own_vector_goes_through(own: Params, undrawn: None) -> None:
    """And of the memory `self` knows nothing: an edit, another k and another bank leave it."""
    text = Path("params.yaml").read_text()
    text = re.sub("strategies: .*", "strategies: [self, self+knn]", text)
    Path("params.yaml").write_text(re.sub("backbones: .*", "backbones: [alexnet]", text))
    params = load_checked(Path("params.yaml"))
    for stage in (prefetch, audit):
        stage.run(params)
    alone, beside = (Variant.of(params, "alexnet", name, 0) for name in params.retrieval.strategies)
    for v in (alone, beside):
        train.run(params, v)
        evaluate.run(params, v)
    report.run(params)
    bank, test = Embeddings.read(paths.BANK), labelled("test")
    vectors = Encoder.read(paths.ENCODER).embed(test.pixels)
    tables = [Neighbours.read(paths.table(v.retrieval, "test")) for v in (alone, beside)]
    assert [table.k for table in tables] == [0, params.retrieval.k]
    for v, table in zip((alone, beside), tables, strict=True):
        np.testing.assert_allclose(table.query_vectors, vectors, atol=1e-5)
        run = json.loads((paths.RUNS / f"{v.name}.json").read_text())
        row = (0, 0, "") if v is alone else (4, len(bank), "v1")
        assert {(r["k"], r["bank_size"], r["memory"]) for r in run["rows"]} == {row}
        classifier, _ = Classifier.read(paths.MODELS / v.name)
        device_bank = DeviceBank(bank, classifier.spec.classes, CPU)
        logits = classifier.predict(test.pixels, *Shown.of(device_bank, table))
        assert metrics.top_k(logits, test.labels, 1) == run["rows"][0]["top1"]
    page = paths.PAGE.read_text()
    assert "Reliance on its own neighbours" in page
    assert not re.search(r"\bnan\b", page)
    asked = ["neighbors", "0", "-k", "3", "--json", "--classifier"]
    answer = json.loads(CliRunner().invoke(app, [*asked, beside.name]).stdout)
    assert sum(row["attention"] for row in answer["neighbours"]) == pytest.approx(1, abs=1e-5)
    vector = table.query_vectors[:1]
    without = metrics.softmax(classifier.predict(test.pixels[:1], query_vectors=vector))[0]
    predicted = test.classes.index(answer["predicted"])
    assert answer["without neighbours"] == pytest.approx(without[predicted], abs=1e-5)
    refused = CliRunner().invoke(app, [*asked, alone.name])
    assert refused.exit_code == 2
    assert f"trained ones with neighbours are {beside.name}\n" in refused.stderr
    before = hashes(paths.RUNS)[f"{alone.name}.json"]
    memory = CliRunner().invoke(app, ["store", "remove", "--class", "7"])
    assert memory.exit_code == 0
    other = text.replace("bank: all", "bank: 300").replace("k: 4", "k: 2")
    Path("params.yaml").write_text(re.sub("backbones: .*", "backbones: [alexnet]", other))
    other_params = load_checked(Path("params.yaml"))
    prefetch.run(other_params)
    again = Variant.of(other_params, "alexnet", "self", 0)
    assert again.name != alone.name
    shutil.copytree(paths.MODELS / alone.name, paths.MODELS / again.name)
    evaluate.run(other_params, again)
    assert hashes(paths.RUNS)[f"{again.name}.json"] == before
    results = read_results(other_params)
    assert f"{again.name}" in results.runs
    assert "which no k or bank makes another" in results.left_out[alone.name]


@pytest.mark.ci
def test_heavy_parts_can_be_left_out(own: Params, undrawn: None) -> None:
    text = Path("params.yaml").read_text()
    for key, value in (("swap_std", "[]"), ("poisoned", "[]"), ("attributed", "0")):
        text = re.sub(rf"  {key}: .*", f"  {key}: {value}", text)
    Path("params.yaml").write_text(text)
    params = load(Path("params.yaml"))
    for v in variants(params):
        if v.retrieval != "none":
            evaluate.run(params, v)
            run = json.loads((paths.RUNS / f"{v.name}.json").read_text())
            assert run["swaps"] == []
            assert "attribution" not in run
    report.run(params)
    page = paths.PAGE.read_text()
    assert "which neighbours matter?" not in page
    assert "Is the difference more than chance?" in page


@pytest.mark.ci
def test_several_seeds_levels_and_labels_go_through(own: Params, undrawn: None) -> None:
    text = Path("params.yaml").read_text()
    for key, value in (
        ("backbones", "[alexnet]"),
        ("strategies", "[knn]"),
        ("attend", "both"),
        ("seeds", "[0, 1, 2]"),
        ("swap_std", "[0, 0.1]"),
    ):
        text = re.sub(rf"  {key}: .*", f"  {key}: {value}", text)
    Path("params.yaml").write_text(text)
    params = load(Path("params.yaml"))
    audit.run(params)
    for v in variants(params):
        train.run(params, v)
        evaluate.run(params, v)
    report.run(params)
    with paths.COUNTERFACTUALS.open() as file:
        swaps = [row for row in csv.DictReader(file) if row["swap"] == "shuffled labels"]
    assert [(row["noise_std"], row["seeds"]) for row in swaps] == [("0", "3"), ("0.1", "3")]
    with paths.CLAIMS.open() as file:
        assert {row["seeds"] for row in csv.DictReader(file)} == {"3"}
    runs = [json.loads((paths.RUNS / f"{v.name}.json").read_text()) for v in variants(params)]
    found = [row["top1"] for run in runs for row in run.get("swaps", ()) if row["swap"] == "none"]
    with paths.COUNTERFACTUALS.open() as file:
        none = [row for row in csv.DictReader(file) if row["swap"] == "none"]
    assert float(none[0]["top1"]) == pytest.approx(np.mean(found[::2]), abs=1e-5)
    assert float(none[0]["low"]) < float(none[0]["change"]) < float(none[0]["high"])


@pytest.mark.parametrize(("key", "value"), [("noise_std", "[0.1, 0.2]"), ("swap_std", "[0.1]")])
def test_evaluations_of_other_levels_are_not_mixed(own: Params, key: str, value: str) -> None:
    text = re.sub(
        rf"(evaluate:[^§]*?)  {key}: .*", rf"\1  {key}: {value}", Path("params.yaml").read_text()
    )
    Path("params.yaml").write_text(text)
    params = load(Path("params.yaml"))
    evaluate.run(params, knn(params))
    with pytest.raises(UserError, match=rf"json was made with evaluate\.{key} .*: run rapipe eval"):
        report.run(params)


def test_noise_is_in_the_training_of_marked_backbones_alone(own: Params) -> None:
    card = {
        name: json.loads((paths.MODELS / name / "card.json").read_text())
        for name in ("alexnet-none-s0", "alexnet+noise-none-s0")
    }
    assert {own["spec"]["network"]["backbone"] for own in card.values()} == {"alexnet"}
    settings = [facts["setting"] for facts in card.values()]
    assert settings[0] != settings[1]
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("noise_std: 0.1 ", "noise_std: 0.3 ")
    )
    params = load(Path("params.yaml"))
    initialise.run(params)
    for name, changed in (("alexnet", False), ("alexnet+noise", True)):
        v = Variant.of(params, name, "none", 0)
        weights = (paths.MODELS / v.name / "weights.safetensors").read_bytes()
        train.run(params, v)
        assert ((paths.MODELS / v.name / "weights.safetensors").read_bytes() != weights) == changed
        found = json.loads((paths.MODELS / v.name / "card.json").read_text())["setting"]
        assert (found not in settings) == changed


def test_neighbors_of_a_test_image_and_of_a_file(own: Params, tmp_path: Path) -> None:
    from PIL import Image

    runner = CliRunner()
    test, bank = Images.read(paths.split("test")), Embeddings.read(paths.BANK)
    by_row = runner.invoke(app, ["neighbors", "3", "-k", "4", "--json"], catch_exceptions=False)
    told_of = json.loads(by_row.stdout)
    listed = told_of["neighbours"]
    table = Neighbours.read(paths.table("knn", "test"))
    assert [line["id"] for line in listed] == bank.ids[table.indices[3]].tolist()
    Image.fromarray(test.pixels[3]).save(tmp_path / "x.png")
    command = [
        "neighbors",
        str(tmp_path / "x.png"),
        "-k",
        "4",
        "--picture",
        str(tmp_path / "p.png"),
    ]
    by_file = runner.invoke(app, command, catch_exceptions=False)
    assert [line.split()[-1] for line in by_file.stdout.splitlines()[2:]] == [
        str(line["id"]) for line in listed
    ]
    classifier, _ = Classifier.read(paths.MODELS / told_of["classifier"])
    there, pixels = DeviceBank(bank, 10, CPU), test.pixels[3:4]
    shown = Shown.of(there, table.take(np.array([3])))
    chances = metrics.softmax(classifier.predict(pixels, *shown))[0]
    assert told_of["predicted"] == str(chances.argmax())
    assert told_of["probability"] == pytest.approx(chances.max(), abs=1e-5)
    for place, line in enumerate(listed):
        rest = shown.without(place)
        left = metrics.softmax(classifier.predict(pixels, *rest))[0, chances.argmax()]
        assert line["effect"] == pytest.approx(chances.max() - left, abs=1e-5)
    assert 0 < sum(line["attention"] for line in listed) <= 1 + 1e-4  # the network has the rest
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    for wrong, told in (
        (["1000"], "choose from 0 to 999"),
        (["nothing.png"], "no file that can be"),
        (["3", "--classifier", "x"], "--classifier is 'x'; trained ones with neighbours are "),
    ):
        result = runner.invoke(app, ["neighbors", *wrong])
        assert result.exit_code == 2
        assert told in result.stderr


def test_mistakes_on_the_command_line(own: Params) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["train", "--backbone", "vgg"])
    assert result.exit_code == 2
    assert "backbone is 'vgg'; params.yaml has alexnet, perceiver, alexnet+noise" in result.stderr
    before = hashes(Path())
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("attend: embedding", "attend: all"))
    for command in (["corpus"], ["train"], ["report"], ["results"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: retrieval.attend is 'all'; it must be one of")
        assert "Traceback" not in result.output
    Path("params.yaml").write_text(text)
    assert hashes(Path()) == before
    shutil.rmtree("data/corpus")
    result = runner.invoke(app, ["pretrain"])
    assert result.exit_code == 2
    assert "data/corpus/card.json is missing: run rapipe corpus" in result.stderr


def noise_image(path: Path, rng: np.random.Generator, mode: str = "RGB") -> None:
    """Write a small picture of noise, in the format of its suffix."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def test_own_images_and_a_memory_go_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of assorted pictures as the task, another without labels as memory."""
    rng = np.random.default_rng(0)
    kinds = [("png", "RGB"), ("jpg", "CMYK"), ("gif", "P"), ("png", "LA"), ("tif", "L")]
    for split, n in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            for i in range(n):
                suffix, mode = kinds[i % len(kinds)]
                noise_image(tmp_path / f"mine/{split}/{name}/{i}.{suffix}", rng, mode)
    for i in range(10):
        noise_image(tmp_path / f"more/some/where/{i}.webp", rng)
    (tmp_path / "mine/train/cat/broken.jpg").write_bytes(b"\xff\xd8 no")
    monkeypatch.chdir(tmp_path)
    presets.write("own-images-scratch", Path("params.yaml"))
    text = Path("params.yaml").read_text()
    for old, new in (
        ("path: data/raw/images", "path: mine\n      name: pets"),
        ("  image_size: 64", "    - {kind: folder, path: more, role: memory}\n  image_size: 16"),
        ("epochs: 18", "epochs: 1"),
        ("epochs: 6", "epochs: 1"),
        ("width: 32", "width: 4"),
        ("k: 32", "k: 3"),
    ):
        assert old in text
        text = text.replace(old, new)
    Path("params.yaml").write_text(text)
    runner = CliRunner()
    result = runner.invoke(app, ["corpus"])
    assert result.exit_code == 2
    assert "error: mine/train/cat/broken.jpg is no image that can be read" in result.stderr
    Path("params.yaml").write_text(text.replace("on_error: stop", "on_error: skip"))
    result = runner.invoke(app, ["corpus"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "pets: 1 skipped, listed in data/corpus/card.json" in result.stderr
    described = runner.invoke(app, ["corpus", "--describe"], catch_exceptions=False).stdout
    assert "skipped from pets: mine/train/cat/broken.jpg is no image" in described
    assert re.search(r"train +30 +10 +20 +10", described), described
    card = json.loads(paths.CORPUS_CARD.read_text())
    assert card["classes"] == ["cat", "dog"]
    assert card["splits"]["train"]["by_source"] == {"folder": 10, "pets": 20}
    assert card["splits"]["test"]["by_class"] == {"cat": 4, "dog": 4}
    assert card["sources"]["pets"]["width"] == {"smallest": 30, "median": 30, "largest": 30}
    assert card["sources"]["pets"]["common_sizes"] == {"30x20": 32}
    assert paths.CONTACT_SHEET.read_bytes().startswith(b"\x89PNG")

    params = load(Path("params.yaml"))
    for stage in (pretrain, embed, prefetch, initialise):
        stage.run(params)
    v = Variant.of(params, "alexnet", "knn", 0)
    train.run(params, v)
    evaluate.run(params, v)
    assert {r["n_test"] for r in read_results(params).rows()} == {8}
    bank = Embeddings.read(paths.BANK)
    assert set(zip(bank.sources.tolist(), (bank.labels >= 0).tolist(), strict=True)) == {
        ("pets", True),
        ("folder", False),
    }
    for split in SPLITS:
        queries = Neighbours.read(paths.table("knn", split)).query_ids
        images = Images.read(paths.split(split))
        assert set(queries) == set(images.ids[images.sources == "pets"])


def test_a_source_that_has_not_changed_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/cat", "a/dog", "b/new"):
        for i in range(20):
            noise_image(tmp_path / f"{name}/{i}.png", rng)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    sources = "- {kind: folder, path: a, name: a}\n    - {kind: folder, path: b, name: b}"
    Path("params.yaml").write_text(text.replace("- kind: digits", sources))
    corpus.run(load(Path("params.yaml")))
    kept = {p: p.stat().st_mtime_ns for p in paths.CACHE.glob("*/all/pixels")}
    assert len(kept) == 2
    noise_image(tmp_path / "b/new/20.png", rng)
    corpus.run(load(Path("params.yaml")))
    now = {p: p.stat().st_mtime_ns for p in paths.CACHE.glob("*/all/pixels")}
    assert len(now) == 2
    assert len(kept.items() & now.items()) == 1
    card = json.loads(paths.CORPUS_CARD.read_text())
    assert card["sources"]["b"]["read"] == 21


def test_a_mistake_in_a_source_keeps_the_corpus(own: Params) -> None:
    before = hashes(paths.CORPUS)
    text = Path("params.yaml").read_text()
    for kind in ("{kind: folder, path: gone}", "{kind: cifar10}"):
        Path("params.yaml").write_text(text.replace("- kind: digits", f"- {kind}"))
        result = CliRunner().invoke(app, ["corpus"])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert hashes(paths.CORPUS) == before
    assert "data/raw/cifar10/cifar-10-binary.tar.gz is missing: put the file" in result.stderr
