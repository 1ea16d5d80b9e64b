"""The command line: thin. Each stage's command runs exactly what dvc.yaml runs.

Heavy imports stay inside the commands, so that `rapipe --help` is instant.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from rapipe import __version__
from rapipe.cli_store import AsJson, store
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.progress import say, show

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a mistake is a sentence, not a box, and a name in it no markup
    help="Does an image classifier that can look things up learn faster and stand noise better?",
)
app.add_typer(store, name="store")

Backbone = Annotated[str | None, typer.Option(help="Only this backbone of classifiers.backbones.")]
Retrieval = Annotated[
    str | None, typer.Option(help="Only 'none', or this one of retrieval.strategies.")
]
Seed = Annotated[int | None, typer.Option(help="Only this seed of classifiers.seeds.")]
Stale = Annotated[
    bool, typer.Option("--stale", help="Only those that are out of date, as dvc repro does.")
]
What = Annotated[
    Literal["encoder", "classifier", "memory"], typer.Option(help="What the repository holds.")
]
Repository = Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")]
Risk = Annotated[
    float, typer.Option(help="Share of errors among the answers that is accepted.", min=0, max=1)
]


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


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New, or without a project.")] = Path(),
    preset: Annotated[str, typer.Option(help="Of the parameters: rapipe preset lists them.")] = "",
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of images by class, or of Parquet files, or such a file."),
    ] = None,
) -> None:
    """Make a project: params.yaml, dvc.yaml, and what git and DVC need."""
    from rapipe.pipeline.project import scaffold

    with exit_on_user_error():
        scaffold.init(folder, preset, images)


@app.command()
def upgrade() -> None:
    """Make the project here one of the installed version, and say what will run again."""
    from rapipe.pipeline.project import scaffold

    with exit_on_user_error():
        scaffold.upgrade()


@app.command()
def fingerprint() -> None:
    """Print a checksum of the code of each stage, as projects keep them in .rapipe/code."""
    from rapipe.pipeline.project import code

    for stage in code.pipeline()["stages"]:
        print(f"{stage}\n{code.fingerprint(stage)}", end="")


@app.command()
def run(
    force: Annotated[bool, typer.Option("--force", help="Run what is up to date, too.")] = False,
) -> None:
    """Run the stages that are out of date, as dvc repro does, without DVC and git."""
    from rapipe.pipeline.project import run as running

    with exit_on_user_error():
        running.run(force)


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
def generate() -> None:
    """Generate images for the source `generated`, if there is one; resumes where interrupted."""
    _run_stage("generate")


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
def train(
    backbone: Backbone = None,
    retrieval: Retrieval = None,
    seed: Seed = None,
    stale: Stale = False,
) -> None:
    """Train the classifiers, all or some."""
    from rapipe.pipeline.running.stage import run_selected_variants

    run_selected_variants("train", backbone, retrieval, seed, stale)


@app.command(name="eval")
def evaluate(
    backbone: Backbone = None,
    retrieval: Retrieval = None,
    seed: Seed = None,
    stale: Stale = False,
) -> None:
    """Evaluate the classifiers, all or some, on the whole test split, clean and noisy."""
    from rapipe.pipeline.running.stage import run_selected_variants

    run_selected_variants("evaluate", backbone, retrieval, seed, stale)


@app.command()
def sweep(
    address: Annotated[
        str,
        typer.Option(
            help="Of a Ray cluster, HOST:PORT or auto; without it, this machine.",
        ),
    ] = "",
    cpus: Annotated[int, typer.Option(help="CPUs of each classifier.", min=1)] = 1,
    gpus: Annotated[
        float, typer.Option(help="GPUs of each, where there are any; 0.5: two share one.", min=0)
    ] = 1.0,
) -> None:
    """Train and evaluate classifiers that are out of date, side by side on a Ray cluster."""
    from rapipe.pipeline import sweep

    with exit_on_user_error():
        sweep.run(address, cpus, gpus)


@app.command()
def report(
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="Print the summary of the last report, for a pull request, alone."
        ),
    ] = False,
) -> None:
    """Draw the figures and write results/index.html."""
    if markdown:
        from rapipe.pipeline import print_summary

        with exit_on_user_error():
            print_summary.run()
        return
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
def downstream(
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Also train a classifier from each encoder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Test the encoders that pretraining kept on the way, and draw accuracy by its epochs."""
    from rapipe.pipeline import downstream
    from rapipe.pipeline.running.stage import run_stage

    run_stage(lambda params: show(downstream.run(params, fine_tune), as_json), "", downstream)


