"""A room imports only from rows below its own, and no two files import each other in a circle."""

from __future__ import annotations

from collections.abc import Iterator

from imports import ROOT, imported, packages_of

from rapipe.pipeline.running import whole

ROWS = (
    ("errors", "paths", "cores"),
    ("progress", "metrics", "specs"),
    ("io", "device"),
    ("records",),
    ("config", "batches", "retrieval"),
    ("corpus", "encoder"),
    ("training",),
    ("pretraining", "classifier", "generation"),
    ("evaluation",),
    ("api", "methods", "prediction", "report", "explore"),
    ("hub",),
    ("pipeline",),
    ("cli_store",),
    ("cli", "stages"),
    ("__main__",),
)
"""From the ground up. A room may import from its own folder and from rows below."""

STRANGERS = {
    "corpus": {"encoder", "retrieval", "batches"},
    "retrieval": {"config", "corpus"},
    "encoder": {"config", "corpus"},
    "batches": {"config"},
}
"""Rooms that must not know each other although a row would allow it."""

OF_PARAMS = ("pipeline", "config", "cli", "cli_store", "__main__", "stages")
"""The rooms that may see params.yaml and where artefacts lie; the others take plain values."""


def room(file: str) -> str:
    parts = file.removesuffix(".py").split("/")
    return parts[1] if parts[0] == "rapipe" else parts[0]


def files() -> list[str]:
    found = [*ROOT.glob("rapipe/**/*.py"), *ROOT.glob("stages/*.py")]
    return sorted(str(p.relative_to(ROOT)) for p in found if p != ROOT / "rapipe/__init__.py")


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


def violations() -> Iterator[str]:
    for file in files():
        here = room(file)
        for other in sorted(imported(file)):
            there = room(other)
            if there == here:
                continue
            if row(there) >= row(here):
                yield f"{file} imports {other}, which does not stand below it"
            if there in STRANGERS.get(here, set()):
                yield f"{file} imports {other}: {here} knows no {there}"
            if here not in OF_PARAMS and there in ("config", "paths"):
                yield f"{file} imports {other}: params stop at pipeline"


def test_arrows_run_one_way() -> None:
    assert not list(violations())


def test_every_room_has_a_row() -> None:
    assert {room(file) for file in files()} == {name for names in ROWS for name in names}


def test_no_stage_waits_for_a_package_that_it_may_not_need() -> None:
    """A package that takes a second to import is imported where it is used.

    Torch takes one to two; Lightning, which brings torchmetrics and these scipy, torchvision and
    transformers, three more.
    """
    slow = {"lightly", "lancedb", "lance", "faiss", "kornia", "timm", "transformers", "diffusers"}
    slow |= {"torch", "pytorch_lightning", "torchvision", "matplotlib", "sklearn", "scipy"}
    slow |= {"captum", "mlxtend", "pandas"}
    expected = {stage: {"torch"} for stage in whole.STAGES}
    expected |= {"corpus": set(), "train": {"torch", "pytorch_lightning"}}
    expected["report"] = {"torch", "matplotlib"}
    waits = {stage: packages_of(f"rapipe/pipeline/{stage}.py") & slow for stage in whole.STAGES}
    assert waits == expected


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count, so none of them holds a circle open.

    A package's `__init__` hands names on; that its own files lie below it is no circle.
    """
    below = {
        file: {
            other
            for other in imported(file)
            if not (other.endswith("__init__.py") and file.startswith(other[: -len("__init__.py")]))
        }
        for file in files()
    }
    while any(not others & below.keys() for others in below.values()):
        below = {file: others for file, others in below.items() if others & below.keys()}
    assert not below, "these import each other, or stand above such"
