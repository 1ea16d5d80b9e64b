"""A static copy of the explorer: a folder that opens from disk, or from any web host.

It holds answers for some test images, clean and at the noise levels of the evaluation, the
mistakes, and the map. Nothing can be hidden in it, since nothing computes there.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.errors import ArgumentError
from rapipe.explore.about import about
from rapipe.explore.explorer import Explorer
from rapipe.explore.map_data import MapData, packed
from rapipe.explore.mistakes import mistakes
from rapipe.explore.project import Row, png
from rapipe.explore.questions import Question
from rapipe.explore.server import page_files, with_picture
from rapipe.progress import track
from rapipe.records import Ids, Images

PICTURES, DATA = "pictures", "data.js"
MOST_MAPPED = 5_000
"""Points of the map: each has a file, its picture."""


def spread(images: Images, count: int) -> Ids:
    """Ids of some images, as many of each class as can be; the first ones."""
    rank = np.zeros(len(images), np.int64)
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        rank[rows] = np.arange(len(rows))
    return images.ids[np.sort(np.lexsort((images.labels, rank))[:count])]


def export(
    explorer: Explorer, folder: Path, classifiers: Sequence[str], count: int, drawn: MapData | None
) -> None:
    """Write the page, its data, and the pictures that it shows.

    Args:
        folder: is there, and empty.
        classifiers: names of those that are asked.
        count: test images.
        drawn: the map; None without a memory.

    Raises:
        ArgumentError: there are no images to ask about.
    """
    if count < 1:
        raise ArgumentError(f"`count` is {count}; it must be 1 or more")
    drawn = drawn and _some(drawn, explorer.project.seed)
    ids = spread(explorer.project.test, count)
    answers = dict(_answers(explorer, classifiers, ids))
    listed = {name: mistakes(explorer, name) for name in classifiers}
    facts = about(explorer.project)
    chosen = set(ids.tolist())
    data: Row = {
        "about": {
            **facts,
            "test": [row for row in facts["test"] if int(row["id"]) in chosen],
            "classifiers": [row for row in facts["classifiers"] if row["name"] in classifiers],
        },
        "answers": answers,
        "mistakes": listed,
        "map": drawn and _as_text(drawn, len(explorer.memory.classes)),
    }
    for name, content in page_files().items():
        if name == "index.html":
            script = b'<script src="page/' + DATA.encode() + b'"></script>'
            content = content.replace(b"<!-- data -->", script)
            (folder / name).write_bytes(content)
            continue
        (folder / "page").mkdir(exist_ok=True)
        (folder / "page" / name).write_bytes(content)
    text = json.dumps(data, separators=(",", ":"))
    (folder / "page" / DATA).write_text(f"window.RAPIPE_DATA = {text};\n")
    mapped = set(drawn.ids.tolist()) if drawn else set()
    _pictures(explorer, folder / PICTURES, shown_in(data) | mapped)


def _answers(explorer: Explorer, classifiers: Sequence[str], ids: Ids) -> Iterator[tuple[str, Row]]:
    """By `classifier|image|noise`, as the page asks."""
    levels = (0.0, *explorer.project.noise_std)
    questions = [
        Question(image_id, name, noise_std=std)
        for name in classifiers
        for image_id in ids.tolist()
        for std in levels
    ]
    for question in track(questions, "asking", len(questions)):
        key = f"{question.classifier}|{question.image}|{question.noise_std:g}"
        yield key, with_picture(explorer.ask(question))


def _some(drawn: MapData, seed: int) -> MapData:
    """The map; of a large one some points, drawn with the seed."""
    chosen = np.random.default_rng(seed).permutation(len(drawn.ids))[:MOST_MAPPED]
    return drawn.take(np.sort(chosen))


def _as_text(drawn: MapData, classes: int) -> Row:
    data, facts = packed(drawn, classes)
    return {**facts, "points": b64encode(data).decode()}


def shown_in(data: Any) -> set[int]:
    """Ids of the images in what the page shows, beside those of the map."""
    found: set[int] = set()
    if isinstance(data, dict):
        for key, value in data.items():
            if key in ("id", "image", "test_id", "bank_id"):
                found.add(int(value))
            elif key != "map":
                found |= shown_in(value)
    elif isinstance(data, list):
        for value in data:
            found |= shown_in(value)
    return found


def _pictures(explorer: Explorer, folder: Path, ids: set[int]) -> None:
    folder.mkdir()
    for image_id in track(sorted(ids), "writing pictures", len(ids)):
        image = explorer.project.image(image_id)
        if image is not None:
            (folder / f"{image_id}.png").write_bytes(png(image.pixels[0]))
