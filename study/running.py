"""Runs an experiment: prepares what its classifiers need, then trains and tests what is missing.

Everything heavy lies in `data/study/`, a folder for each encoder and each setting, named by
what went into it; each is a rapipe project of its own, made by the stages of the pipeline. What
is worth keeping of a classifier is one JSON file in `results/study/`, and a classifier that has
its file is not trained again. So a run that was interrupted goes on with the same command, and
the same command started twice shares the work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.loading import parse
from rapipe.config.names import PRETRAINED
from rapipe.config.schema import Params
from rapipe.config.variants import Project, Variant, has_own_network
from rapipe.errors import UserError
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.links import link
from rapipe.io.locks import file_lock
from rapipe.io.tables import fingerprint, read_json, write_checksummed, write_json
from rapipe.pipeline.running.costs import record_costs
from rapipe.progress import say
from study.experiments import ENCODERS, EXPERIMENTS, RANDOM, TASK, WIDER, Setting
from study.records import GRID, classifier_record, encoder_record, has_record, read_record
from study.work import ROOT, Content, Overrides, override, preset_content, working_in

WORK, RESULTS = ROOT / "data/study", ROOT / "results/study"
SHARED = (paths.CORPUS, paths.ENCODER, paths.STORE, paths.STORE_MANIFEST, paths.PRECISION)
"""What a setting takes from its encoder's folder."""
DECIDES = ("seed", "corpus", "pretrain")
"""Groups of parameters that decide what an encoder is."""


@dataclass(frozen=True)
class Study:
    """One scale of the study.

    Args:
        preset: its name.
        sources: Parquet files or folders that stand in for sources of the preset, by name.
        work: where encoders and classifiers go.
        pages: where the results of every scale go.
    """

    preset: str
    sources: Mapping[str, Path]
    work: Path = WORK
    pages: Path = RESULTS

    @property
    def results(self) -> Path:
        """The folder of this scale."""
        return self.pages / self.preset

    def content(self, overrides: Overrides | None = None) -> Content:
        """The preset's parameters, with some of them changed."""
        content = preset_content(self.preset)
        sources = {source["name"]: source for source in content["corpus"]["sources"]}
        for name, path in self.sources.items():
            if name not in sources:
                raise UserError(
                    f"--source {name}: the preset {self.preset} has no source of this name; "
                    f"choose from {', '.join(sources)}"
                )
            sources[name].update(kind="parquet", path=str(path.absolute()))
        return override(content, overrides or {})

    def content_of(self, kind: str, overrides: Overrides | None = None) -> Content:
        """The parameters of an encoder's settings; only the wider one has memory sources."""
        content = override(self.content(overrides), ENCODERS.get(kind, {}))
        if kind != WIDER:
            corpus = content["corpus"]
            corpus["sources"] = [source for source in corpus["sources"] if source["role"] == "task"]
        return content

    def public(self, content: Content) -> Content:
        """Parameters without where this machine has its files."""
        sources = [
            {
                **source,
                "path": Path(source["path"]).name
                if source["name"] in self.sources
                else source["path"],
            }
            for source in content["corpus"]["sources"]
        ]
        return {**content, "corpus": {**content["corpus"], "sources": sources}}

    def command(self, experiment: str) -> str:
        """How to run an experiment."""
        options = (f" --source {name}={path.name}" for name, path in self.sources.items())
        return f"python -m study {experiment} --preset {self.preset}{''.join(options)}"

    def encoder_file(self, kind: str) -> Path:
        """The record of an encoder."""
        return self.results / f"encoder-{kind}.json"

    def classifier_file(self, setting: Setting, variant: Variant) -> Path:
        """The record of a classifier."""
        return self.results / "runs" / setting.name / f"{variant.name}.json"


@dataclass(frozen=True)
class Asked:
    """What an experiment still lacks of a setting."""

    experiment: str
    setting: Setting
    content: Content
    params: Params
    public: Content
    """The content without where this machine has its files."""

    def network(self, variant: Variant) -> str:
        """Fingerprint of all that decides what the network of a variant learns."""
        content = self.content
        parts: list[Any] = [content["seed"], content["corpus"], content["train"]]
        classifiers = {k: v for k, v in content["classifiers"].items() if k not in GRID}
        parts += [classifiers, content["retrieval"]["query_noise"], variant.backbone, variant.seed]
        name = variant.classifier
        if name.initial == PRETRAINED or name.distilled:
            parts.append(self.setting.encoder)
        if has_own_network(self.params, variant):
            parts += [self.setting.name, variant.name]
        return fingerprint(parts)


@dataclass(frozen=True)
class Place:
    """Where a setting's classifiers are made, and the name of its encoder's folder."""

    folder: Path
    encoder: str


