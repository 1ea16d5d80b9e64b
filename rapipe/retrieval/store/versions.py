"""Which rows belong to the store: versions, tags, and the one file that commits an edit.

    data/store.json               the current version's manifest; to replace it is to commit
    data/store/rows-*.lance       rows of all versions, in the order they were appended
    data/store/memory.lance       those of the current one that may be searched: see memory_table
    data/store/rows-*.versions/   N.json (manifest) and N.npy (a bit a row) of each, tags.json

An edit that is interrupted before store.json is replaced has not happened.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.io.atomic import atomic_write
from rapipe.io.tables import NoChecksum, checksummed_json, parse_checksummed
from rapipe.retrieval.store.rows import Mask, Rows

TAG = re.compile(r"(?!v\d+$)[A-Za-z][\w.-]*")
"""Not v1, v2, ...: so versions are called that have no tag."""
TAGS = "tags.json"


@dataclass(frozen=True)
class Manifest:
    """What one version holds, and which encoder embedded it."""

    version: int
    edit: str
    """The command that made it."""
    table: str
    rows: int
    dimension: int
    normalisation: str
    """Of the vectors: l2 = unit length."""
    splits: dict[str, int]
    classes: tuple[str, ...]
    """Names of the labels."""
    encoder: str
    """Fingerprint of the encoder: its weights, and how it prepares images."""
    sha256: str
    """Of the rows in id order, and of the classes."""

    @classmethod
    def of(
        cls, rows: Rows, version: int, edit: str, table: str, spec: StoreSpec | Manifest
    ) -> Manifest:
        """The manifest of rows with the encoder and the classes of `spec`."""
        splits, counts = np.unique(rows.splits, return_counts=True)
        return cls(
            version=version,
            edit=edit,
            table=table,
            rows=len(rows),
            dimension=spec.dimension,
            normalisation=spec.normalisation,
            splits={str(s): int(c) for s, c in zip(splits, counts, strict=True)},
            classes=spec.classes,
            encoder=spec.encoder,
            sha256=rows.hash(spec.classes),
        )

    def to_json(self) -> str:
        """The text of its file."""
        return checksummed_json(asdict(self))


@dataclass(frozen=True)
class StoreSpec:
    """What all rows of a store have in common."""

    dimension: int
    classes: tuple[str, ...]
    encoder: str
    normalisation: str = "l2"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; `UserError` if it is missing or damaged."""
    try:
        facts = _facts(path.read_text())
        return Manifest(**{**facts, "classes": tuple(facts["classes"])})
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run rapipe embed, or dvc repro, or rapipe store checkout VERSION "
            "if its folder is still there"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}): run rapipe store checkout VERSION, or rapipe embed"
        ) from None


def _facts(text: str) -> dict[str, Any]:
    """The content of a file with a checksum, or of an older one without."""
    try:
        return parse_checksummed(text)
    except NoChecksum:
        content: dict[str, Any] = json.loads(text)
        return content


def table_name(rows: Rows, classes: Sequence[str]) -> str:
    """What the table of these rows is called."""
    return f"rows-{rows.hash(classes)[:16]}"


def unused_name(folder: Path, name: str) -> str:
    """The name, or one with a number if there is a table of that name."""
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(name for name in names if not (folder / f"{name}.lance").exists())


class History:
    """The versions that share one table."""

    def __init__(self, store: Path, table: str) -> None:
        self.table = table
        self.folder = store / f"{table}.versions"

    @classmethod
    def find_all(cls, store: Path) -> list[History]:
        """All in a store's folder that have their rows; the one written last comes last."""
        folders = [
            folder for folder in store.glob("*.versions") if folder.with_suffix(".lance").is_dir()
        ]
        folders.sort(key=lambda folder: folder.stat().st_mtime)
        return [cls(store, folder.name.removesuffix(".versions")) for folder in folders]

    def manifests(self) -> dict[int, Manifest]:
        """By version, the oldest first."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))
        return {number: read_manifest(self.folder / f"{number}.json") for number in numbers}

    def members(self, version: int, rows: int) -> Mask:
        """Which of the table's rows (N,) belong to a version; later ones do not."""
        path = self.folder / f"{version}.npy"
        try:
            bits = memory_map.load_array(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): run rapipe embed") from None
        mask = np.zeros(rows, np.bool_)
        stored = np.unpackbits(bits)[:rows].astype(np.bool_)
        mask[: len(stored)] = stored
        return mask

    def write(self, manifest: Manifest, members: Mask) -> None:
        """Write a version, without making it the current one."""
        self.write_members(manifest.version, members)
        self.write_manifest(manifest)

    def write_members(self, version: int, members: Mask) -> None:
        """The first half of `write`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, np.packbits(members), allow_pickle=False)
        atomic_write(self.folder / f"{version}.npy", buffer.getvalue())

    def write_manifest(self, manifest: Manifest) -> None:
        """The second half."""
        atomic_write(self.folder / f"{manifest.version}.json", manifest.to_json().encode())

    def tags(self) -> dict[str, int]:
        """Versions by name."""
        path = self.folder / TAGS
        try:
            facts = _facts(path.read_text())
            tags: dict[str, int] = facts.get("tags", facts)  # as 0.6 wrote them
            manifests = self.manifests()
            lost = [name for name, number in tags.items() if number not in manifests]
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and tag again") from None
        if lost:
            raise UserError(
                f"{path} is damaged (no version {tags[lost[0]]}, which {lost[0]} names): "
                "delete it, and tag again"
            )
        return tags

    def write_tags(self, tags: dict[str, int]) -> None:
        """Replace all tags."""
        atomic_write(self.folder / TAGS, checksummed_json({"tags": tags}).encode())

    def resolve(self, name: str) -> Manifest:
        """The version with this tag or number; `UserError` lists those that there are."""
        manifests, tags = self.manifests(), self.tags()
        number = int(name) if name.isdecimal() else tags.get(name, 0)
        if number not in manifests:
            choices = [*tags, *map(str, manifests)]
            raise UserError(f"the store has no version {name!r}; it has {', '.join(choices)}")
        return manifests[number]
