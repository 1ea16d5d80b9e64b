"""The command line: thin. Each stage's command runs exactly what dvc.yaml runs.

Heavy imports stay inside the commands, so that `rapipe --help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rapipe import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does an image classifier that can look things up learn faster and stand noise better?",
)

Backbone = Annotated[str | None, typer.Option(help="Only this backbone of train.backbones.")]
Retrieval = Annotated[
    str | None, typer.Option(help="Only 'none', or this one of retrieval.strategies.")
]
Seed = Annotated[int | None, typer.Option(help="Only this seed of train.seeds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point."""
    app()


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def corpus(
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what the corpus holds; changes nothing.")
    ] = False,
) -> None:
    """Compose the sources into one Arrow file a split."""
    if describe:
        from rapipe.pipeline import describe as described
        from rapipe.pipeline.told import told

        with told():
            described.run()
        return
    from rapipe.pipeline import corpus
    from rapipe.pipeline.entry import stage

    stage(corpus.run)


@app.command()
def pretrain() -> None:
    """Pretrain the encoder without labels; resumes where it was interrupted."""
    from rapipe.pipeline import pretrain
    from rapipe.pipeline.entry import stage

    stage(pretrain.run)


@app.command()
def embed() -> None:
    """Embed every image into the store."""
    from rapipe.pipeline import embed
    from rapipe.pipeline.entry import stage

    stage(embed.run)


@app.command()
def prefetch() -> None:
    """Find the neighbours of every image, once."""
    from rapipe.pipeline import prefetch
    from rapipe.pipeline.entry import stage

    stage(prefetch.run)


@app.command()
def train(backbone: Backbone = None, retrieval: Retrieval = None, seed: Seed = None) -> None:
    """Train the classifiers, all or some."""
    from rapipe.pipeline import train
    from rapipe.pipeline.entry import stage_of_chosen

    stage_of_chosen(train.run, backbone, retrieval, seed)


@app.command(name="eval")
def evaluate(backbone: Backbone = None, retrieval: Retrieval = None, seed: Seed = None) -> None:
    """Evaluate the classifiers, all or some, on the whole test split, clean and noisy."""
    from rapipe.pipeline import evaluate
    from rapipe.pipeline.entry import stage_of_chosen

    stage_of_chosen(evaluate.run, backbone, retrieval, seed)


@app.command()
def report() -> None:
    """Draw the figures and write results/index.html."""
    from rapipe.pipeline import report
    from rapipe.pipeline.entry import stage

    stage(report.run)


@app.command()
def results(as_json: AsJson = False) -> None:
    """Print a row a (backbone, retrieval, k, seed, noise level)."""
    from rapipe import paths
    from rapipe.params import load
    from rapipe.pipeline.results import KEYS, rows
    from rapipe.pipeline.told import told

    with told():
        found = rows(load(paths.PARAMS))
    if as_json:
        import json

        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*KEYS, box=None)
    for row in found:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def neighbors(
    image: Annotated[str, typer.Argument(help="An image file, or the row of a test image.")],
    k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 8,
    picture: Annotated[Path | None, typer.Option(help="Also draw them into this PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look an image up in the memory and print its nearest neighbours."""
    from rapipe.pipeline.neighbors import run
    from rapipe.pipeline.told import told

    with told():
        run(image, k, picture, as_json)


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="Which; without it they are listed.")] = None,
) -> None:
    """Write a preset over params.yaml, keeping its comments, or list the presets."""
    from rapipe import paths, presets
    from rapipe.pipeline.told import told

    with told():
        if name is None:
            for known in presets.PRESETS:
                print(f"{known:14} {presets.describe(known)}")
        else:
            presets.write(name, paths.PARAMS)
            print(f"{paths.PARAMS} holds the preset {name}")