def run(study: Study, *experiments: str, seeds: int = 0, retrievals: Sequence[str] = ()) -> None:
    """Run experiments, but for what has been run before.

    Where fusions learn apart, classifiers that have one network are trained beside it, of all these
    experiments at once: whatever they look up, and in which memory.

    Args:
        experiments: names in `EXPERIMENTS`.
        seeds: only so many, where a setting has more; 0 for all that it has.
        retrievals: only these, `none` or strategies; nothing for all.
    """
    preset = parse(study.content())
    choices = ("none", *preset.retrieval.strategies)
    for name in retrievals:
        if name not in choices:
            raise UserError(f"--retrieval {name}: choose from {', '.join(choices)}")
    rows = _memory_rows(study)
    groups: dict[str, list[tuple[Asked, Variant]]] = {}
    for experiment in experiments:
        for setting in EXPERIMENTS[experiment].settings(preset, rows):
            for asked, variant in _missing(study, experiment, setting, seeds, retrievals):
                groups.setdefault(asked.network(variant), []).append((asked, variant))
    places: dict[str, Place] = {}
    for network, members in groups.items():
        _classifiers(study, network, members, places)


def _missing(
    study: Study, experiment: str, setting: Setting, seeds: int, retrievals: Sequence[str]
) -> Iterator[tuple[Asked, Variant]]:
    """The classifiers of a setting that have no record."""
    content = study.content_of(setting.encoder, setting.overrides)
    params, public = parse(content), study.public(content)
    asked = Asked(experiment, setting, content, params, public)
    for variant in setting.variants(params):
        if (
            (not seeds or variant.seed in params.classifiers.seeds[:seeds])
            and (not retrievals or variant.retrieval in retrievals)
            and not has_record(study.classifier_file(setting, variant), public)
        ):
            yield asked, variant


def _memory_rows(study: Study) -> int:
    """Rows of the memory of the task's encoder, which is made if nothing says how many."""
    file = study.encoder_file(TASK)
    expected = study.public(study.content_of(TASK))
    record = read_record(file) if file.exists() else {}
    if not record or any(record["parameters"][group] != expected[group] for group in DECIDES):
        make_encoder(study, TASK)
        record = read_record(file)
    return int(record["memory"])


def make_encoder(study: Study, kind: str) -> Path:
    """The folder of an encoder and its memory, made if it is not there.

    Its scores go to the results: how good the encoder is, what it took, what the audit found.
    """
    from rapipe.pipeline import audit, corpus, embed, prefetch, pretrain

    _check_images(study)
    content = study.content_of(kind)
    decides = {name: content[name] for name in DECIDES}
    key = fingerprint([kind, decides, content["train"]["precision"]])
    folder = study.work / study.preset / f"encoder-{kind}-{key}"
    with (
        file_lock(folder.with_suffix(".lock"), f"makes the {kind} encoder"),
        working_in(folder, content),
    ):
        file = study.encoder_file(kind)
        if Path("done").exists() and file.exists():
            return folder
        if not is_intact(paths.CORPUS):
            _stage(corpus.run)
        if not is_intact(paths.ENCODER):
            _stage(pretrain.run if kind != RANDOM else untrained, "pretrain", pretrain)
        for stage in (embed, prefetch, audit):
            _stage(stage.run)
        shared = {
            "preset": study.preset,
            "encoder": kind,
            "command": study.command("encoder" if kind == TASK else kind),  # what makes it
            "parameters": study.public(content),
        }
        write_checksummed(file, {**shared, **encoder_record()})
        Path("done").touch()
    return folder


def _check_images(study: Study) -> None:
    """Raise `UserError` if there are results of other images: they would be made again."""
    file = study.encoder_file(TASK)
    if file.exists():
        record = read_record(file)
        previous, present = (
            [[source[key] for key in ("name", "kind", "path")] for source in corpus["sources"]]
            for corpus in (
                record["parameters"]["corpus"],
                study.public(study.content_of(TASK))["corpus"],
            )
        )
        if previous != present:
            raise UserError(
                f"{study.results} holds results of other images, made by `{record['command']}`: "
                "give the same --source to every experiment, or remove that folder to begin anew"
            )


def untrained(params: Params) -> None:
    """The encoder as it was before pretraining: the baseline for what pretraining is worth."""
    import torch

    from rapipe.device import device
    from rapipe.encoder.encoder import Encoder
    from rapipe.pipeline import pretrain
    from rapipe.pipeline.inputs import PARAMS, labelled
    from rapipe.pretraining.pretrain import score

    source = pretrain.Source.of(params)
    torch.manual_seed(params.seed)
    encoder = Encoder(source.spec).to(device())
    facts = {PARAMS: pretrain.facts_of(params, source), "trained": False}
    scores = score(encoder, labelled("train"), labelled("validation"))
    with atomic_folder(paths.ENCODER) as folder:
        encoder.write(folder, {**facts, "scores": scores})
    with atomic_folder(paths.PRETRAINING) as folder:
        write_json(folder / "scores.json", scores)


