"""All that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence, History
from rapipe.evaluation.results import Results, Row
from rapipe.records import Images
from rapipe.report.pictures import Neighbourhood


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
    corpus: dict[str, Any]
    """Its card."""
    train: Images
    validation: Images
    test: Images
    neighbourhoods: Sequence[Neighbourhood]
    contact_sheet: bytes
    """PNG of images of the corpus."""
    setting: str
    """What was run on what: a paragraph of HTML."""
