"""dvc.yaml against the code: dependencies, parameters, names."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from imports import closure, is_exempt

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.config.yaml_text import read_yaml
from rapipe.pipeline.running import whole
from rapipe.pipeline.running.fresh import RETRIEVAL, SELECTING

STAGES: dict[str, Any] = read_yaml((ROOT / "dvc.yaml").read_text())["stages"]


def code_of(stage: str) -> list[str]:
    """The files and folders of code among a stage's deps."""
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith("rapipe/")]


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def stale_after(file: str) -> set[str]:
    """The stages that run again when a file is edited, and those that depend on their outputs."""
    return downstream(
        {stage for stage in STAGES if any(covers(dep, file) for dep in code_of(stage))}
    )


def downstream(stale: set[str]) -> set[str]:
    """These stages, and those that depend on their outputs."""
    for stage, facts in STAGES.items():  # in the order of the pipeline
        deps = [dep.split("/SHA256SUMS")[0] for dep in facts["deps"]]
        for earlier in stale - {stage}:
            outs = [next(iter(out)) if isinstance(out, dict) else out for out in outs_of(earlier)]
            if any(covers(out.split("/$")[0], dep.split("/$")[0]) for out in outs for dep in deps):
                stale = stale | {stage}
    return stale


def outs_of(stage: str) -> list[Any]:
    return [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", ())]


@pytest.mark.parametrize("stage", STAGES)
def test_code_is_the_import_closure_by_folders(stage: str) -> None:
    """All that a stage may run is declared, and nothing is of which it runs no line."""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    needed = {file for file in closure(f"rapipe/pipeline/{stage}.py") if not is_exempt(file)}
    undeclared = {file for file in needed if not any(covers(dep, file) for dep in code_of(stage))}
    assert not undeclared
    unneeded = {dep for dep in code_of(stage) if not any(covers(dep, file) for file in needed)}
    assert not unneeded


TRAINED = {"train", "evaluate", "report"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("rapipe/classifier/fusions/cross_attention.py", TRAINED),
        ("rapipe/report/page.py", {"report"}),
        ("rapipe/evaluation/comparisons.py", {"report"}),
        ("rapipe/evaluation/measures/drift.py", {"evaluate", "report"}),
        ("rapipe/pretraining/objectives/byol.py", set(STAGES) - {"generate", "corpus"}),
        ("rapipe/pipeline/running/locks.py", set()),
        ("rapipe/config/schema.py", set()),
    ],
)
def test_an_edit_runs_again_what_it_changes(file: str, stages: set[str]) -> None:
    assert (ROOT / file).is_file()
    assert stale_after(file) == stages


def test_stages_are_those_of_the_design() -> None:
    assert (
        list(STAGES)
        == list(whole.STAGES)
        == [
            "generate",
            "corpus",
            "pretrain",
            "embed",
            "prefetch",
            "audit",
            "baselines",
            "initialise",
            "train",
            "evaluate",
            "report",
        ]
    )


def test_no_value_reaches_a_command() -> None:
    """DVC would write it into what a shell reads."""
    assert "${" not in (ROOT / "dvc.yaml").read_text()


def test_plots_are_of_columns_that_the_report_writes(tiny: tuple[Path, Params]) -> None:
    """By a template with a panel a backbone, from the same table."""
    header = (tiny[0] / paths.CURVES).read_text().partition("\n")[0].split(",")
    template = (ROOT / ".dvc/plots/by_classifier.json").read_text()
    used = set(re.findall(r"datum\.(\w+)", template)) - {"classifier"}
    assert used | {"backbone", "retrieval"} <= set(header)
    plots = read_yaml((ROOT / "dvc.yaml").read_text())["plots"]
    assert len(plots) == 4
    for plot in plots:
        [(_, options)] = plot.items()
        assert options["template"] == "by_classifier"
        assert {options["x"], options["y"][str(paths.CURVES)]} <= set(header)
    assert str(paths.CURVES) in [next(iter(out)) for out in STAGES["report"]["outs"]]