def _prepare(study: Study, setting: Setting, content: Content, encoder: Path) -> Path:
    """The folder of a setting, with its neighbours and what its classifiers start from."""
    from rapipe.pipeline import initialise, prefetch

    key = fingerprint([encoder.name, content])
    folder = study.work / study.preset / f"{setting.name}-{key}"
    with file_lock(folder.with_suffix(".lock"), f"prepares {setting.name}"):
        if not (folder / "ready").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for path in SHARED:
                link(encoder / path, folder / path)
            queries = folder / paths.QUERIES  # the same images are embedded once for all settings
            (encoder / paths.QUERIES).mkdir(parents=True, exist_ok=True)
            queries.parent.mkdir(parents=True, exist_ok=True)
            queries.unlink(missing_ok=True)
            queries.symlink_to(os.path.relpath(encoder / paths.QUERIES, queries.parent))
            with working_in(folder, content):
                if set(setting.retrievals) != {"none"}:
                    _stage(prefetch.run)
                _stage(initialise.run)
                Path("ready").touch()
    return folder


def _classifiers(
    study: Study,
    network: str,
    members: Sequence[tuple[Asked, Variant]],
    places: dict[str, Place],
) -> None:
    """Train and test classifiers at once, unless another process does; keep what is worth keeping.

    Args:
        network: fingerprint of the one that they have.
        places: of settings that are prepared, by their names; gets those of these.
    """
    lock = study.work / study.preset / f"network-{network}.lock"
    with file_lock(lock, f"trains {members[0][1].name}", wait=False) as acquired:
        left = [
            (asked, variant)
            for asked, variant in members
            if not has_record(study.classifier_file(asked.setting, variant), asked.public)
        ]
        if not acquired or not left:
            return
        settings = {asked.setting.name: asked for asked, _ in left}
        for name, asked in settings.items():
            if name not in places:
                encoder = make_encoder(study, asked.setting.encoder)
                folder = _prepare(study, asked.setting, asked.content, encoder)
                places[name] = Place(folder, encoder.name)
        projects = [
            Project(
                places[name].folder,
                asked.params,
                tuple(variant for own, variant in left if own.setting.name == name),
            )
            for name, asked in settings.items()
        ]
        say(f"{', '.join(settings)} / {_name(projects)}")
        facts = _make(projects)
        for asked, variant in left:
            place = places[asked.setting.name]
            shared = {
                "preset": study.preset,
                "piece": asked.experiment,
                "setting": asked.setting.name,
                "command": study.command(asked.experiment),
                "changed": asked.setting.overrides,
                "parameters": asked.public,
                "encoder": {"kind": asked.setting.encoder, "folder": place.encoder},
                "variant": asdict(variant),
                **facts,
            }
            with chdir(place.folder):
                record = {**shared, **classifier_record(variant)}
            write_checksummed(study.classifier_file(asked.setting, variant), record)
        for project in projects:
            for variant in project.variants:
                shutil.rmtree(project.folder / paths.EVIDENCE / variant.name)
                shutil.rmtree(project.folder / paths.MODELS / variant.name)


def _name(projects: Sequence[Project]) -> str:
    """Of the first classifier, and how many more there are."""
    from rapipe.pipeline.running.stage import name_of

    return name_of(tuple(variant for project in projects for variant in project.variants))


def _make(projects: Sequence[Project]) -> dict[str, Any]:
    """Train and test classifiers; how many there are, and the seconds of all."""
    from rapipe.pipeline import evaluate, train

    folder, _, (first, *_) = projects[0]
    whole = _name(projects)
    resumed = any((folder / paths.CHECKPOINTS).glob(f"{first.name}-*"))
    costs = {
        name: folder / paths.COSTS / f"{stage}-{whole}.json"
        for name, stage in {"train": "train", "eval": "evaluate"}.items()
    }
    models = [own.folder / paths.MODELS / v.name for own in projects for v in own.variants]
    if not costs["train"].exists() or not all(map(is_intact, models)):
        _stage_across(train.run_across, costs["train"], projects)
    _stage_across(evaluate.run_across, costs["eval"], projects)
    return {
        "resumed": resumed,  # then its seconds are of the rest
        "seconds": {name: float(read_json(c, "costs")["seconds"]) for name, c in costs.items()},
        "together": len(models),
    }


def _stage_across(run: Callable[..., None], costs: Path, projects: Sequence[Project]) -> None:
    """A stage for all of them, and what it took: in the first's folder."""
    with chdir(projects[0].folder), record_costs(costs.stem):
        run(*projects)


def _stage(run: Callable[[Params], None], name: str = "", module: Any = None) -> None:
    """A stage, as dvc.yaml would run it: with its locks, and what it took."""
    from rapipe.pipeline.running.stage import run_stage

    run_stage(run, name, module)
