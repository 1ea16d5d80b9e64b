"""A room imports only from rows above its own."""

from __future__ import annotations

import pytest
from imports import ROOT, imported

ROWS = (
    ("errors",),
    ("progress",),
    ("files", "mapped"),
    ("text",),
    ("params", "paths", "records", "metrics", "device", "presets"),
    ("feed", "labels"),
    ("retrieved",),
    ("weights", "views", "decoding", "backbones", "heads", "search", "fusion", "store", "sheet"),
    ("sources",),
    ("decoded",),
    ("corpus", "objectives", "encoder", "neighbours", "bank", "checkpoints"),
    ("classifier",),
    ("fitting",),
    ("evaluation", "report"),
    ("pipeline",),
    ("cli", "stages"),
)
"""From the leaves down. A room may import from its own folder and from rows above."""

APART = {
    "corpus": {"encoder", "store", "search", "backbones"},
    "encoder": {"store", "search", "neighbours", "corpus", "sources"},
    "store": {"search", "encoder", "backbones"},
    "search": {"encoder", "backbones", "store", "classifier"},
    "params": {"paths", "records"},
}
"""Rooms that must not know each other although a row would allow it."""


def room(file: str) -> str:
    parts = file.removesuffix(".py").split("/")
    return parts[1] if parts[0] == "rapipe" else parts[0]


def files() -> list[str]:
    found = [*ROOT.glob("rapipe/**/*.py"), *ROOT.glob("stages/*.py")]
    return sorted(str(p.relative_to(ROOT)) for p in found)


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


@pytest.mark.parametrize("file", [f for f in files() if f != "rapipe/__init__.py"])
def test_arrows_run_one_way(file: str) -> None:
    own = room(file)
    for other in {room(f) for f in imported(file) if f != "rapipe/__init__.py"} - {own}:
        assert row(other) < row(own), f"{file} imports {other}"
        assert other not in APART.get(own, set()), f"{file} imports {other}"


def test_only_the_pipeline_sees_params_and_paths() -> None:
    for file in files():
        if room(file) not in ("pipeline", "cli", "params", "paths"):
            assert not {"rapipe/params.py", "rapipe/paths.py"} & imported(file), file