class Recorder:
    """Stands for a dataclass of parameters and notes the full keys that are read."""

    def __init__(self, real: Any, seen: set[str], prefix: str = "") -> None:
        self.__dict__.update(_real=real, _seen=seen, _prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        names = [field.name for field in dataclasses.fields(self._real)]
        if name not in names and dataclasses.is_dataclass(value):  # a spec of some of its keys
            self._seen.update(self._prefix + field.name for field in dataclasses.fields(value))
            return value
        if isinstance(derived := getattr(type(self._real), name, None), property):
            return derived.__get__(self)  # of others, which are noted
        key = self._prefix + name
        if dataclasses.is_dataclass(value):
            return Recorder(value, self._seen, key + ".")
        self._seen.add(key)
        return value


@pytest.fixture(autouse=True)
def unrecorded_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read only to compare it with what the artefacts before were made with is not noted.

    The stages that make those declare it, and run before.
    """
    for name, function in vars(deciding).items():
        if name.startswith(("of_", "explicit_")):

            def compared(params: Any, *more: Any, function: Any = function) -> Any:
                return function(getattr(params, "_real", params), *more)

            monkeypatch.setattr(deciding, name, compared)


@pytest.mark.parametrize("stage", ["corpus", "embed", "prefetch", "audit", "baselines", "report"])
def test_params_read_are_declared(
    stage: str,
    tiny: tuple[Path, Params],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undrawn: None,
) -> None:
    seen: set[str] = set()
    shutil.copytree(tiny[0], tmp_path / "project")  # others read the pictures of tiny
    monkeypatch.chdir(tmp_path / "project")
    importlib.import_module(f"rapipe.pipeline.{stage}").run(Recorder(tiny[1], seen))
    check_declared(STAGES[stage].get("params", []), seen)


@pytest.mark.parametrize("stage", ["generate", "corpus"])
def test_params_read_for_generated_images_are_declared(
    stage: str,
    with_generated: tuple[Path, Params],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[str] = set()
    shutil.copytree(with_generated[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    generating = importlib.import_module("rapipe.generation.generate")
    library = generating.generate

    def recorded(images: Any, recipe: Any, **more: Any) -> Any:
        seen.update(f"generate.{field.name}" for field in dataclasses.fields(recipe._real))
        return library(images, recipe._real, **more)

    monkeypatch.setattr(generating, "generate", recorded)
    importlib.import_module(f"rapipe.pipeline.{stage}").run(Recorder(with_generated[1], seen))
    check_declared(STAGES[stage].get("params", []), seen)


def test_params_read_to_initialise_are_declared(
    in_tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    for module in ("initialise", "pretrain"):
        monkeypatch.setattr(f"rapipe.pipeline.{module}.asdict", as_dict)
    for name in ("corpus", "encoder"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(Path("data", name).absolute())
    monkeypatch.chdir(tmp_path)
    entries = ("alexnet+pretrained", "resnet18+checkpoint", "alexnet+distilled+noise")
    grid = dataclasses.replace(
        in_tiny.classifiers, backbones=entries, init="data/encoder", distill="resnet18"
    )
    params = dataclasses.replace(in_tiny, classifiers=grid)
    importlib.import_module("rapipe.pipeline.initialise").run(Recorder(params, seen))
    check_declared(STAGES["initialise"].get("params", []), seen)


@pytest.mark.parametrize("retrieval", ["none", "knn"])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_params_read_for_a_variant_are_declared(
    stage: str, retrieval: str, in_tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    module = importlib.import_module(f"rapipe.pipeline.{stage}")
    monkeypatch.setattr(f"rapipe.pipeline.{stage}.asdict", as_dict, raising=False)
    v = next(v for v in variants(in_tiny) if v.retrieval == retrieval and v.backbone == "alexnet")
    module.run(Recorder(in_tiny, seen), v)
    params = [key for key in STAGES[stage]["params"] if key not in SELECTING[stage]]
    if retrieval == "none":
        params = [key for key in params if not key.startswith(RETRIEVAL)]
    else:
        seen |= {"retrieval.k", "retrieval.bank"}  # read when the variant was made
    check_declared(params, seen)


def as_dict(record: Any) -> dict[str, Any]:
    """`dataclasses.asdict` for what a recorder stands for; what is read of it is not noted."""
    return dataclasses.asdict(getattr(record, "_real", record))


def check_declared(params: list[str], seen: set[str]) -> None:
    """What is declared is what has been read."""
    undeclared = {k for k in seen if not any(k == p or k.startswith(p + ".") for p in params)}
    assert not undeclared
    unread = {p for p in params if not any(k == p or k.startswith(p + ".") for k in seen)}
    assert not unread
