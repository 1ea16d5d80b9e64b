"""The study: its experiments, that it resumes, and that its pages say what its files hold."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from rapipe import paths
from rapipe.config.loading import parse
from rapipe.config.variants import Project, Variant
from rapipe.errors import UserError
from rapipe.evaluation.statistics import paired_interval
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.pipeline import train
from study import __main__ as command
from study import records, report, running, tables, work
from study.comparisons import compare_conditions
from study.experiments import EXPERIMENTS, KS, RANDOM, ROBUST, TASK, WIDER
from study.records import pack_bits, unpack_bits
from study.results import StudyResults, run_rows
from study.running import Study
from study.work import ROOT

SCALES = ("study", "study-cpu", "tiny")
PUBLISHED = ROOT / "results/study"


# Experiments


@pytest.mark.parametrize("preset", SCALES)
def test_every_setting_of_every_experiment_has_parameters_and_a_name_of_its_own(
    preset: str, tmp_path: Path
) -> None:
    study = Study(preset, {}, tmp_path / "work", tmp_path / "found")
    whole = parse(study.content())
    names = []
    for experiment in EXPERIMENTS.values():
        for setting in experiment.settings(whole, 9000):
            params = parse(study.content_of(setting.encoder, setting.overrides))
            assert setting.variants(params), setting.name
            names.append(setting.name)
    assert len(set(names)) == len(names)
    assert ("wider-memory" in names) == (preset != "tiny")


def test_experiments_ask_what_the_study_asks(tmp_path: Path) -> None:
    whole = parse(Study("study", {}, tmp_path, tmp_path).content())
    (main,) = EXPERIMENTS["main"].settings(whole, 45_000)
    asked = {(v.backbone, v.retrieval) for v in main.variants(whole)}
    assert asked == {
        (backbone, retrieval)
        for backbone in ("resnet18", "alexnet", "perceiver")
        for retrieval in ("none", "sampled", "knn")
    }
    assert len(main.variants(whole)) == 9 * 5
    assert [v.seed for v in main.variants(whole)] == sorted([0, 1, 2, 3, 4] * 9)
    swept = [s.overrides["retrieval.k"] for s in EXPERIMENTS["k"].settings(whole, 45_000)]
    assert {*swept, whole.retrieval.k} == {*KS}
    assert [s.overrides["retrieval.k"] for s in EXPERIMENTS["k"].settings(whole, 200)] == [
        5,
        15,
        100,
    ]
    banks = [s.overrides["retrieval.bank"] for s in EXPERIMENTS["bank"].settings(whole, 45_000)]
    assert banks == [450, 4500, 13_500]
    assert [own.name for own in EXPERIMENTS["baselines"].settings(whole, 45_000)] == ["encoder"]
    narrow = parse(Study("study-cpu", {}, tmp_path, tmp_path).content())
    named = [own.name for own in EXPERIMENTS["baselines"].settings(narrow, 9000)]
    assert named == ["encoder", "scratch"]  # as wide as the encoder
    small = list(EXPERIMENTS["bank"].settings(whole, 100))
    assert all(setting.overrides["retrieval.bank"] >= whole.retrieval.k for setting in small)


def test_memory_sources_belong_to_the_wider_encoder_alone(tmp_path: Path) -> None:
    study = Study("study", {}, tmp_path, tmp_path)
    for kind, names in (
        (TASK, ["cifar10"]),
        (RANDOM, ["cifar10"]),
        (ROBUST, ["cifar10"]),
        (WIDER, ["cifar10", "tiny-imagenet"]),
    ):
        sources = study.content_of(kind)["corpus"]["sources"]
        assert [source["name"] for source in sources] == names


def test_the_robust_encoder_differs_by_the_noise_in_its_views_alone(tmp_path: Path) -> None:
    study = Study("study-cpu", {}, tmp_path, tmp_path)
    task, robust = (study.content_of(kind) for kind in (TASK, ROBUST))
    assert robust["pretrain"].pop("views") == "noisy-crop"
    assert task["pretrain"].pop("views") == "crop"
    assert task == robust


def test_overrides_change_a_copy() -> None:
    content = {"seed": 0, "train": {"epochs": 6}}
    assert work.override(content, {"train.epochs": 2})["train"]["epochs"] == 2
    assert content == {"seed": 0, "train": {"epochs": 6}}


def test_sources_may_be_parquet_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    study = Study("study", {"cifar10": tmp_path / "mine"}, tmp_path / "w", tmp_path / "f")
    content = study.content()
    first, second = content["corpus"]["sources"]
    assert (first["kind"], first["path"]) == ("parquet", str(tmp_path / "mine"))
    assert second["kind"] == "tiny-imagenet"
    public = study.public(content)["corpus"]["sources"][0]["path"]
    assert public == "mine"
    with pytest.raises(UserError, match="mnist: the preset study has no source of this name"):
        Study("study", {"mnist": tmp_path}, tmp_path / "w", tmp_path / "f").content()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        (["main", "--source", "cifar10"], "write NAME=PATH"),
        (["main", "--preset", "tiny", "--source", "mnist=x"], "choose from digits"),
        (["main", "--preset", "study"], "--preset study needs a GPU"),
        (["main", "report", "--preset", "tiny"], "encoder and report stand alone"),
        (["main", "--preset", "tiny", "--retrieval", "kn"], "choose from none, sampled, knn"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["study", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# Running


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_bits_come_back(count: int) -> None:
    bits = np.random.default_rng(count).random(count) < 0.5
    np.testing.assert_array_equal(unpack_bits(pack_bits(bits), count), bits)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two experiments of the tiny scale, with one backbone, and the report."""
    folder = tmp_path_factory.mktemp("study")
    study = Study("tiny", {}, folder / "work", folder / "found")
    whole = study.content

    def quick(overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        content = whole(overrides)
        if not set(overrides or {}) & {"classifiers.backbones"}:
            content["classifiers"]["backbones"] = ["alexnet"]
        content["retrieval"]["bank"] = 400  # to an untrained encoder all rows are equally near
        content["classifiers"]["backbones"] = [
            name.replace("perceiver", "alexnet") for name in content["classifiers"]["backbones"]
        ]
        return content

    object.__setattr__(study, "content", quick)
    running.run(study, "main", "random")
    report.run(study)
    return study


def files_of(study: Study) -> dict[str, bytes]:
    return {
        str(path.relative_to(study.pages)): path.read_bytes()
        for path in sorted(study.pages.rglob("*"))
        if path.is_file()
    }


def test_raw_data_are_found_again_after_a_move(tmp_path: Path) -> None:
    raw = tmp_path / "own/data/raw"
    raw.parent.mkdir(parents=True)
    raw.symlink_to(tmp_path / "gone")
    with work.working_in(tmp_path / "own", {}):
        assert not Path("data/raw").readlink().is_absolute()
        assert Path("data/raw").samefile(ROOT / "data/raw")
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]


