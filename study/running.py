"""Runs a piece: makes what its classifiers need, then trains and tests what is not there yet.

Everything heavy lies in `data/study/`, a folder for each encoder and each setting, named by
what went into it; each is a rapipe project of its own, made by the stages of the pipeline. What
is worth keeping of a classifier is one JSON file in `results/study/`, and a classifier that has
its file is not trained again. So a run that was interrupted goes on with the same command, and
the same command started twice shares the work.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import __version__, paths
from rapipe.config import presets
from rapipe.config.loading import load, parse
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.io.tables import (
    fingerprint,
    parse_checksummed,
    read_json,
    write_checksummed,
    write_json,
)
from rapipe.pipeline.inputs import bank_card, checked, corpus_card, read_card, read_result
from rapipe.progress import say
from study.pieces import ENCODERS, EXPERIMENTS, OWN, RANDOM, WIDER, Overrides, Setting

ROOT = Path(__file__).parent.parent
WORK = ROOT / "data/study"
FOUND = ROOT / "results/study"
SHARED = (paths.CORPUS, paths.ENCODER, paths.STORE, paths.STORE_MANIFEST, paths.PRECISION)
"""What a setting takes from its encoder's folder."""
DECIDES = ("seed", "corpus", "pretrain")
"""Groups of parameters that decide what an encoder is."""
PACKAGES = ("torch", "lightly", "timm", "perceiver-pytorch", "faiss-cpu", "lancedb", "numpy")


@dataclass(frozen=True)
class Study:
    """One scale of the study.

    Args:
        preset: its name.
        sources: Parquet files or folders that stand in for sources of the preset, by name.
        work: where encoders and classifiers go.
        found: where results go.
    """

    preset: str
    sources: Mapping[str, Path]
    work: Path = WORK
    found: Path = FOUND

    @property
    def results(self) -> Path:
        """The folder of this scale."""
        return self.found / self.preset

    def params(self, sets: Overrides | None = None) -> dict[str, Any]:
        """The preset's parameters as a mapping, with some of them changed."""
        path = self.work / self.preset / "preset.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock"), "reads the preset"):
            path.unlink(missing_ok=True)
            presets.write(self.preset, path)
            content = _plain(load(path))
        own = content["corpus"]["sources"]
        known = [source["name"] for source in own]
        for name, place in self.sources.items():
            if name not in known:
                raise UserError(
                    f"--source {name}: the preset {self.preset} has no source of this name; "
                    f"choose from {', '.join(known)}"
                )
            source = own[known.index(name)]
            source.update(kind="parquet", path=str(place.absolute()))
        return _changed(content, sets or {})


def _changed(content: dict[str, Any], sets: Overrides) -> dict[str, Any]:
    """Parameters with some of them changed."""
    made = {group: dict(own) if isinstance(own, dict) else own for group, own in content.items()}
    for key, value in sets.items():
        group, name = key.split(".")
        made[group][name] = value
    return made


def _plain(params: Params) -> dict[str, Any]:
    """Parameters as YAML has them."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(params)))
    return content


def run(study: Study, piece: str, seeds: int = 0, retrievals: Sequence[str] = ()) -> None:
    """Run a piece, but for what has been run before.

    Args:
        seeds: only so many, where a setting has more; 0 for all that it has.
        retrievals: only these, `none` or strategies; nothing for all.
    """
    whole_preset = parse(study.params())
    known = ("none", *whole_preset.retrieval.strategies)
    for name in retrievals:
        if name not in known:
            raise UserError(f"--retrieval {name}: choose from {', '.join(known)}")
    rows = _rows(study)
    for setting in EXPERIMENTS[piece].settings(whole_preset, rows):
        content = _of_encoder(study.params(setting.sets), setting.encoder)
        params = parse(content)
        todo = [v for v in setting.variants(params) if not _done(study, piece, setting, v, content)]
        if seeds:
            todo = [v for v in todo if v.seed in params.train.seeds[:seeds]]
        if retrievals:
            todo = [v for v in todo if v.retrieval in retrievals]
        if todo:
            made = encoder(study, setting.encoder)
            folder = _prepared(study, setting, content, made)
            for v in todo:
                _classifier(study, piece, setting, v, content, folder, made)


def _check_images(study: Study) -> None:
    """Raise `UserError` if there are results of other images: they would be made again."""
    result = study.results / f"encoder-{OWN}.json"
    if result.exists():
        found = kept(result)
        there, here = (
            [[source[name] for name in ("name", "kind", "path")] for source in own["sources"]]
            for own in (
                found["parameters"]["corpus"],
                _public(study, _of_encoder(study.params(), OWN))["corpus"],
            )
        )
        if there != here:
            raise UserError(
                f"{study.results} holds results of other images, made by `{found['command']}`: "
                "give the same --source to every piece, or remove that folder to begin anew"
            )


def _of_encoder(content: dict[str, Any], kind: str) -> dict[str, Any]:
    """The parameters of an encoder's settings: memory sources belong to the wider one alone."""
    content = _changed(content, ENCODERS.get(kind, {}))
    corpus = content["corpus"]
    if kind != WIDER:
        task = [source for source in corpus["sources"] if source["role"] == "task"]
        corpus = {**corpus, "sources": task}
    return {**content, "corpus": corpus}


