"""The sections of the page in their order; to add a figure or a table is to add a line here.

A section is a function of all that the page shows. Its docstring is a line for who reads the
code; what follows that line stands on the page, for any reader.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

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
    generated,
    heads,
    influence,
    label_errors,
    leakage,
    learning_curves,
    pictures,
    plain,
    pretraining,
    robustness,
    shifts,
    starts,
    tuning,
)
from rapipe.report.material import Material
from rapipe.report.tables import Table

Content = Figure | Table | str | bytes | None
"""A figure, a table, HTML or a PNG; None or empty where there is nothing to show."""


class Section(NamedTuple):
    """A part of the page."""

    name: str
    """Of its file in results/figures too, if it is a figure."""
    heading: str
    content: Callable[[Material], Content]

    @property
    def words(self) -> str:
        """HTML, from the docstring."""
        _, _, words = (inspect.getdoc(self.content) or "").partition("\n\n")
        return words.replace("\n", " ")


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


SHARED = (
    *("map-sanity", "ablation", "ablation-curves", "ablation-table", "generated"),
    *("reverse", "quality", "memorisation", "pairs", "starts", "pretraining", "downstream"),
    *("encoder-attention", "reconstructions", "token-attention", "rates"),
)
"""Names of sections that speak of no retrieval."""
SECTIONS = (
    Section("setting", "Setting", setting),
    Section("short", "In short", claims.findings),
    Section("corpus", "The images", contact_sheet),
    Section("table", "Test accuracy", accuracy.accuracy),
    Section("starts", "What pretraining is worth", starts.table),
    Section("token-attention", "Graph attention among tokens", heads.table),
    Section("baselines", "Baselines: what a fusion must beat", baselines.table),
    Section("claims", "Is the difference more than chance?", claims.claims),
    Section("differences", "What neighbours add, as noise grows", robustness.differences),
    Section("steps", "Sample efficiency", learning_curves.accuracy_by_step),
    Section("efficiency", "Sample efficiency in numbers", learning_curves.efficiency),
    Section("epochs", "Test accuracy by epoch", learning_curves.accuracy_by_epoch),
    Section("rates", "How the learning rate was found", tuning.rates),
    Section("noise", "Robustness to noise", robustness.accuracy_over_noise),
    Section("cells", "Neighbours, or simply noise augmentation?", robustness.noise_augmentation),
    Section("corruptions", "Robustness to other corruptions", shifts.corruptions),
    Section("shifts", "Images from elsewhere", shifts.elsewhere),
    Section("trust", "Does it know when to trust?", shifts.trust_over_noise),
    Section("matrix", "Trained with some neighbours, tested with others", counterfactuals.matrix),
    Section("counterfactuals", "Does it use what it looks up?", counterfactuals.dots),
    Section("counterfactual-table", "Counterfactuals in numbers", counterfactuals.tables),
    Section("drift", "Drift: what noise does to the neighbours", drift.drift_over_noise),
    Section("losses", "Who fails under noise?", drift.losses_over_noise),
    Section("reliability", "Calibration: does it know what it knows?", calibration.reliability),
    Section("risk", "Risk and coverage: what abstention buys", calibration.risk_coverage),
    Section("calibration", "Calibration and abstention in numbers", calibration.scores),
    Section("attribution", "Attribution: which neighbours matter?", influence.attribution),
    Section("heads", "Attention entropy of each head", influence.attention_entropy),
    Section("influence-table", "Influence: what helped and harmed most", influence.table),
    Section("influence", "Images of the memory that helped and harmed most", influence.images),
    Section("maps", "Which pixels matter?", attribution_maps.pictures),
    Section("map-sanity", "Do the maps say anything?", attribution_maps.sanity),
    Section("edits", "After edits of the memory", accuracy.edits),
    Section("k", "Number of neighbours", ablations.accuracy_by_k),
    Section("bank", "Size of the memory", ablations.accuracy_by_bank),
    Section("ablation", "Ablations: what else was changed", ablations.final_accuracy),
    Section("ablation-curves", "Ablations by epoch", ablations.learning_curves),
    Section("ablation-table", "Ablations in numbers", ablations.table),
    Section("labels", "Are the labels right?", label_errors.findings),
    Section("label-errors", "The most suspicious labels", label_errors.pictures),
    Section("label-error-table", "The most suspicious labels in numbers", label_errors.table),
    Section("leakage", "Leakage audit", leakage.findings),
    Section("similarity", "How like the memory is the test?", leakage.similarity),
    Section("near-duplicates", "The test images most like the memory", leakage.near_duplicates),
    Section("without", "Test accuracy without them", leakage.accuracy_without),
    Section("generated", "Generated images", generated.sheet),
    Section("reverse", "How they come out of noise", generated.reverse),
    Section("quality", "How like real images are they?", generated.quality),
    Section("memorisation", "Are they copies of training images?", generated.memorisation),
    Section("pairs", "The generated images most like a training image", generated.pairs),
    Section("pretraining", "The encoder", pretraining.curves),
    Section("downstream", "What pretraining longer is worth", downstream.by_epoch),
    Section("encoder-attention", "What the encoder looks at", pretraining.attention),
    Section("reconstructions", "Masked and reconstructed", pretraining.reconstructions),
    Section("gallery", "What is looked up", gallery),
    Section("left-out", "Results that are left out", left_out),
)
PLAIN_SECTIONS = (
    Section("setting", "Setting", setting),
    Section("corpus", "The images", plain.contact_sheet),
    Section("table", "Test accuracy", plain.accuracy_on_test),
    Section("claims", "Is the difference more than chance?", plain.comparisons),
    Section("steps", "Sample efficiency", plain.accuracy_by_step),
    Section("efficiency", "Sample efficiency in numbers", plain.efficiency),
    Section("noise", "Robustness to noise", plain.accuracy_over_noise),
    Section("cells", "What noise in training does", plain.noise_augmentation),
    Section("corruptions", "Robustness to other corruptions", plain.corruptions),
    Section("shifts", "Images from elsewhere", plain.elsewhere),
    Section("reliability", "Calibration: does it know what it knows?", calibration.reliability),
    Section("risk", "Risk and coverage: what abstention buys", plain.risk_coverage),
    Section("calibration", "Calibration and abstention in numbers", plain.scores),
    Section("maps", "Which pixels matter?", plain.maps),
    *(section for section in SECTIONS if section.name in SHARED),
    Section("left-out", "Results that are left out", plain.left_out),
)
"""Of a study without retrieval."""
