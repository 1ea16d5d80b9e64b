"""`rapipe push` and `rapipe pull`: encoders, classifiers and memories on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import has_encoder
from rapipe.errors import UserError
from rapipe.hub.cards import Facts, readme
from rapipe.hub.kinds import KINDS, MEMORY, complete
from rapipe.hub.transfer import check_repository, download, files_of, megabytes, upload
from rapipe.io import provenance
from rapipe.io.tables import write_json
from rapipe.io.weights import CARD
from rapipe.pipeline.export import write_export
from rapipe.pipeline.inputs import (
    PARAMS,
    audit_facts,
    check_encoder,
    checked,
    corpus_card,
    present_corpus,
    present_encoder,
    read_result,
)
from rapipe.pipeline.memory.edit import open_store
from rapipe.pipeline.predict import KEYS, RISK
from rapipe.pipeline.results import read_results
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.progress import print_line, print_table, say
from rapipe.retrieval import store as stores

NAMES = {
    **KEYS,
    "repository": "REPO",
    "folder": "FOLDER",
    "private": "--private",
    "classifier": "--classifier",
}
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
NAMED = re.compile(r"[a-z_]+:[^/]")
"""A checkpoint that a library or a hub has under a name: no path of this machine."""


@dataclass(frozen=True)
class Request:
    """What to push.

    Args:
        what: encoder, classifier or memory.
        classifier: name of a trained one, or `best`.
        licence: the hub's id of a licence; empty for that of the encoder's author.
        source_licences: of sources of images, as NAME=LICENCE.
    """

    what: str
    classifier: str = ""
    licence: str = ""
    source_licences: tuple[str, ...] = ()
    private: bool = False
    revision: str = ""


@dataclass
class _Written:
    """What a kind's files are about."""

    scores: dict[str, float] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)


@argument_keys(**NAMES)
def push(params: Params, repository: str, request: Request, dry_run: bool) -> None:
    """Upload an artefact with a card, or with `dry_run` print both and ask no network."""
    check_repository(repository)
    if request.classifier and request.what != "classifier":
        raise UserError(f"--classifier is {request.classifier!r}, but --what is {request.what}")
    if request.licence and not LICENCE.fullmatch(request.licence):
        raise UserError(
            f"--licence is {request.licence!r}, which is no id of a licence such as mit, "
            f"apache-2.0, cc-by-4.0 or other: {LICENCES} lists them"
        )
    kind = KINDS[request.what]
    licences = _source_licences(request.source_licences)
    present_corpus(params)
    with TemporaryDirectory(prefix="rapipe-push-") as name:
        folder = Path(name) / kind.name
        written = WRITERS[kind.name](params, folder, request)
        facts = _facts(params, request, written, licences)
        text = readme(kind, repository, facts)
        complete(folder, kind, text)
        kind.describe(folder)
        files = files_of(folder)
        total = f"{len(files)} files, {megabytes(sum(row['bytes'] for row in files))}"
        if dry_run:
            for line in text.splitlines():
                print_line(line)
            print()
        print_table(files)
        if dry_run:
            say(f"{total} would go to {repository}; nothing was sent")
            return
        say(f"{total} go to {repository}")
        url = upload(folder, repository, kind, request.private, request.revision)
        say(f"{url} has them")


@argument_keys(**NAMES)
def pull(repository: str, folder: Path, what: str, revision: str) -> None:
    """Download an artefact into a folder once all of it is checked, and say how to use it."""
    say(f"{folder} holds {download(repository, KINDS[what], folder, revision)}")


def _write_encoder(params: Params, folder: Path, request: Request) -> _Written:
    card = present_encoder(params)
    if not has_encoder(card):
        raise UserError("this memory is of imported vectors: there is no encoder to push")
    published = _public(card.get("published", {}))
    setting = {k: v for k, v in card[PARAMS].items() if k.startswith("pretrain.")}
    licence = _licence(published, request)
    facts = {
        "published": {**published, "licence": licence},
        "scores": card["scores"],
        "setting": _public(setting),
    }
    folder.mkdir()
    Encoder.read(checked(paths.ENCODER)).write(folder, facts)
    scores = {k.replace("_", " "): v for k, v in card["scores"].items() if k.endswith("top1") and v}
    return _Written(scores, published)


