"""Runs an experiment: prepares what its classifiers need, then trains and tests what is missing.

Everything heavy lies in `data/study/`, a folder for each encoder and each setting, named by
what went into it; each is a rapipe project of its own, made by the stages of the pipeline. What
is worth keeping of a classifier is one JSON file in `results/study/`, and a classifier that has
its file is not trained again. So a run that was interrupted goes on with the same command, and
the same command started twice shares the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, together
from rapipe.errors import UserError
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.links import link
from rapipe.io.locks import file_lock
from rapipe.io.tables import fingerprint, write_checksummed, write_json
from rapipe.progress import say
from study.experiments import ENCODERS, EXPERIMENTS, RANDOM, TASK, WIDER, Setting
from study.records import classifier_record, encoder_record, has_record, read_record
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


def run(study: Study, experiment: str, seeds: int = 0, retrievals: Sequence[str] = ()) -> None:
    """Run an experiment, but for what has been run before.

    Args:
        seeds: only so many, where a setting has more; 0 for all that it has.
        retrievals: only these, `none` or strategies; nothing for all.
    """
    preset = parse(study.content())
    choices = ("none", *preset.retrieval.strategies)
    for name in retrievals:
        if name not in choices:
            raise UserError(f"--retrieval {name}: choose from {', '.join(choices)}")
    for setting in EXPERIMENTS[experiment].settings(preset, _memory_rows(study)):
        content = study.content_of(setting.encoder, setting.overrides)
        params = parse(content)
        public = study.public(content)
        missing = [
            variant
            for variant in setting.variants(params)
            if (not seeds or variant.seed in params.classifiers.seeds[:seeds])
            and (not retrievals or variant.retrieval in retrievals)
            and not has_record(study.classifier_file(setting, variant), public)
        ]
        if missing:
            encoder = make_encoder(study, setting.encoder)
            folder = _prepare(study, setting, content, encoder)
            shared = {
                "preset": study.preset,
                "piece": experiment,
                "setting": setting.name,
                "command": study.command(experiment),
                "changed": setting.overrides,
                "parameters": public,
                "encoder": {"kind": setting.encoder, "folder": encoder.name},
            }
            for group in together(params, missing):
                files = {variant: study.classifier_file(setting, variant) for variant in group}
                with working_in(folder, content):
                    _classifiers(files, shared)


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
            with working_in(folder, content):
                if set(setting.retrievals) != {"none"}:
                    _stage(prefetch.run)
                _stage(initialise.run)
                Path("ready").touch()
    return folder


def _classifiers(files: Mapping[Variant, Path], shared: dict[str, Any]) -> None:
    """Train and test classifiers at once, unless another process does; keep what is worth keeping.

    Args:
        files: of their records.
        shared: what these have in common.
    """
    from rapipe.pipeline.running.stage import name_of

    first = next(iter(files))
    network = first.name if len(files) == 1 else f"{first.backbone}-s{first.seed}"
    with file_lock(Path(f"{network}.lock").absolute(), f"trains {network}", wait=False) as acquired:
        parameters = shared["parameters"]
        group = tuple(v for v, file in files.items() if not has_record(file, parameters))
        if not acquired or not group:
            return
        name = name_of(group)
        say(f"{shared['piece']} / {shared['setting']} / {name}")
        # then its seconds are of the rest
        resumed = any(paths.CHECKPOINTS.glob(f"{group[0].name}-*"))
        if not all(is_intact(paths.MODELS / v.name) for v in group):  # else it was being tested
            _variants_stage("train", group)
        _variants_stage("evaluate", group)
        for variant in group:
            record = {**shared, "variant": asdict(variant), "resumed": resumed}
            write_checksummed(files[variant], {**record, **classifier_record(variant, group)})
        for variant in group:
            shutil.rmtree(paths.EVIDENCE / variant.name)
            shutil.rmtree(paths.MODELS / variant.name)


def _stage(run: Callable[[Params], None], name: str = "", module: Any = None) -> None:
    """A stage, as dvc.yaml would run it: with its locks, and what it took."""
    from rapipe.pipeline.running.stage import run_stage

    run_stage(run, name, module)


def _variants_stage(stage: str, group: tuple[Variant, ...]) -> None:
    from rapipe.pipeline.running.check_names import load_checked
    from rapipe.pipeline.running.stage import run_variants

    run_variants(stage, load_checked(paths.PARAMS), *group)
