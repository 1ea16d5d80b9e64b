"""All that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from rapipe.evaluation.ablations import Ablation
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence, History
from rapipe.evaluation.measures.attribution_maps.record import AttributionMaps
from rapipe.evaluation.results import Condition, Results, Row
from rapipe.evaluation.uses import Curve
from rapipe.records import Images
from rapipe.report.pictures import Neighbourhood


@dataclass(frozen=True)
class GeneratedImages:
    """What is known of the generated images."""

    card: dict[str, Any]
    """How they were made."""
    quality: dict[str, Any]
    """Distances to validation images, and of each to the nearest training image."""
    pairs: Sequence[dict[str, str]]
    """Each with the nearest training image, the nearest first."""
    sheet: bytes
    """PNG of some of each class."""
    reverse: bytes
    """PNG of how they come out of noise; empty where there are no steps."""


@dataclass(frozen=True)
class RateCurve:
    """How the learning rate of one training was found."""

    rows: History
    """The rates that were tried, rising, each with its smoothed loss."""
    rate: float
    """The one that was taken."""


@dataclass(frozen=True, kw_only=True)
class Material(Evidence):
    """The evidence of the present classifiers, and what the page shows beside it."""

    results: Results
    """Of other k, banks and memories too."""
    comparisons: Sequence[Comparison]
    counterfactual_rows: Sequence[Row]
    """A row a condition, noise level and counterfactual: means over seeds."""
    leakage: dict[str, Any]
    """What the audit found."""
    duplicates: Sequence[dict[str, str]]
    """The near duplicates, and the images of the memory that they are like."""
    label_errors: Sequence[dict[str, str]]
    """Images whose label is possibly wrong, the most suspicious first."""
    pretraining: History
    pretraining_pictures: Mapping[str, npt.NDArray[Any]]
    """Attention maps and reconstructions of a few images, as `rapipe.pretraining.pictures`."""
    downstream: Sequence[Curve]
    """Accuracy by epoch of pretraining, of the encoders that were measured."""
    corpus: dict[str, Any]
    """Its card."""
    train: Images
    validation: Images
    test: Images
    neighbourhoods: Sequence[Neighbourhood]
    attribution_maps: Mapping[Condition, AttributionMaps]
    """Of the first seed."""
    contact_sheet: bytes
    """PNG of images of the corpus."""
    generated: GeneratedImages | None
    """None where no source is generated."""
    ablations: Sequence[Ablation]
    """What else differs among the results that were kept of these classifiers."""
    ablation_notes: Sequence[str]
    """Sentences on what is in none of them."""
    setting: str
    """What was run on what: a paragraph of HTML."""
    rate_curves: Mapping[Condition, Sequence[RateCurve]]
    """One a seed, of classifiers whose learning rate was looked for."""