def _write_classifier(params: Params, folder: Path, request: Request) -> _Written:
    chosen, card = write_export(params, request.classifier or "best", folder, RISK)
    published = _public(card.get("encoder_published", {}))
    _licence(published, request)
    card["setting"] = _public(card["setting"])
    if published:
        card["encoder_published"] = published
    write_json(folder / CARD, card)
    scores = {"validation top1": card["validation_top1"]}
    with suppress(UserError):  # it may not have been evaluated
        run = read_results(params).runs.get(chosen.variant.name, {"rows": ()})
        scores |= {f"test top1, noise {r['noise_std']:g}": r["top1"] for r in run["rows"]}
    return _Written(scores, published)


def _write_memory(params: Params, folder: Path, request: Request) -> _Written:
    store = open_store()
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    _licence({}, request)
    folder.mkdir()
    stores.export(store, folder / MEMORY, origins=False)
    encoder = present_encoder(params)
    facts = {
        "rows": store.manifest.rows,
        "dimension": store.manifest.dimension,
        "classes": list(store.manifest.classes),
        "splits": store.manifest.splits,
        "encoder": store.manifest.encoder,
        "encoder_name": encoder["spec"]["backbone"],
    }
    write_json(folder / CARD, facts)
    return _Written(published=_public(encoder.get("published", {})))


WRITERS = {"encoder": _write_encoder, "classifier": _write_classifier, "memory": _write_memory}


def _facts(
    params: Params, request: Request, written: _Written, licences: Mapping[str, str]
) -> Facts:
    """What the card says."""
    corpus = corpus_card()
    sources = []
    for i in range(corpus[PARAMS]["corpus.sources"]):
        key = f"corpus.sources[{i}]"
        name = corpus[PARAMS][f"{key}.name"]
        source = corpus["sources"][name]
        row = {"name": name, "kind": corpus[PARAMS][f"{key}.kind"], "role": source["role"]}
        row |= {"images": source["read"], "revision": source.get("revision", "")}
        sources.append({**row, "licence": licences.get(name, "")})
    return Facts(
        _licence(written.published if request.what != "memory" else {}, request),
        tuple(corpus["classes"]),
        corpus["decoding"]["size"],
        sources,
        {name: split["images"] for name, split in corpus["splits"].items()},
        written.scores,
        _audit(params),
        request.what != "encoder",
        written.published,
    )


def _audit(params: Params) -> dict[str, Any] | None:
    """What `rapipe audit` found of the present memory; None if it is of another, or was not run."""
    with suppress(UserError):
        audit = read_result(paths.LEAKAGE)
        provenance.check(paths.LEAKAGE, audit.get(PARAMS), audit_facts(params), "audit")
        return audit
    return None


def _licence(published: Mapping[str, str], request: Request) -> str:
    """The licence to state: that of the encoder's author, or the one that was named.

    Raises:
        UserError: there is none, or they differ.
    """
    known = published.get("licence", "").lower()
    if known and request.licence not in ("", known):
        raise UserError(
            f"--licence is {request.licence}, but the encoder's author gives it under {known}: "
            "leave --licence out"
        )
    if not known and not request.licence:
        raise UserError(
            f"the licence of this {request.what} is unknown: name the one that you may give it by "
            f"--licence, such as mit, apache-2.0, cc-by-4.0 or other ({LICENCES})"
        )
    return known or request.licence


def _source_licences(pairs: Sequence[str]) -> dict[str, str]:
    """Licences by name of the source."""
    names = list(corpus_card()["sources"])
    licences = {}
    for pair in pairs:
        name, equals, licence = pair.rpartition("=")
        if name not in names or not equals or not licence:
            raise UserError(
                f"--source-licence is {pair!r}; write NAME=LICENCE, with a name of "
                f"{', '.join(names)}"
            )
        licences[name] = licence
    return licences


def _public(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without folders of this machine: of a path to weights the last name stays."""
    return {key: _named(value) if key.endswith("init") else value for key, value in facts.items()}


def _named(init: Any) -> Any:
    """A checkpoint's name, or several by backbone."""
    if isinstance(init, dict):
        return {backbone: _named(value) for backbone, value in init.items()}
    return init if NAMED.match(init or "") else Path(init or "").name