def encoder(study: Study, kind: str) -> Path:
    """The folder of an encoder and its memory; made if it is not there.

    Its scores go to the results: how good the encoder is, what it took, what the audit found.
    """
    from rapipe.pipeline import audit, corpus, embed, prefetch, pretrain

    _check_images(study)
    content = _of_encoder(study.params(), kind)
    decides = {name: content[name] for name in DECIDES}
    key = fingerprint([kind, decides, content["train"]["precision"]])
    folder = study.work / study.preset / f"encoder-{kind}-{key}"
    with (
        file_lock(folder.with_suffix(".lock"), f"makes the {kind} encoder"),
        _inside(folder, content),
    ):
        result = study.results / f"encoder-{kind}.json"
        if Path("done").exists() and result.exists():
            return folder
        if not is_intact(paths.CORPUS):
            _stage(corpus.run)
        if not is_intact(paths.ENCODER):
            _stage(pretrain.run if kind != RANDOM else untrained, "pretrain", pretrain)
        _stage(embed.run)
        _stage(prefetch.run)
        _stage(audit.run)
        write_checksummed(result, _encoder_card(study, kind, content))
        Path("done").touch()
    return folder


def untrained(params: Params) -> None:
    """The encoder as it was before pretraining: the floor for what pretraining is worth."""
    import torch

    from rapipe.device import device
    from rapipe.encoder.encoder import Encoder
    from rapipe.pipeline import pretrain
    from rapipe.pipeline.inputs import labelled
    from rapipe.training.precision import precision_of

    own = params.pretrain
    spec = pretrain.spec_of(params, own.encoder, own.width, own.stem)
    torch.manual_seed(params.seed)
    made = Encoder(spec).to(device())
    precision = precision_of(params.train.precision, paths.PRECISION)
    facts = {**pretrain.facts_of(params, spec, precision), "trained": False}
    scores = pretrain.scores(made, labelled("train"), labelled("validation"))
    with atomic_folder(paths.ENCODER) as folder:
        made.write(folder, {**facts, "scores": scores})
    with atomic_folder(paths.PRETRAINING) as folder:
        write_json(folder / "scores.json", scores)