@pytest.mark.ci
def test_what_has_been_run_is_not_run_again(
    rehearsed: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(rehearsed)

    def refuse(*_: Any) -> None:
        raise AssertionError("it was run again")

    monkeypatch.setattr(running, "_stage_across", refuse)
    running.run(rehearsed, "main", "random")
    assert files_of(rehearsed) == before
    damaged = next(rehearsed.results.glob("runs/main/alexnet-knn*.json"))
    text = damaged.read_text()
    damaged.write_text(text.replace('"top1": 0.', '"top1": 0.9', 1))
    with pytest.raises(UserError, match="is damaged"):
        StudyResults.read(rehearsed.results)
    with pytest.raises(AssertionError, match="run again"):
        running.run(rehearsed, "main")
    damaged.write_text(text)


@pytest.mark.ci
def test_a_test_that_was_interrupted_costs_no_training(
    rehearsed: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(rehearsed.results.glob("runs/main/alexnet-none*.json"))
    before = path.read_bytes()
    path.unlink()
    stage_of, ran = running._stage_across, []

    def interrupted(run: Any, costs: Path, projects: Any) -> None:
        ran.append(costs.name.partition("-")[0])
        if len(ran) == 2:
            raise KeyboardInterrupt
        stage_of(run, costs, projects)

    monkeypatch.setattr(running, "_stage_across", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(rehearsed, "main")
    running.run(rehearsed, "main")
    assert ran == ["train", "evaluate", "evaluate"]
    again, first = records.read_record(path), parse_checksummed(before.decode())
    for both in (again, first):
        assert both.pop("seconds")["train"] > 0
    assert (again.pop("together"), first.pop("together")) == (1, 4)
    assert again == first


@pytest.mark.ci
def test_two_memories_beside_one_network_are_as_each_by_itself(rehearsed: Study) -> None:
    """What is shown of one memory says nothing to what is shown of another."""
    (path,) = rehearsed.results.glob("runs/random/*.json")
    before = path.read_bytes()
    path.unlink()
    running.run(rehearsed, "random")
    alone, beside = records.read_record(path), parse_checksummed(before.decode())
    assert (alone.pop("together"), beside.pop("together")) == (1, 4)
    assert alone.pop("seconds") != beside.pop("seconds")
    assert alone == beside
    path.write_bytes(before)
    folder = next(path for path in rehearsed.work.glob("tiny/main-*") if path.is_dir())
    encoder = next(path for path in rehearsed.work.glob("tiny/encoder-own-*") if path.is_dir())
    assert (folder / paths.QUERIES).samefile(encoder / paths.QUERIES)  # embedded once for all
    params = parse(rehearsed.content())
    other = replace(params, train=replace(params.train, learning_rate=0.5))
    plain = (Variant.of(params, "alexnet", "none", 0),)
    with pytest.raises(ValueError, match="several networks"):
        train.run_across(Project(folder, params, plain), Project(folder, other, plain))


@pytest.mark.ci
def test_results_of_other_images_are_not_made_again(rehearsed: Study, tmp_path: Path) -> None:
    before = files_of(rehearsed)
    other = Study("tiny", {"digits": tmp_path / "mine"}, rehearsed.work, rehearsed.pages)
    told = "results of other images, made by `python -m study encoder --preset tiny`: give the same"
    for run in (lambda: running.run(other, "random"), lambda: running.make_encoder(other, TASK)):
        with pytest.raises(UserError, match=re.escape(told)):
            run()
    assert files_of(rehearsed) == before


@pytest.mark.ci
def test_other_parameters_are_run_again(rehearsed: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[Variant] = []

    def made(projects: list[Project]) -> dict[str, Any]:
        again.extend(variant for project in projects for variant in project.variants)
        return {}

    monkeypatch.setattr(running, "_make", made)
    monkeypatch.setattr(running, "classifier_record", lambda *_: {})
    monkeypatch.setattr(running, "write_checksummed", lambda *_: None)
    monkeypatch.setattr(running.shutil, "rmtree", lambda *_, **__: None)
    present = rehearsed.content

    def longer(overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        content: dict[str, Any] = present(overrides)
        content["train"]["epochs"] = 2
        return content

    object.__setattr__(rehearsed, "content", longer)
    try:
        running.run(rehearsed, "random")
    finally:
        object.__setattr__(rehearsed, "content", present)
    assert len(set(again)) == 1


@pytest.mark.ci
def test_a_run_says_what_it_was_of(rehearsed: Study) -> None:
    for path in rehearsed.results.glob("runs/*/*.json"):
        run = records.read_record(path)
        assert run["command"] == f"python -m study {run['piece']} --preset tiny"
        assert run["parameters"]["train"]["width"] == 4
        assert (
            run["corpus"]
            == records.read_record(rehearsed.results / "encoder-own.json")["corpus"]["hash"]
        )
        assert set(run["seconds"]) == {"train", "eval"}
        assert all(seconds > 0 for seconds in run["seconds"].values())
        for row, bits in zip(run["rows"], run["correct"], strict=True):
            assert unpack_bits(bits, row["n_test"]).mean() == pytest.approx(row["top1"])
        if run["variant"]["retrieval"] != "none":
            best = max(run["votes"], key=lambda vote: vote["validation_top1"])
            clean = unpack_bits(run["voted"][0], run["rows"][0]["n_test"]).mean()
            assert clean == pytest.approx(best["top1"])
    random = records.read_record(rehearsed.results / "encoder-random.json")
    own = records.read_record(rehearsed.results / "encoder-own.json")
    assert random["weights"] != own["weights"]
    assert random["corpus"]["hash"] == own["corpus"]["hash"]
    assert random["scores"]["knn_top1"] == own["scores"]["random_init_knn_top1"]
    assert str(ROOT) not in "".join(path.read_text() for path in rehearsed.pages.rglob("*.json"))


@pytest.mark.ci
def test_tables_hold_what_the_files_hold(rehearsed: Study) -> None:
    with (rehearsed.results / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = StudyResults.read(rehearsed.results)
    assert len(rows) == sum(len(own) for own in found.runs.values()) * len(found.levels)
    page = (rehearsed.results / "tables.md").read_text()
    for row in rows:
        if row["setting"] == "main" and row["noise_std"] == "0":
            shown = {"knn": "kNN"}.get(row["retrieval"], row["retrieval"])
            assert f"| alexnet | {shown} | 1 | {100 * float(row['top1']):.1f} |" in page
    for name in ("steps", "noise"):
        assert (rehearsed.results / "figures" / f"{name}.png").stat().st_size > 5000


# Comparing, on results made by hand


PARAMETERS: dict[str, Any] = {
    "seed": 0,
    "corpus": {"image_size": 16, "sources": []},
    "pretrain": {"epochs": 1},
    "retrieval": {"k": 5},
    "classifiers": {"backbones": ["resnet18"], "seeds": [0], "noise_std": 0.1},
    "train": {"epochs": 1},
    "evaluate": {"noise_std": [0.1]},
}


def result(
    folder: Path,
    retrieval: str,
    seed: int,
    correct: np.ndarray,
    corpus: str = "c",
    setting: str = "main",
    backbone: str = "resnet18",
) -> None:
    """One evaluation of 400 images, clean and noisy."""
    variant = {"backbone": backbone, "retrieval": retrieval, "k": 5, "bank": "all", "seed": seed}
    rows = [
        {"noise_std": std, "top1": float(own.mean()), "n_test": 400, "bank_size": 9}
        for std, own in zip((0.0, 0.1), correct, strict=True)
    ]
    content = {
        "piece": setting,
        "setting": setting,
        "variant": variant,
        "corpus": corpus,
        "encoder": {"kind": "own"},
        "store": "of the memory",
        "precision": "fp32",
        "parameters": PARAMETERS,
        "rows": rows,
        "correct": [pack_bits(own) for own in correct],
        "voted": [pack_bits(own) for own in correct],
        "history": [{"images_seen": 1.0, "test_top1_not_for_selection": 0.5}],
    }
    path = folder / f"runs/{setting}/{retrieval}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(checksummed_json(content))


def by_hand(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Five seeds of two conditions: neighbours help, but on the first ten images they harm."""
    rng = np.random.default_rng(0)
    plain = rng.random((5, 2, 400)) < 0.5
    near = plain | (rng.random((5, 2, 400)) < 0.5)
    near[:, :, :10], plain[:, :, :10] = False, True
    for seed in range(5):
        result(folder, "none", seed, plain[seed])
        result(folder, "knn", seed, near[seed])
    alike = np.arange(400) < 10
    home = {"parameters": PARAMETERS, "corpus": {"hash": "c"}, "lookalikes": pack_bits(alike)}
    (folder / "encoder-own.json").write_text(checksummed_json(home))
    return near, plain


def test_claims_are_paired_by_seed_and_image(tmp_path: Path) -> None:
    near, plain = by_hand(tmp_path)
    found = StudyResults.read(tmp_path)
    made = {
        (own.second, own.noise_std): own
        for own in compare_conditions(found)
        if "vote" not in own.second
    }
    assert len(made) == 2
    own = made["resnet18, no neighbours", 0.0]
    expected = np.mean([accuracy_score(np.ones(400), row[0]) for row in near]) - np.mean(
        [accuracy_score(np.ones(400), row[0]) for row in plain]
    )
    assert own.verdict.difference == pytest.approx(expected)
    assert own.verdict.interval == paired_interval(near[:, 0], plain[:, 0], 0)
    assert own.without_near_duplicates == pytest.approx(
        near[:, 0, 10:].mean() - plain[:, 0, 10:].mean()
    )
    assert own.words == "better"
    same = [own for own in compare_conditions(found) if "vote" in own.second]
    assert {own.words for own in same} == {"no difference shown"}
    assert all(own.adjusted_p >= own.verdict.p for own in compare_conditions(found))


def test_the_encoders_network_from_scratch_is_mains_where_nothing_differs(tmp_path: Path) -> None:
    _, plain = by_hand(tmp_path)
    for seed in range(3):
        result(tmp_path, "none", seed, plain[seed], "c", "encoder", "resnet18+pretrained")
    found = StudyResults.read(tmp_path)
    pairs = {
        (own.first, own.second) for own in compare_conditions(found) if own.group == "baselines"
    }
    encoder = "resnet18+pretrained, no neighbours (encoder)"
    assert pairs == {("resnet18, no neighbours", encoder), ("resnet18, kNN", encoder)}
    rows = tables.baselines(found).markdown().splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| resnet18", "none"],
        ["| resnet18", "kNN"],
        ["| resnet18+pretrained", "none"],
    ]
    result(tmp_path, "none", 0, plain[0], "c", "scratch")
    own = [key.setting for key in StudyResults.read(tmp_path).scratch()]
    assert own == ["scratch"]


def test_seeds_that_only_one_side_has_are_left_out(tmp_path: Path) -> None:
    near, plain = by_hand(tmp_path)
    for seed in (1, 3):
        (tmp_path / f"runs/main/none-{seed}.json").unlink()
    own = compare_conditions(StudyResults.read(tmp_path))[0]
    assert own.verdict.seeds == 3
    some = [0, 2, 4]
    expected = near[some, 0].mean() - plain[some, 0].mean()
    assert own.verdict.difference == pytest.approx(expected)


def test_results_of_another_corpus_are_refused(tmp_path: Path) -> None:
    near, _ = by_hand(tmp_path)
    result(tmp_path, "knn", 2, near[2], corpus="another")
    with pytest.raises(UserError, match="is of another corpus"):
        StudyResults.read(tmp_path)
    with pytest.raises(UserError, match="holds no results"):
        StudyResults.read(tmp_path / "empty")


def test_a_page_gets_tables_between_its_marks_and_keeps_its_words() -> None:
    page = (
        "words\n<!-- tiny one -->\nold\n<!-- end -->\nmore\n<!-- study one -->\nits\n<!-- end -->\n"
    )
    made = report.fill(page, "tiny", {"one": ("Heading", "| new |\n")})
    assert made == page.replace("old\n", "| new |\n")
    assert report.fill(made, "tiny", {}) == made


# What is published


def published() -> list[str]:
    """Scales with results, but for the rehearsal."""
    kept = (own for own in sorted(PUBLISHED.iterdir()) if own.name != "tiny")
    return [own.name for own in kept if (own / "runs").is_dir()]


@pytest.mark.parametrize("preset", published())
def test_published_tables_are_made_from_the_published_runs(preset: str) -> None:
    """Every table of the study's page, and of the first screen of the README."""
    study = Study(preset, {})
    found = StudyResults.read(study.results)
    made = compare_conditions(found)
    blocks = {name: (head, text) for name, head, text in tables.blocks(found, made) if text}
    marks = 0
    for page in report.pages(study):
        text = page.read_text()
        marks += len(re.findall(rf"<!-- {preset} ", text))
        assert report.fill(text, preset, blocks) == text, page
    assert marks
    with (study.results / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['top1']:.6g}" for row in run_rows(found)] == [row["top1"] for row in rows]


BLOCK = re.compile(r"<!-- \S+ \S+ -->\n.*?<!-- end -->|```.*?```", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+")
SUMMARIES = ("In short", "README", "What did not work, and what is missing")
"""Sections whose numbers may be of any table; others have their own, and that of encoders."""


def numbers(text: str) -> set[str]:
    return {f".{own.split('.')[1]}" if own[0] == "0" else own for own in DECIMAL.findall(text)}


def sections(page: str) -> dict[str, str]:
    """What stands under each heading of the second level."""
    return {own.partition("\n")[0]: own for own in re.split(r"^## ", page, flags=re.M)[1:]}


def test_numbers_in_the_words_stand_in_the_tables_beside_them() -> None:
    """So that words do not stay behind when more is run. Numbers with a point only."""
    page = (PUBLISHED / "README.md").read_text()
    first, _, _ = (ROOT / "README.md").read_text().partition("\n## ")
    every = "".join(re.findall(r"<!-- .*?<!-- end -->", page, re.DOTALL))
    encoders = re.findall(r"<!-- \S+ encoders -->.*?<!-- end -->", page, re.DOTALL)[0]
    seen = 0
    for head, text in {**sections(page), "README": first}.items():
        beside = "".join(BLOCK.findall(text)) + encoders
        words = numbers(BLOCK.sub("", text)) - NOT_MEASURED.get(head, set())
        assert words <= numbers(every if head in SUMMARIES else beside), head
        seen += len(words)
    assert seen > 100


NOT_MEASURED = {
    "What did not work, and what is missing": {".1"}  # a parameter
}


@pytest.mark.parametrize("preset", published())
def test_published_runs_are_of_the_preset_as_it_is(preset: str, tmp_path: Path) -> None:
    """What a stranger would run is what was run, but for where the images are."""
    study = Study(preset, {}, tmp_path, tmp_path)
    found = StudyResults.read(Study(preset, {}).results)
    settings_of = {
        experiment: [*EXPERIMENTS[experiment].settings(parse(study.content()), 9000)]
        for experiment in EXPERIMENTS
    }
    settings = {own.name: own for every in settings_of.values() for own in every}
    for key, runs in found.runs.items():
        own = settings[key.setting]
        expected = study.content_of(own.encoder, own.overrides)
        for run in runs:
            assert run["changed"] == json.loads(json.dumps(own.overrides))
            for group in ("pretrain", "retrieval", "train", "evaluate"):
                assert run["parameters"][group] == expected[group], key


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_on_tiny(experiment: str, tmp_path: Path) -> None:
    study = Study("tiny", {}, tmp_path / "work", tmp_path / "found")
    running.run(study, experiment)
    if experiment == "wider":  # tiny has no second source
        assert not [*study.results.glob("runs/*/*.json")]
        return
    report.run(study)
    assert (study.results / "tables.md").is_file()
