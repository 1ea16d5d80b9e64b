"""README.md of a repository: front matter that the hub reads, and what people ask first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rapipe import __version__
from rapipe.hub.kinds import MEMORY, Kind
from rapipe.io.hub import library

CLASSES = 20
"""Names of classes that are listed."""
NOT_STATED = "not stated"
TASKS = {"encoder": "image-feature-extraction", "classifier": "image-classification"}
"""The hub's words."""
CONTENT = {
    "encoder": "An encoder: images in, vectors of unit length out. Weights are safetensors.",
    "classifier": "An image classifier with the encoder and the memory that it looks up, without "
    "the images. Weights are safetensors, the memory is `.npy` and Arrow.",
    "memory": f"Vectors of images, in `{MEMORY}`: id (a hash of the pixels), label, class, source, "
    "split and vector. It holds no images, and no names of files.",
}
USE = {
    "encoder": "pretrain:\n  init: FOLDER\n  objective: none   # or another, to train on",
    "classifier": "import rapipe\n\nprint(rapipe.load('FOLDER').predict(['image.jpg']).rows())",
    "memory": f"rapipe store import FOLDER/{MEMORY}   # in a project with the same images",
}
LANGUAGES = {"encoder": "yaml", "classifier": "python", "memory": "sh"}


@dataclass(frozen=True)
class Facts:
    """What a card says, besides its kind."""

    licence: str
    classes: tuple[str, ...]
    image_size: int
    sources: list[dict[str, Any]]
    """A row a source: its name, kind, role, images and licence, and the hub's revision."""
    splits: dict[str, int]
    """Images by split."""
    scores: dict[str, float] = field(default_factory=dict)
    """Shares from 0 to 1, by what they are."""
    audit: Mapping[str, Any] | None = None
    """What `rapipe audit` wrote; None if there is none of this memory."""
    audited: bool = True
    """Whether an audit says anything of it."""
    published: dict[str, str] = field(default_factory=dict)
    """Where an encoder is from: init, revision, licence."""


def readme(kind: Kind, repository: str, facts: Facts) -> str:
    """The text of README.md."""
    name = repository.partition("/")[2]
    lines = ["---", _front_matter(kind, facts), "---", "", f"# {name}", "", CONTENT[kind.name]]
    lines += ["", *_origin(facts), "## Use", "", "```sh", "pip install rapipe"]
    lines += [f"rapipe pull {repository} FOLDER --what {kind.name}", "```", ""]
    lines += [f"```{LANGUAGES[kind.name]}", USE[kind.name], "```", "", *_corpus(facts)]
    if facts.scores:
        lines += ["", "## Scores", "", "| measure | value |", "| --- | --- |"]
        lines += [f"| {_cell(name)} | {value:.1%} |" for name, value in facts.scores.items()]
    if facts.audited:
        lines += ["", "## Leakage", "", *_audit(facts.audit)]
    lines += ["", f"Written by rapipe {__version__}. `sha256sum -c SHA256SUMS` verifies the files."]
    return "\n".join(lines) + "\n"


def _front_matter(kind: Kind, facts: Facts) -> str:
    hub, tags = library(), ["rapipe", f"rapipe-{kind.name}"]
    if kind.name == "memory":
        files = [{"split": "train", "path": MEMORY}]
        data = hub.DatasetCardData(
            license=facts.licence,
            tags=tags,
            configs=[{"config_name": "default", "data_files": files}],
        )
    else:
        data = hub.ModelCardData(
            license=facts.licence,
            library_name="rapipe",
            pipeline_tag=TASKS[kind.name],
            tags=tags,
        )
    return str(data.to_yaml())


def _origin(facts: Facts) -> list[str]:
    """Whose weights it began with."""
    known = {key: value for key, value in facts.published.items() if value}
    if not known:
        return []
    words = ", ".join(f"{key} {_cell(value)}" for key, value in known.items())
    return [f"The encoder is from elsewhere: {words}.", ""]


def _corpus(facts: Facts) -> Iterator[str]:
    listed = ", ".join(facts.classes[:CLASSES])
    more = ", ..." if len(facts.classes) > CLASSES else ""
    counts = ", ".join(f"{split} {count:,}" for split, count in facts.splits.items())
    yield "## Images"
    yield ""
    yield f"Squares of {facts.image_size} pixels: {counts}."
    yield f"{len(facts.classes)} classes: {_cell(listed)}{more}."
    yield ""
    yield "| source | kind | role | images | revision | licence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for source in facts.sources:
        keys = ("name", "kind", "role", "images", "revision")
        cells = [*(str(source[key]) for key in keys), source["licence"] or NOT_STATED]
        yield f"| {' | '.join(map(_cell, cells))} |"


def _audit(audit: Mapping[str, Any] | None) -> Iterator[str]:
    if audit is None:
        yield "No audit of this memory was made (`rapipe audit`)."
        return
    yield "| check | checked | found |"
    yield "| --- | --- | --- |"
    for name, counts in audit["checks"].items():
        yield f"| {name.replace('_', ' ')} | {counts['checked']:,} | {counts['found']:,} |"
    yield ""
    yield (
        f"{audit['near_duplicates']:,} of {audit['test_images']:,} test images nearly repeat one "
        f"in the memory (similarity of {audit['threshold']:.4f} or more)."
    )


def _cell(text: str) -> str:
    """Text in a table of Markdown: its bars and angle brackets are letters."""
    return text.replace("|", r"\|").replace("<", "&lt;")
