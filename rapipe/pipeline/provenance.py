"""What the stages share that fill the memory, or look things up in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.pipeline.inputs import checked

if TYPE_CHECKING:
    from rapipe.retrieval.search import SearchMethod


def encoder_fingerprint() -> str:
    """Of the encoder in `data/encoder`: its weights, and how it prepares images."""
    return weights.fingerprint(weights.read_card(checked(paths.ENCODER), "pretrain"))


def check_encoder(embedded_by: str, what: object, stage: str) -> None:
    """Raise `UserError` unless `data/encoder` has this fingerprint."""
    own = encoder_fingerprint()
    if embedded_by != own:
        raise UserError(
            f"{what} was embedded by encoder {embedded_by[:12]}, but {paths.ENCODER} is "
            f"{own[:12]}: run rapipe {stage}, or dvc repro"
        )


def method_of(params: Params) -> SearchMethod:
    """How neighbours are found."""
    from rapipe.retrieval.search import SearchMethod  # which imports torch: seconds

    own = params.retrieval
    return SearchMethod(own.backend, own.index, own.min_recall, paths.INDEX)


def describe_search(found_by: dict[str, Any], k: int) -> str:
    """How a table of k neighbours was found, in words."""
    if not found_by["sample"]:
        return f"{found_by['backend']}, exact"
    searched = found_by.get("pool", k)  # what k were chosen from
    return (
        f"{found_by['backend']} {found_by['index']} ({found_by['effort']}), which finds "
        f"{found_by['recall']:.1%} of the {searched} nearest of {found_by['sample']} queries"
    )
