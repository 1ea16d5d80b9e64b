"""Stage report: figures, the page, and the same data as CSV and JSON."""

from __future__ import annotations

from dataclasses import replace

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.names import PRETRAINED, SELF, ClassifierName
from rapipe.config.schema import IMPORTED, NO_OBJECTIVE, Params
from rapipe.config.variants import variants
from rapipe.evaluation.ablations import BACKBONE, Ablation, find_ablations
from rapipe.evaluation.comparisons import compare_backbones, compare_strategies
from rapipe.evaluation.evidence import History
from rapipe.evaluation.measures.attribution_maps.record import AttributionMaps
from rapipe.evaluation.results import CONTROL, Condition, Results
from rapipe.io import provenance, weights
from rapipe.io.atomic import atomic_write
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import read_numbers, write_csv, write_json
from rapipe.pipeline.compare import read_trials
from rapipe.pipeline.inputs import (
    PARAMS,
    bank_card,
    checked,
    encoder_fingerprint,
    images_of,
    labelled,
    present_corpus,
    present_encoder,
    present_generated,
    quality_facts,
    read_card,
    read_result,
    shifts_card,
)
from rapipe.pipeline.pretraining_results import read_curves, read_history, read_pictures
from rapipe.pipeline.results import (
    read_audit,
    read_duplicates,
    read_evidence,
    read_label_errors,
    read_memorisation,
    read_results,
)
from rapipe.progress import say
from rapipe.records import Embeddings, Images, Neighbours
from rapipe.report import summary
from rapipe.report.build import build
from rapipe.report.counterfactuals import counterfactual_rows
from rapipe.report.material import GeneratedImages, Material, RateCurve
from rapipe.report.pictures import Neighbourhood, neighbourhoods_of
from rapipe.report.setting import (
    encoder_sentence,
    encoder_words,
    fusion_words,
    setting_words,
)
from rapipe.retrieval.search import describe_search

READS = (
    paths.BASELINES,
    paths.BASELINE_ANSWERS,
    paths.CORPUS,
    paths.DUPLICATES,
    paths.EVIDENCE,
    paths.GENERATED,
    paths.LABEL_ERRORS,
    paths.LEAKAGE,
    paths.MEMORISATION,
    paths.MODELS,
    paths.NEIGHBOURS,
    paths.PRETRAINING,
    paths.QUALITY,
)
WRITES = (paths.PAGE,)
LEARNING_RATE = "learning_rate"
"""In `train.tune`."""


def run(params: Params) -> None:
    """Write `results/`: figures, `index.html`, its summary, and what they show as CSV and JSON.

    Where no classifier with neighbours has been evaluated, the page is of those without.
    """
    params = evaluated(params)
    material = read_material(params)
    report = build(material, bool(params.retrieval.strategies))
    write_csv(paths.TABLE, material.results.rows())
    write_csv(paths.CURVES, summary.curves(material))
    write_csv(paths.CLAIMS, [comparison.row for comparison in material.comparisons])
    write_csv(paths.COUNTERFACTUALS, material.counterfactual_rows)
    write_json(paths.METRICS, summary.metrics(material))
    with atomic_folder(paths.FIGURES) as folder:
        for name, data in report.figures.items():
            atomic_write(folder / f"{name}.png", data)
    atomic_write(paths.SUMMARY, report.summary.encode())
    atomic_write(paths.PAGE, report.page.encode())


def evaluated(params: Params) -> Params:
    """The parameters, without strategies if there is no result of any."""
    retrieving = [variant for variant in variants(params) if variant.retrieval != "none"]
    if not retrieving or any((paths.RUNS / f"{v.name}.json").exists() for v in retrieving):
        return params
    say("no classifier with neighbours has been evaluated: the page is of those without")
    return replace(params, retrieval=replace(params.retrieval, strategies=()))


def read_material(params: Params) -> Material:
    """All that the page shows."""
    results = read_results(params)
    evidence = read_evidence(params, results)
    retrieving = bool(params.retrieval.strategies)
    leakage = read_audit(params, results) if retrieving else {}
    encoder = bank_card()["encoder"] if retrieving else start_encoder(params)
    pretraining = read_history(encoder) if encoder else []
    train = images_of("train")
    ablations, ablation_notes = read_ablations(params)
    return Material(
        **vars(evidence),
        results=results,
        comparisons=(compare_strategies if retrieving else compare_backbones)(evidence),
        counterfactual_rows=counterfactual_rows(evidence),
        leakage=leakage,
        duplicates=read_duplicates(leakage) if retrieving else [],
        label_errors=read_label_errors(leakage) if retrieving else [],
        pretraining=pretraining,
        pretraining_pictures=read_pictures() if encoder else {},
        downstream=read_curves(params),
        corpus=present_corpus(params),
        train=train,
        validation=images_of("validation"),
        test=images_of("test"),
        neighbourhoods=neighbourhoods(params, train),
        attribution_maps=read_maps(params, results),
        contact_sheet=checked(paths.CONTACT_SHEET).read_bytes(),
        generated=read_generated(params),
        ablations=ablations,
        ablation_notes=ablation_notes,
        setting=setting(params, pretraining),
        rate_curves=read_rates(params, results),
    )


