"""`rapipe store`: as thin as the rest of the command line, and as quick to start."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.progress import print_line, say, show

store = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show and edit the store: docs/memory.md."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ids = Annotated[list[int] | None, typer.Option("--id", help="Images with this id; repeat it.")]
Classes = Annotated[list[str] | None, typer.Option("--class", help="Of this class; repeat it.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Of this source; repeat it.")]
Where = Annotated[str, typer.Option(help="SQL on id, label, class, source, split and origin.")]
Limit = Annotated[int, typer.Option(help="Show at most so many rows.", min=0)]


@store.command(name="info")
def store_info(as_json: AsJson = False) -> None:
    """What the current version holds, and which versions there are."""
    from rapipe.pipeline.memory.edit import info

    with exit_on_user_error():
        facts = info()
    if as_json:
        show(facts, as_json)
        return
    versions = facts.pop("versions")
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v:,}" for k, v in value.items())
        print_line(f"{name:24} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    print()
    show([{**version, "tags": ", ".join(version["tags"])} for version in versions], as_json)


@store.command(name="list")
def store_list(
    ids: Ids = None,
    classes: Classes = None,
    sources: Sources = None,
    where: Where = "",
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Rows of the store, by id; those that meet every condition."""
    from rapipe.pipeline.memory.edit import list_rows
    from rapipe.retrieval.store.selection import Selection

    with exit_on_user_error():
        rows, count = list_rows(Selection(ids or (), classes or (), sources or (), where), limit)
    show(rows, as_json)
    if len(rows) < count:
        say(f"{len(rows)} of {count:,} rows; --limit shows more")


@store.command(name="add")
def store_add(
    source: Annotated[
        str, typer.Argument(help="A source of params.yaml, a kind of source, or a file or folder.")
    ],
    classes: Classes = None,
    limit: Annotated[int, typer.Option(help="At most so many images; 0 = all.", min=0)] = 0,
    name: Annotated[str, typer.Option(help="What the store calls it.")] = "",
    unlabelled: Annotated[bool, typer.Option(help="Leave its labels out.")] = False,
) -> None:
    """Embed the training images of a source into the store."""
    _run_with_params("add", "store add", source, classes or (), limit, name, unlabelled)


@store.command(name="remove")
def store_remove(
    ids: Ids = None,
    classes: Classes = None,
    sources: Sources = None,
    where: Where = "",
    purge: Annotated[
        bool, typer.Option("--purge", help="Off the disk too, from every version.")
    ] = False,
) -> None:
    """Take rows that meet every condition out of the store."""
    from rapipe.retrieval.store.selection import Selection

    _edit("remove", Selection(ids or (), classes or (), sources or (), where), purge)


@store.command(name="tag")
def store_tag(name: Annotated[str, typer.Argument(help="A name; it moves if it exists.")]) -> None:
    """Name the current version, so that `compact` keeps it."""
    _edit("tag", name)


@store.command(name="checkout")
def store_checkout(name: Annotated[str, typer.Argument(help="A tag, or a number.")]) -> None:
    """Make another version the current one."""
    _edit("checkout", name)


@store.command(name="diff")
def store_diff(
    one: Annotated[str, typer.Argument(help="A tag, or the number of a version.")],
    other: Annotated[str, typer.Argument(help="Another.")],
    limit: Limit = 5,
    as_json: AsJson = False,
) -> None:
    """What each of two versions has that the other lacks."""
    from rapipe.pipeline.memory.edit import diff

    with exit_on_user_error():
        difference = diff(one, other, limit)
    if as_json:
        show(difference, as_json)
        return
    for side, facts in difference.items():
        counts = [
            f"{k} {v:,}" for group in ("class", "source") for k, v in facts[f"by {group}"].items()
        ]
        print_line(f"{side}: {facts['rows']:,} rows{': ' if counts else ''}{', '.join(counts)}")
        if facts["first"]:
            show(facts["first"], as_json)


@store.command(name="compact")
def store_compact() -> None:
    """Drop versions without a tag, removed rows, and what killed edits left."""
    _edit("compact")


@store.command(name="verify")
def store_verify() -> None:
    """Compare every row with its digest, and all with the manifest and the encoder."""
    _edit("verify")


@store.command(name="export")
def store_export(path: Annotated[Path, typer.Argument(help="NAME.parquet, NAME.npy.")]) -> None:
    """Write the current version for other programs."""
    _edit("export", path)


@store.command(name="import")
def store_import(
    file: Annotated[
        Path, typer.Argument(help="NAME.npy, NAME.npz, NAME.parquet, NAME.lance, or DB/TABLE.")
    ],
    key: Annotated[
        str, typer.Option(help="What joins a row to an image: id, path or row (its order).")
    ] = "",
) -> None:
    """Take the vectors of the corpus's images from a file, in place of an encoder's."""
    _run_with_params("import_vectors", "store import", file, key)


def _edit(name: str, *args: Any) -> None:
    """Print what a function of `rapipe.pipeline.memory.edit` says, or what went wrong."""
    with exit_on_user_error():
        print_line(getattr(import_module("rapipe.pipeline.memory.edit"), name)(*args))


def _run_with_params(name: str, verb: str, *args: Any) -> None:
    """Run the module of `rapipe.pipeline.memory` as a stage, and print what it says."""
    from rapipe.pipeline.running.stage import run_stage

    module = import_module(f"rapipe.pipeline.memory.{name}")
    run_stage(lambda params: print_line(module.run(params, *args)), verb, module)