def _encoder_card(study: Study, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """What the results keep of an encoder."""
    import csv

    from rapipe.evaluation import evidence
    from rapipe.pipeline.inputs import labelled
    from rapipe.pipeline.running import costs

    leakage = read_result(paths.LEAKAGE)
    alike = [int(row["test_id"]) for row in evidence.read_duplicates(leakage)]
    history: list[dict[str, Any]] = []
    if (paths.PRETRAINING / "history.csv").exists():
        with (paths.PRETRAINING / "history.csv").open() as file:
            history = [{k: _number(x) for k, x in row.items()} for row in csv.DictReader(file)]
    card = json.loads((paths.ENCODER / "card.json").read_text())
    return {
        "preset": study.preset,
        "encoder": kind,
        "command": command(study, "encoder" if kind == OWN else kind),  # whose piece makes it
        "parameters": _public(study, content),
        "corpus": _corpus_facts(),
        "weights": card["hash"],
        "memory": bank_card()["rows"],
        "store": json.loads(paths.STORE_MANIFEST.read_text())["sha256"],
        "scores": json.loads((paths.PRETRAINING / "scores.json").read_text()),
        "history": history,
        "leakage": leakage,
        "lookalikes": packed(np.isin(labelled("test").ids, alike)),
        "costs": {row["stage"]: row["seconds"] for row in costs.rows()},
        "machine": machine(),
    }


def _corpus_facts() -> dict[str, Any]:
    card = corpus_card()
    names = ("hash", "splits", "classes", "sources")
    return {name: card[name] for name in names if name in card}


def _prepared(study: Study, setting: Setting, content: dict[str, Any], made: Path) -> Path:
    """The folder of a setting, with its neighbours and what its classifiers start from."""
    from rapipe.pipeline import initialise, prefetch

    key = fingerprint([made.name, content])
    folder = study.work / study.preset / f"{setting.name}-{key}"
    with file_lock(folder.with_suffix(".lock"), f"prepares {setting.name}"):
        if not (folder / "ready").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for path in SHARED:
                _link(made / path, folder / path)
            with _inside(folder, content):
                if set(setting.retrievals) != {"none"}:
                    _stage(prefetch.run)
                _stage(initialise.run)
                Path("ready").touch()
    return folder


def _link(source: Path, target: Path) -> None:
    """The same files under another name: artefacts are replaced whole, never written into."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=_hard)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        _hard(source, target)


def _hard(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copy2(source, target)


def _classifier(
    study: Study,
    piece: str,
    setting: Setting,
    v: Variant,
    content: dict[str, Any],
    folder: Path,
    made: Path,
) -> None:
    """Train and test one classifier, unless another process does; keep what is worth keeping."""
    from rapipe.pipeline import evaluate, train

    lock = folder / f"{v.name}.lock"
    with file_lock(lock, f"trains {v.name}", wait=False) as mine, _inside(folder, content):
        if not mine or _done(study, piece, setting, v, content):
            return
        say(f"{piece} / {setting.name} / {v.name}")
        resumed = any(paths.CHECKPOINTS.glob(f"{v.name}-*"))  # then its seconds are of the rest
        if not is_intact(paths.MODELS / v.name):  # else it was interrupted while it was tested
            _stage_of(train.run, v)
        _stage_of(evaluate.run, v)
        found = _run_card(v)
        write_checksummed(
            result_of(study, piece, setting, v),
            {
                "preset": study.preset,
                "piece": piece,
                "setting": setting.name,
                "variant": asdict(v),
                "command": command(study, piece),
                "changed": setting.sets,
                "parameters": _public(study, content),
                "encoder": {"kind": setting.encoder, "folder": made.name},
                "corpus": corpus_card()["hash"],
                "seconds": {"train": _seconds("train", v), "eval": _seconds("evaluate", v)},
                "resumed": resumed,
                "machine": machine(),
                **found,
            },
        )
        shutil.rmtree(paths.EVIDENCE / v.name)
        shutil.rmtree(paths.MODELS / v.name)


def _seconds(stage: str, v: Variant) -> float:
    """What a stage took of a classifier."""
    card = read_json(paths.COSTS / f"{stage}-{v.name}.json", stage)
    return float(card["seconds"])


def _run_card(v: Variant) -> dict[str, Any]:
    """What the results keep of a classifier: all but its weights."""
    import csv

    from rapipe.records import Predictions

    run = read_result(paths.RUNS / f"{v.name}.json")
    card = read_card(paths.MODELS / v.name / "card.json")
    seen = Predictions.read(checked(paths.EVIDENCE / v.name / paths.PREDICTIONS))
    parts = ("votes", "drift", "swaps")
    evidence: dict[str, Any] = {name: run[name] for name in parts if name in run}
    if "attribution" in run:
        lists = ("harm", "help")
        evidence["attribution"] = {k: x for k, x in run["attribution"].items() if k not in lists}
    with (paths.MODELS / v.name / "history.csv").open() as file:
        history = [{k: _number(x) for k, x in row.items()} for row in csv.DictReader(file)]
    scores = ("noise_std", "top1", "top3", "nll", "ece", "n_test", "bank_size")
    return {
        "weights": run["parameters"],
        "weights_trained": card["trained_parameters"],
        "weights_sha256": card["hash"],
        "store": run["store"],
        "precision": card["precision"],
        "best_epoch": run["best_epoch"],
        "validation_top1": card["validation_top1"],
        "rows": [{name: row[name] for name in scores} for row in run["rows"]],
        "correct": [packed(level) for level in seen.correct],
        "voted": [packed(level) for level in seen.voted] if seen.voted is not None else [],
        **evidence,
        "history": history,
    }


def _number(text: str) -> float | None:
    return float(text) if text else None


def packed(bits: npt.NDArray[np.bool_]) -> str:
    """Bits (N,) as text: eight in a byte, in base 64."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpacked(text: str, count: int) -> npt.NDArray[np.bool_]:
    """What `packed` was given (N,)."""
    flat = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(flat, count=count).astype(bool)


def result_of(study: Study, piece: str, setting: Setting, v: Variant) -> Path:
    """The file of a classifier."""
    return study.results / "runs" / setting.name / f"{v.name}.json"


def kept(path: Path) -> dict[str, Any]:
    """What a result holds; `UserError` if it is damaged."""
    try:
        return parse_checksummed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and run its piece again"
        ) from None


