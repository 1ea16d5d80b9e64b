"""The command line: thin. Each stage's command runs exactly what dvc.yaml runs.

Heavy imports stay inside the commands, so that `rapipe --help` is instant.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rapipe import __version__
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.progress import print_line, print_table, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a mistake is a sentence, not a box, and a name in it no markup
    help="Does an image classifier that can look things up learn faster and stand noise better?",
)

Backbone = Annotated[str | None, typer.Option(help="Only this backbone of classifiers.backbones.")]
Retrieval = Annotated[
    str | None, typer.Option(help="Only 'none', or this one of retrieval.strategies.")
]
Seed = Annotated[int | None, typer.Option(help="Only this seed of classifiers.seeds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point."""
    with exit_on_user_error():
        try:
            app()
        finally:
            sys.stdout.flush()  # here what cannot be written is an error, and later noise


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show:
        print(__version__)
        raise typer.Exit


def _run_stage(name: str) -> None:
    """Run the stage in this module of `rapipe.pipeline`."""
    from rapipe.pipeline.running.stage import run_stage

    run_stage(import_module(f"rapipe.pipeline.{name}").run)


@app.command()
def corpus(
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what the corpus holds; changes nothing.")
    ] = False,
) -> None:
    """Compose the sources into one Arrow file a split."""
    if describe:
        from rapipe.pipeline import describe as described

        with exit_on_user_error():
            described.run()
        return
    _run_stage("corpus")


@app.command()
def pretrain() -> None:
    """Pretrain the encoder without labels; resumes where it was interrupted."""
    _run_stage("pretrain")


@app.command()
def embed() -> None:
    """Embed every image into the store."""
    _run_stage("embed")


@app.command()
def prefetch() -> None:
    """Find the neighbours of every image, once."""
    _run_stage("prefetch")


@app.command()
def audit() -> None:
    """Refuse what leaks from the held-out splits, and list test images close to the bank."""
    _run_stage("audit")


@app.command()
def baselines() -> None:
    """Test what the memory's encoder knows by itself: a linear probe, and votes of neighbours."""
    _run_stage("baselines")


@app.command()
def initialise() -> None:
    """Prepare the initial weights of classifiers: random, pretrained here, or a checkpoint's."""
    _run_stage("initialise")


@app.command()
def train(backbone: Backbone = None, retrieval: Retrieval = None, seed: Seed = None) -> None:
    """Train the classifiers, all or some."""
    from rapipe.pipeline import train
    from rapipe.pipeline.running.stage import run_selected_variants

    run_selected_variants(train.run, backbone, retrieval, seed)


@app.command(name="eval")
def evaluate(backbone: Backbone = None, retrieval: Retrieval = None, seed: Seed = None) -> None:
    """Evaluate the classifiers, all or some, on the whole test split, clean and noisy."""
    from rapipe.pipeline import evaluate
    from rapipe.pipeline.running.stage import run_selected_variants

    run_selected_variants(evaluate.run, backbone, retrieval, seed)


@app.command()
def report() -> None:
    """Draw the figures and write results/index.html."""
    _run_stage("report")


@app.command()
def results(
    by_class: Annotated[
        bool, typer.Option("--by-class", help="Clean accuracy of each class instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a row a (backbone, retrieval, k, seed, noise level, memory)."""
    from rapipe import paths
    from rapipe.config.loading import load
    from rapipe.pipeline.results import read_results

    with exit_on_user_error():
        results = read_results(load(paths.PARAMS))
        show(results.by_class() if by_class else results.rows(edited=True), as_json)
        for line in results.left_out_words():
            say(line)


@app.command()
def costs(as_json: AsJson = False) -> None:
    """Print what each stage took when it last ran here: seconds, and peak memory in gigabytes."""
    from rapipe.pipeline.running import costs

    with exit_on_user_error():
        show(costs.read_costs(), as_json)


@app.command()
def doctor() -> None:
    """Say what of this machine and project keeps commands from running; changes nothing."""
    from rapipe.pipeline.doctor import run

    raise typer.Exit(0 if run() else 2)


@app.command()
def methods(
    kind: Annotated[str, typer.Argument(help="Only of this kind; without it all.")] = "",
    as_json: AsJson = False,
) -> None:
    """List every method that params.yaml can name, with a line of explanation and its source."""
    from rapipe import methods

    with exit_on_user_error():
        rows = methods.rows(kind)
    if as_json:
        show(rows, as_json)
    else:
        for row in rows:
            print(f"{row['parameter']}: {row['name']}\n    {row['about']}\n    {row['source']}")


def show(rows: Any, as_json: bool) -> None:
    """Print rows with the same keys as JSON, or as a table, where None is an empty cell."""
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


@app.command()
def neighbors(
    image: Annotated[str, typer.Argument(help="An image file, or the row of a test image.")],
    k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 8,
    classifier: Annotated[
        str, typer.Option(help="Name of a trained one; the first with neighbours unless given.")
    ] = "",
    picture: Annotated[Path | None, typer.Option(help="Also draw them into this PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look an image up in the store; say what a classifier predicts with its neighbours."""
    from rapipe import paths
    from rapipe.pipeline.memory.look_up import run
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        run(load_checked(paths.PARAMS), image, k, classifier, picture, as_json)


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="Which; without it they are listed.")] = None,
) -> None:
    """Write a preset over params.yaml, keeping its comments, or list the presets."""
    from rapipe import paths
    from rapipe.config import presets

    with exit_on_user_error():
        if name is None:
            for preset_name in presets.PRESETS:
                print(f"{preset_name:14} {presets.describe(preset_name)}")
        else:
            chosen = presets.choose(name)
            presets.write(chosen, paths.PARAMS)
            print(f"{paths.PARAMS} holds the preset {chosen}")
            if chosen != name:
                say(f"{name} needs pip install 'rapipe[pretrained]', which is not installed")


store = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show and edit the store: docs/memory.md."
)
app.add_typer(store, name="store")

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
