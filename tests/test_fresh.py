"""Which variants a stage makes again: those of which something has changed that they depend on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_provenance import OTHERS, changed

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, together, variants
from rapipe.pipeline.running import stage as running
from rapipe.pipeline.running.fresh import SELECTING, Freshness

STAGES = tuple(SELECTING)


@pytest.fixture
def project(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of the tiny folder in which every variant is up to date, with its code."""
    folder = Path(shutil.copytree(tiny[0], tmp_path / "project"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "rapipe", folder / "rapipe")
    monkeypatch.chdir(folder)
    for stage in STAGES:
        freshness = Freshness(stage, tiny[1])
        for variant in variants(tiny[1]):
            freshness.note(variant, freshness.made_from(variant))
    return tiny[1]


def stale(params: Params, stage: str) -> list[Variant]:
    freshness = Freshness(stage, params)
    return [variant for variant in variants(params) if not freshness.is_fresh(variant)]


def edit(file: str | Path) -> None:
    Path(file).write_text(Path(file).read_text() + "\n")


def retrieving(params: Params) -> list[Variant]:
    return [variant for variant in variants(params) if variant.retrieval != "none"]


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_made_again_that_stays_the_same(stage: str, project: Params) -> None:
    assert not stale(project, stage)


@pytest.mark.parametrize(
    ("key", "value", "stage", "again"),
    [
        ("train.epochs", OTHERS["train.epochs"], "train", variants),
        ("retrieval.gate", True, "train", retrieving),
        ("evaluate.noise_std", [0.3], "train", lambda _: []),
        ("evaluate.noise_std", [0.3], "evaluate", variants),
        ("retrieval.prune", 0.5, "evaluate", retrieving),
        ("retrieval.k", 2, "evaluate", retrieving),
        ("seed", 1, "train", variants),
    ],
)
def test_a_parameter_makes_again_what_depends_on_it(
    key: str, value: Any, stage: str, again: Any, project: Params
) -> None:
    params = changed(project, key, value)
    assert stale(params, stage) == again(params)


@pytest.mark.parametrize("stage", STAGES)
def test_one_more_variant_is_made_alone(stage: str, project: Params) -> None:
    [seed] = project.classifiers.seeds
    params = changed(project, "classifiers.seeds", [seed, seed + 1])
    assert {v.seed for v in stale(params, stage)} == {seed + 1}
    assert len(stale(params, stage)) == len(variants(project))


@pytest.mark.parametrize("stage", STAGES)
def test_code_makes_all_again(stage: str, project: Params) -> None:
    edit("rapipe/classifier/fusions/cross_attention.py")
    assert stale(project, stage) == variants(project)


@pytest.mark.parametrize("stage", STAGES)
def test_other_code_makes_nothing_again(stage: str, project: Params) -> None:
    edit("rapipe/report/page.py")
    assert not stale(project, stage)


def test_an_input_makes_again_whom_it_belongs_to(project: Params) -> None:
    variant = retrieving(project)[0]
    edit(paths.NEIGHBOURS / variant.retrieval / "SHA256SUMS")
    of_strategy = [v for v in variants(project) if v.retrieval == variant.retrieval]
    assert stale(project, "train") == of_strategy
    edit(paths.INITIAL / variant.backbone / "SHA256SUMS")
    of_backbone = [v for v in variants(project) if v.backbone == variant.backbone]
    assert {*stale(project, "train")} == {*of_strategy, *of_backbone}


def test_an_output_that_is_not_what_was_made_is_made_again(project: Params) -> None:
    first, second, *others = variants(project)
    weights = paths.MODELS / first.name / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.rmtree(paths.MODELS / second.name)
    assert stale(project, "train") == [first, second]
    (paths.RUNS / f"{first.name}.json").unlink()
    (paths.MADE / "evaluate" / f"{others[0].name}.json").write_text("{}")
    assert {*stale(project, "evaluate")} == {first, second, others[0]}


def test_what_was_made_before_comes_back(project: Params) -> None:
    """Where something else has taken its place; unless what is kept is damaged."""
    first, second, *_ = variants(project)
    for variant in (first, second):
        shutil.rmtree(paths.MODELS / variant.name)
    freshness = Freshness("train", project)
    assert freshness.restore(first, freshness.made_from(first))
    assert stale(project, "train") == [second]
    [kept] = paths.VARIANTS_CACHE.glob(f"train-{second.name}-*")
    [weights] = kept.rglob("weights.safetensors")
    weights.write_bytes(b"damaged")
    assert not freshness.restore(second, freshness.made_from(second))
    longer = Freshness("train", changed(project, "train.epochs", OTHERS["train.epochs"]))
    assert not longer.restore(first, longer.made_from(first))


def test_a_stage_makes_what_is_out_of_date_and_keeps_the_rest(
    project: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where those that were made with it, beside one network, stay."""
    (first, second, *others), *_ = together(project, variants(project))
    assert others
    pair = [paths.MODELS / v.name / "weights.safetensors" for v in (first, second)]
    before = {file: file.stat().st_ino for file in paths.MODELS.rglob("*.safetensors")}
    contents = [file.read_bytes() for file in pair]
    count = len(variants(project))
    for cached in (True, False):
        for file in pair:
            shutil.rmtree(file.parent)
        if not cached:
            shutil.rmtree(paths.VARIANTS_CACHE)
        running.run_stale_variants("train")
        printed = capsys.readouterr().err
        assert f"{count - 2} of {count} are up to date, and stay" in printed
        assert (f"2 of {count} have been made before, and are taken" in printed) == cached
        assert ("epoch 1 " in printed) == (not cached)
    after = {file: file.stat().st_ino for file in paths.MODELS.rglob("*.safetensors")}
    assert {file for file in after if after[file] != before[file]} == {*pair}
    assert [file.read_bytes() for file in pair] == contents
    assert not stale(project, "train")
