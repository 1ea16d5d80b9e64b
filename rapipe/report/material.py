"""All that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence, History
from rapipe.evaluation.results import Condition, Results, Row
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
    pretraining: History
    train: Images
    test: Images
    neighbourhoods: Sequence[Neighbourhood]
    contact_sheet: bytes
    """PNG of images of the corpus."""
    setting: str
    """What was run on what: a paragraph of HTML."""

    def present_rows(self) -> list[dict[str, Any]]:
        """The rows of the results, of present conditions only those of present seeds.

        So that a mean and its interval are of the same trainings.
        """
        seeds = {
            condition: {run["rows"][0]["seed"] for run in runs}
            for condition, runs in self.runs.items()
        }
        return [
            row
            for row in self.results.rows()
            if row["seed"] in seeds.get(Condition.of(row), {row["seed"]})
        ]