def start_encoder(params: Params) -> str:
    """Fingerprint of the encoder if a classifier starts from what it was pretrained by; or ""."""
    grid = params.classifiers
    names = map(ClassifierName.parse, (*grid.backbones, *([grid.distill] if grid.distill else ())))
    return encoder_fingerprint() if any(name.initial == PRETRAINED for name in names) else ""


def read_ablations(params: Params) -> tuple[list[Ablation], list[str]]:
    """What differs among the kept results of the present classifiers, but for k and bank.

    Those have figures of their own. That backbones differ is news where nothing else is shown.
    """
    present = {(v.backbone, v.retrieval) for v in variants(params)}
    trials, notes = read_trials()
    shown = [trial for trial in trials if (trial.backbone, trial.retrieval) in present]
    ablations, more = find_ablations(shown, present=deciding.of_params(params))
    figures = {("retrieval.k",), ("retrieval.bank",)}
    if params.retrieval.strategies:
        figures.add((BACKBONE,))
    ablations = [ablation for ablation in ablations if ablation.keys not in figures]
    return ablations, [*notes, *more] if ablations else []


def read_generated(params: Params) -> GeneratedImages | None:
    """What generated images are, if there are some; `UserError` unless all of it is present."""
    if not params.generated_sources:
        return None
    card, quality = present_generated(params), read_result(paths.QUALITY)
    provenance.check(paths.QUALITY, quality.get(PARAMS), quality_facts(), "audit")
    return GeneratedImages(
        card,
        quality,
        read_memorisation(quality),
        checked(paths.GENERATED_SHEET).read_bytes(),
        checked(paths.REVERSE).read_bytes() if paths.REVERSE.exists() else b"",
    )


def read_maps(params: Params, results: Results) -> dict[Condition, AttributionMaps]:
    """The attribution maps of each condition's first seed, for the same test images."""
    maps: dict[Condition, AttributionMaps] = {}
    for variant in variants(params) if params.evaluate.maps else ():
        condition = Condition.of(results.runs[variant.name]["rows"][0])
        if condition not in maps:
            file = checked(paths.EVIDENCE / variant.name / paths.MAPS)
            maps[condition] = AttributionMaps.read(file)
    return maps


def read_rates(params: Params, results: Results) -> dict[Condition, list[RateCurve]]:
    """How learning rates were found, of the classifiers whose rate was looked for."""
    curves: dict[Condition, list[RateCurve]] = {}
    for variant in variants(params) if LEARNING_RATE in params.train.tune else ():
        folder = paths.MODELS / variant.name
        rate = read_card(folder / weights.CARD)["tuned"][LEARNING_RATE]
        condition = Condition.of(results.runs[variant.name]["rows"][0])
        curve = RateCurve(read_numbers(checked(folder / paths.RATES)), rate)
        curves.setdefault(condition, []).append(curve)
    return curves


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
    encoder, retrieval, sentence, looked_up = params.pretrain, params.retrieval, "", ""
    if pretraining:
        card = present_encoder(params)
        training = f"by {encoder.objective}, {encoder.epochs} epochs"
        if encoder.objective in (NO_OBJECTIVE, IMPORTED):
            training = "as it is"
        words = encoder_words(card["spec"], card.get("published", {}), training)
        sentence = encoder_sentence(words, pretraining[-1])
    if retrieval.strategies:
        cards = [read_card(paths.table_card(name))["test"] for name in retrieval.strategies]
        searches = [describe_search(card, retrieval.k) for card in cards if "recall" in card]
        by = "; ".join(dict.fromkeys(searches)) or "chance"
        noisy = any(name.noisy for name in params.classifiers.names)
        noise = retrieval.query_noise, noisy
        looked_up = fusion_words(f"k = {retrieval.k} by {by}", retrieval.fusion_spec, *noise)
    size = params.corpus.image_size
    corpus, shifts = present_corpus(params), shifts_card()["sources"]
    return setting_words(corpus, shifts, size, sentence, params.train, looked_up, initial(params))


def initial(params: Params) -> str:
    """Sentences on what classifiers start from, and learn from besides all labels."""
    fraction, classifiers = params.train.label_fraction, params.classifiers
    sentences = []
    if fraction < 1:
        memory = (
            ", to classifiers and memory alike; the figures of the encoder above, which nothing is "
            "chosen by, use all"
        )
        known = memory if params.retrieval.strategies else ""
        sentences.append(f"Of the training labels {fraction:.0%} are known{known}.")
    if classifiers.distill:
        sentences.append(f"The teacher of +distilled is {classifiers.distill}.")
    if isinstance(classifiers.init, dict):
        starts = (f"{name} from {init}" for name, init in classifiers.init.items())
        sentences.append(f"+checkpoint starts {', '.join(starts)}.")
    elif classifiers.init:
        sentences.append(f"+checkpoint starts from {classifiers.init}.")
    return " ".join(sentences)
