"""The sections of the page in their order; to add a figure or a table is to add a line here.

The first figure of a section stands open, above its lead; all other parts are folded.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rapipe.report import (
    ablations,
    accuracy,
    attribution_maps,
    baselines,
    calibration,
    claims,
    counterfactuals,
    downstream,
    drift,
    forest,
    generated,
    heads,
    influence,
    label_errors,
    leads,
    leakage,
    learning_curves,
    pictures,
    pretraining,
    robustness,
    shifts,
    starts,
    tuning,
)
from rapipe.report.material import Material
from rapipe.report.parts import Part, Section
from rapipe.report.tables import Table


def setting(material: Material) -> str:
    """What was run on what."""
    return material.setting


def left_out(material: Material) -> Table:
    """Results that are not on this page.

    Found in results/runs, but not comparable with the others: made with other parameters, of other
    images, or of another memory.
    """
    rows = [[name, reason] for name, reason in material.results.left_out.items()]
    return Table(["results", "why"], rows)


def contact_sheet(material: Material) -> bytes:
    """Images of the corpus.

    Some training images of each class, drawn at random, and how many there are. Unlabelled ones
    come first: they may be looked up, and are neither learned nor tested.
    """
    return material.contact_sheet


def gallery(material: Material) -> Figure | None:
    """Neighbourhoods of test images.

    Test images (left) and their nearest neighbours in memory with cosine similarity. Solid blue
    frames: same class; dashed orange ones: another.
    """
    return pictures.gallery(material.neighbourhoods) if material.neighbourhoods else None


SECTIONS = (
    Section(
        "Accuracy",
        "Is it more accurate, beyond chance?",
        leads.accuracy,
        (
            Part("forest", "Differences to every baseline", forest.against_baselines),
            Part("short", "In sentences", claims.findings),
            Part("table", "Test accuracy", accuracy.accuracy),
            Part("baselines", "Baselines: what a fusion must beat", baselines.table),
            Part("claims", "Is the difference more than chance?", claims.claims),
            Part("starts", "What pretraining is worth", starts.table),
            Part("token-attention", "Graph attention among tokens", heads.table),
        ),
    ),
    Section(
        "Efficiency",
        "Does it learn faster?",
        leads.efficiency,
        (
            Part("steps", "Sample efficiency", learning_curves.accuracy_by_step),
            Part("efficiency", "Sample efficiency in numbers", learning_curves.efficiency),
        ),
    ),
    Section(
        "Shift",
        "Does it stand noise and corruptions better?",
        leads.shift,
        (
            Part("noise", "Robustness to noise", robustness.accuracy_over_noise),
            Part("differences", "What neighbours add, as noise grows", robustness.differences),
            Part(
                "cells", "Neighbours, or simply noise augmentation?", robustness.noise_augmentation
            ),
            Part("corruptions", "Robustness to other corruptions", shifts.corruptions),
            Part("shifts", "Images from elsewhere", shifts.elsewhere),
            Part("drift", "Drift: what noise does to the neighbours", drift.drift_over_noise),
            Part("losses", "Who fails under noise?", drift.losses_over_noise),
        ),
    ),
    Section(
        "Use of neighbours",
        "Does it use its neighbours?",
        leads.neighbours,
        (
            Part("counterfactuals", "Counterfactuals", counterfactuals.dots),
            Part("counterfactual-table", "Counterfactuals in numbers", counterfactuals.tables),
            Part(
                "matrix", "Trained with some neighbours, tested with others", counterfactuals.matrix
            ),
            Part("gallery", "What is looked up", gallery),
            Part("attribution", "Attribution: which neighbours matter?", influence.attribution),
            Part("heads", "Attention entropy of each head", influence.attention_entropy),
            Part("influence", "Images of the memory that helped and harmed most", influence.images),
            Part("influence-table", "Influence: what helped and harmed most", influence.table),
        ),
    ),
    Section(
        "Pixels",
        "Which pixels matter?",
        leads.pixels,
        (
            Part("maps", "Attribution maps", attribution_maps.pictures),
            Part("map-sanity", "Do the maps say anything?", attribution_maps.sanity),
        ),
    ),
    Section(
        "Trust",
        "Does it know when to trust?",
        leads.trust,
        (
            Part("trust", "Trust in the neighbours under noise", shifts.trust_over_noise),
            Part(
                "reliability", "Calibration: does it know what it knows?", calibration.reliability
            ),
            Part("risk", "Risk and coverage: what abstention buys", calibration.risk_coverage),
            Part("calibration", "Calibration and abstention in numbers", calibration.scores),
        ),
    ),
    Section(
        "Leakage",
        "Does the test leak into the memory?",
        leads.leakage,
        (
            Part("similarity", "How like the memory is the test?", leakage.similarity),
            Part("leakage", "Leakage audit", leakage.findings),
            Part(
                "near-duplicates", "The test images most like the memory", leakage.near_duplicates
            ),
            Part("without", "Test accuracy without them", leakage.accuracy_without),
        ),
    ),
    Section(
        "Labels",
        "Are the labels right?",
        leads.labels,
        (
            Part("label-errors", "The most suspicious labels", label_errors.pictures),
            Part("labels", "What contradicts the labels", label_errors.findings),
            Part("label-error-table", "The most suspicious labels in numbers", label_errors.table),
        ),
    ),
    Section(
        "Memory edits",
        "What does an edit of the memory do?",
        leads.memory,
        (
            Part("edited", "Wrong rows, and rows left out", counterfactuals.edited_memories),
            Part("edits", "After edits of the memory", accuracy.edits),
        ),
    ),
    Section(
        "Training curves",
        "How did training go?",
        leads.training,
        (
            Part("loss", "Loss by epoch", learning_curves.losses_by_epoch),
            Part("epochs", "Test accuracy by epoch", learning_curves.accuracy_by_epoch),
            Part("rates", "How the learning rate was found", tuning.rates),
        ),
    ),
    Section(
        "Ablations",
        "What if one thing differs?",
        leads.ablations,
        (
            Part("k", "Number of neighbours", ablations.accuracy_by_k),
            Part("bank", "Size of the memory", ablations.accuracy_by_bank),
            Part("ablation", "Ablations: what else was changed", ablations.final_accuracy),
            Part("ablation-curves", "Ablations by epoch", ablations.learning_curves),
            Part("ablation-table", "Ablations in numbers", ablations.table),
        ),
    ),
    Section(
        "Encoder",
        "What does the encoder know?",
        leads.encoder,
        (
            Part("pretraining", "Pretraining of the encoder", pretraining.curves),
            Part("downstream", "What pretraining longer is worth", downstream.by_epoch),
            Part("encoder-attention", "What the encoder looks at", pretraining.attention),
            Part("reconstructions", "Masked and reconstructed", pretraining.reconstructions),
        ),
    ),
    Section(
        "Generated images",
        "What are generated images worth?",
        leads.generated,
        (
            Part("generated", "Generated images", generated.sheet),
            Part("reverse", "How they come out of noise", generated.reverse),
            Part("quality", "How like real images are they?", generated.quality),
            Part("memorisation", "Are they copies of training images?", generated.memorisation),
            Part("pairs", "The generated images most like a training image", generated.pairs),
        ),
    ),
    Section(
        "Data and setting",
        "What was run on what?",
        leads.data,
        (
            Part("corpus", "The images", contact_sheet),
            Part("setting", "Setting", setting),
            Part("left-out", "Results that are left out", left_out),
        ),
    ),
)
"""In the order in which a sceptic asks."""