def _done(study: Study, piece: str, setting: Setting, v: Variant, content: dict[str, Any]) -> bool:
    """Whether a classifier has a result, of these parameters."""
    path = result_of(study, piece, setting, v)
    if not path.exists():
        return False
    try:
        found = kept(path)
    except UserError as error:
        say(f"{error}; it is made again")
        return False
    if _decisive(found["parameters"]) != _decisive(_public(study, content)):
        say(f"{path} is of other parameters, and is made again")
        return False
    return True


def _decisive(content: dict[str, Any]) -> dict[str, Any]:
    """Parameters without those that only say which others there are."""
    others = ("backbones", "seeds")
    train = {name: own for name, own in content["train"].items() if name not in others}
    return {**content, "train": train}


def _public(study: Study, content: dict[str, Any]) -> dict[str, Any]:
    """Parameters without where this machine has its files."""
    sources = [
        {**own, "path": Path(own["path"]).name if own["name"] in study.sources else own["path"]}
        for own in content["corpus"]["sources"]
    ]
    return {**content, "corpus": {**content["corpus"], "sources": sources}}


def command(study: Study, piece: str) -> str:
    """How to run a piece."""
    given = "".join(f" --source {name}={path.name}" for name, path in study.sources.items())
    return f"python -m study {piece} --preset {study.preset}{given}"


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch

    from rapipe.device import processor

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": processor(),
        **gpu,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "rapipe": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def _rows(study: Study) -> int:
    """Rows of the memory of the own encoder, which is made if nothing says how many."""
    result = study.results / f"encoder-{OWN}.json"
    expected = _public(study, _of_encoder(study.params(), OWN))
    found = kept(result) if result.exists() else {}
    if not found or any(found["parameters"][own] != expected[own] for own in DECIDES):
        encoder(study, OWN)
        found = kept(result)
    return int(found["memory"])


@contextmanager
def _inside(folder: Path, content: dict[str, Any]) -> Iterator[None]:
    """Work in a folder whose params.yaml says this."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    said = yaml.safe_dump(content, sort_keys=False).encode()
    file = folder / paths.PARAMS
    if not file.is_file() or file.read_bytes() != said:  # else others may be reading it
        atomic_write(file, said)
    raw = folder / paths.RAW
    if not raw.exists():  # or it leads to where the project was before it was moved
        raw.parent.mkdir(exist_ok=True)
        link = raw.with_name(f"raw-{os.getpid()}")
        link.symlink_to(os.path.relpath((ROOT / paths.RAW).resolve(), raw.parent.resolve()))
        link.replace(raw)
    with chdir(folder):
        yield


def _stage(run: Callable[[Params], None], name: str = "", module: Any = None) -> None:
    """A stage, as dvc.yaml would run it: with its locks, and what it took."""
    from rapipe.pipeline.running.stage import stage

    stage(run, name, module)


def _stage_of(run: Callable[[Params, Variant], None], v: Variant) -> None:
    from rapipe.pipeline.running.stage import stage_of_chosen

    stage_of_chosen(run, v.backbone, v.retrieval, v.seed)