@app.command()
def compare(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...",
            help="Keys of params.yaml, such as train.learning_rate; several: each combination of "
            "their values. Without: each that differs by itself.",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="Only results of this backbone; repeat it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures and tables: results/ablations.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw whatever differs among all results that were ever evaluated here."""
    from rapipe import paths
    from rapipe.config.loading import load
    from rapipe.pipeline.compare import run

    with exit_on_user_error():
        rows = run(load(paths.PARAMS), keys or (), backbone or (), out or paths.ABLATIONS)
        show(rows, as_json)


@app.command()
def costs(as_json: AsJson = False) -> None:
    """Print what each stage took when it last ran here: seconds, and peak memory in gigabytes."""
    from rapipe.pipeline.running import costs

    with exit_on_user_error():
        show(costs.read_costs(), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what keeps commands from running here, and what is installed; changes nothing."""
    from rapipe.pipeline.doctor import run

    raise typer.Exit(0 if run(as_json) else 2)


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
def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Image files, folders, archives, Parquet files."),
    ],
    classifier: Annotated[
        str, typer.Option(help="Name of a trained one; the best on validation unless given.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="A file for the answers, .csv, .jsonl or .parquet; else printed."),
    ] = None,
    risk: Risk = 0.05,
    on_error: Annotated[
        Literal["stop", "skip"] | None,
        typer.Option(help="At an image that cannot be used; corpus.on_error unless given."),
    ] = None,
    column: Annotated[
        str, typer.Option(help="Of Parquet, the column of images; image or img unless given.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say the classes of new images, how sure that is, and which images were looked up."""
    from rapipe import paths
    from rapipe.pipeline.predict import run
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        params = load_checked(paths.PARAMS)
        run(params, images, classifier, out, risk, on_error or "", column, as_json)


@app.command()
def export(
    classifier: Annotated[str, typer.Argument(help="Name of a trained one, or best.")],
    folder: Annotated[Path, typer.Argument(help="A new folder, or an earlier export.")],
    risk: Risk = 0.05,
) -> None:
    """Write a classifier, its encoder and its memory into a folder that rapipe.load reads."""
    from rapipe import paths
    from rapipe.pipeline.export import run
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        run(load_checked(paths.PARAMS), classifier, folder, risk)


@app.command()
def push(
    repository: Repository,
    what: What,
    classifier: Annotated[
        str, typer.Option(help="Name of a trained one; the best on validation unless given.")
    ] = "",
    licence: Annotated[str, typer.Option(help="Its id on the hub, such as mit or cc-by-4.0.")] = "",
    source_licence: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LICENCE", help="Of a source of images, for the card; repeat."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    revision: Annotated[str, typer.Option(help="A branch; main unless given.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card, files and sizes; send nothing.")
    ] = False,
) -> None:
    """Upload an encoder, a classifier or the memory to the Hugging Face hub, without images."""
    from rapipe import paths
    from rapipe.pipeline import hub
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        licences = tuple(source_licence or ())
        request = hub.Request(what, classifier, licence, licences, private, revision)
        hub.push(load_checked(paths.PARAMS), repository, request, dry_run)


@app.command()
def pull(
    repository: Repository,
    folder: Annotated[Path, typer.Argument(help="A new folder, or an earlier pull.")],
    what: What,
    revision: Annotated[str, typer.Option(help="A branch, tag or commit; main unless given.")] = "",
) -> None:
    """Download what rapipe push uploaded, check it, and say how to use it; needs no project."""
    from rapipe.pipeline import hub

    with exit_on_user_error():
        hub.pull(repository, folder, what, revision)


@app.command()
def attribute(
    image: Annotated[str, typer.Argument(help="An image file, or the row of a test image.")],
    method: Annotated[
        str, typer.Option(help="How: rapipe methods map lists them.")
    ] = "integrated-gradients",
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a trained one; repeat it. Without: all of the first backbone and seed."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The PNG file to draw.")] = Path("attribution.png"),
    as_json: AsJson = False,
) -> None:
    """Draw which pixels of an image speak for the class that classifiers predict."""
    from rapipe import paths
    from rapipe.pipeline.attribute import run
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        rows = run(load_checked(paths.PARAMS), image, method, classifier or (), out)
        show(rows, as_json)
        say(f"{out} shows the maps")


@app.command()
def explore(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8000,
    opened: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write a static copy into this new folder instead.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images of the static copy.", min=1)] = 200,
) -> None:
    """Ask classifiers about images in a browser: neighbours, what if, the map, mistakes."""
    from rapipe import paths
    from rapipe.pipeline import explore as explorer
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        params = load_checked(paths.PARAMS)
        if export:
            explorer.export(params, export, images)
        else:
            explorer.serve(params, host, port, opened)


@app.command(name="map")
def draw_map(
    method: Annotated[str, typer.Option(help="pca, or umap (pip install 'rapipe[umap]').")] = "pca",
) -> None:
    """Lay all images out in two dimensions, for the map of the explorer."""
    from rapipe import paths
    from rapipe.pipeline.explore import draw
    from rapipe.pipeline.running.check_names import load_checked

    with exit_on_user_error():
        draw(load_checked(paths.PARAMS), method)


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
