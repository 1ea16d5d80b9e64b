"""Which classifiers there are; `inputs.classifier_card` says whether they are up to date."""

from __future__ import annotations

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.io import weights


def trained_variants(params: Params) -> list[Variant]:
    """The variants that have been trained, with the present parameters or others."""
    return [v for v in variants(params) if (paths.MODELS / v.name / weights.CARD).exists()]
