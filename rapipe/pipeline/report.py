"""Stage report: figures, the page, and the same data as CSV and JSON."""

from __future__ import annotations

from matplotlib.figure import Figure

from rapipe import paths
from rapipe.config.names import SELF
from rapipe.config.schema import IMPORTED, NO_OBJECTIVE, Params
from rapipe.evaluation.comparisons import compare_strategies
from rapipe.evaluation.evidence import History
from rapipe.evaluation.results import CONTROL
from rapipe.io import provenance
from rapipe.io.atomic import atomic_write
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import read_json, read_numbers, write_csv, write_json
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    images_of,
    labelled,
    present_corpus,
    present_encoder,
    read_card,
)
from rapipe.pipeline.results import (
    read_audit,
    read_duplicates,
    read_evidence,
    read_label_errors,
    read_results,
)
from rapipe.records import Embeddings, Images, Neighbours
from rapipe.report import style, summary
from rapipe.report.counterfactuals import counterfactual_rows
from rapipe.report.material import Material
from rapipe.report.page import page
from rapipe.report.pictures import Neighbourhood, neighbourhoods_of
from rapipe.report.sections import SECTIONS
from rapipe.report.setting import encoder_words, setting_words
from rapipe.report.tables import Table
from rapipe.retrieval.search import describe_search

READS = (
    paths.BASELINES,
    paths.BASELINE_ANSWERS,
    paths.CORPUS,
    paths.DUPLICATES,
    paths.EVIDENCE,
    paths.LABEL_ERRORS,
    paths.LEAKAGE,
    paths.MODELS,
    paths.NEIGHBOURS,
    paths.PRETRAINING,
)
WRITES = (paths.PAGE,)


def run(params: Params) -> None:
    """Write `results/`: figures, `index.html`, and what they show as CSV and JSON."""
    material = read_material(params)
    sections: list[tuple[str, str, str | bytes]] = []
    figures: dict[str, bytes] = {}
    for section in SECTIONS:
        content = section.content(material)  # in turn: no two figures need be open at once
        if isinstance(content, Figure):
            content = figures[section.name] = style.png(content)
        if isinstance(content, Table):
            content = content.html()
        if content:
            sections.append((section.heading, section.words, content))
    write_csv(paths.TABLE, material.results.rows())
    write_csv(paths.CURVES, summary.curves(material))
    write_csv(paths.CLAIMS, [comparison.row for comparison in material.comparisons])
    write_csv(paths.COUNTERFACTUALS, material.counterfactual_rows)
    write_json(paths.METRICS, summary.metrics(material))
    with atomic_folder(paths.FIGURES) as folder:
        for name, data in figures.items():
            atomic_write(folder / f"{name}.png", data)
    atomic_write(paths.PAGE, page("What is looking things up worth?", sections).encode())


def read_material(params: Params) -> Material:
    """All that the page shows."""
    results = read_results(params)
    evidence = read_evidence(params, results)
    pretraining, leakage = read_pretraining(), read_audit(params, results)
    train = images_of("train")
    return Material(
        **vars(evidence),
        results=results,
        comparisons=compare_strategies(evidence),
        counterfactual_rows=counterfactual_rows(evidence),
        leakage=leakage,
        duplicates=read_duplicates(leakage),
        label_errors=read_label_errors(leakage),
        pretraining=pretraining,
        corpus=present_corpus(params),
        train=train,
        validation=images_of("validation"),
        test=images_of("test"),
        neighbourhoods=neighbourhoods(params, train),
        contact_sheet=checked(paths.CONTACT_SHEET).read_bytes(),
        setting=setting(params, pretraining),
    )


def read_pretraining() -> History:
    """The history of the encoder that embedded the bank."""
    folder = checked(paths.PRETRAINING)
    encoder = read_json(folder / "scores.json", "pretrain").get("encoder")
    present = {"encoder": bank_card()["encoder"]}
    provenance.check(folder, {"encoder": encoder}, present, "pretrain")
    return read_numbers(folder / "history.csv")


def neighbourhoods(params: Params, train: Images) -> list[Neighbourhood]:
    """Test images with the neighbours of `knn`, or else of another strategy that searches.

    None where no strategy shows any.
    """
    names = [name for name in params.retrieval.strategies if name != SELF]
    if not names:
        return []
    order = ("knn", *(name for name in names if name != CONTROL), *names)
    strategy = next(name for name in order if name in names)
    return neighbourhoods_of(
        labelled("test"),
        Neighbours.read(checked(paths.table(strategy, "test"))),
        Embeddings.read(checked(paths.BANK)),
        bank_card()["classes"],
        train,
    )


def setting(params: Params, pretraining: History) -> str:
    """A paragraph on what was run on what."""
    encoder, retrieval = params.pretrain, params.retrieval
    card = present_encoder(params)
    training = f"by {encoder.objective}, {encoder.epochs} epochs"
    if encoder.objective in (NO_OBJECTIVE, IMPORTED):
        training = "as it is"
    cards = [read_card(paths.table_card(name))["test"] for name in retrieval.strategies]
    searches = [describe_search(card, retrieval.k) for card in cards if "recall" in card]
    return setting_words(
        present_corpus(params),
        params.corpus.image_size,
        encoder_words(card["spec"], card.get("published", {}), training),
        pretraining[-1],
        params.train,
        retrieval,
        f"k = {retrieval.k} by {'; '.join(dict.fromkeys(searches)) or 'chance'}",
        initial(params),
    )


def initial(params: Params) -> str:
    """Sentences on what classifiers start from, and learn from besides all labels."""
    fraction, classifiers = params.train.label_fraction, params.classifiers
    sentences = []
    if fraction < 1:
        sentences.append(
            f"Of the training labels {fraction:.0%} are known, to classifiers and memory alike; "
            "the figures of the encoder above, which nothing is chosen by, use all."
        )
    if classifiers.distill:
        sentences.append(f"The teacher of +distilled is {classifiers.distill}.")
    if classifiers.init:
        sentences.append(f"+checkpoint starts from {classifiers.init}.")
    return " ".join(sentences)
