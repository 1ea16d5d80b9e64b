"""What params.yaml holds of the images: `corpus`, and each of its sources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rapipe.config.names import GENERATED, MEMORY, SHIFT, TASK
from rapipe.errors import UserError, unreadable
from rapipe.io.text import quoted
from rapipe.specs import LISTED, MANY, STRICT, Finite

NAME_BYTES = 200
"""Of a name that becomes that of a file: file systems take 255, with the ending."""
HeldOut = Annotated[Finite, Field(gt=0, le=0.9)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SourceParams:
    """One source of images; `rapipe.corpus.sources` has the kinds. Only `kind` is needed."""

    kind: str
    """digits | folder | parquet | idx | mnist | fashion-mnist | svhn | cifar10 | cifar10-c |
    cifar100 | stl10 | tiny-imagenet | celeba | generated"""
    path: str = ""
    """file or folder; public data sets lie in data/raw/KIND"""
    name: str = ""
    """what retrieval.bank calls it; its kind unless given"""
    label: str = ""
    """which of several labels: an attribute of CelebA, coarse for CIFAR-100, a column of Parquet"""
    image: str = ""
    """column of Parquet with the images, image or img unless given; of cifar10-c the corruption
    and its severity, such as fog:3"""
    split: str = ""
    """column of Parquet that says train, validation or test; names of files unless given"""
    role: Literal["task", "memory", "training", "both", "shift"] = "task"
    """task (learned and tested) | memory (looked up, never a query) | training (learned, never
    looked up) | both | shift (evaluated only, by class names of the task); of memory, training and
    both nothing is tested"""
    limit: int | float = 1.0
    """training images to use, in the role shift those evaluated: a number, or a share up to 1.0"""
    weight: Annotated[Finite, Field(ge=0, le=100)] = 1.0
    """how often pretraining sees each image in an epoch; 0 = never"""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        if why := unreadable(self.name):
            raise UserError(f"corpus.sources: the name {quoted(self.name)} {why}")
        for letter in "+/\\":
            if letter in self.name:
                raise UserError(
                    f"corpus.sources: the name {quoted(self.name)} may not contain {letter!r}"
                )
        if self.kind == GENERATED:
            self._check_generated()
        if self.role == SHIFT:
            self._check_shift()
        share = isinstance(self.limit, float)
        if not 0 < self.limit <= (1 if share else MANY):
            raise UserError(
                f"corpus.sources: the limit of {self.name} is {quoted(self.limit)}; it must be a "
                "number of images of at least 1, or a share of more than 0, up to 1.0"
            )

    @property
    def labelled(self) -> bool:
        """Whether its labels are read: in the role memory only generated images have some."""
        return self.role != MEMORY or self.kind == GENERATED

    def _check_generated(self) -> None:
        """Raise `UserError` if a generated source has what only other kinds have."""
        for key in ("path", "label", "image", "split"):
            if value := getattr(self, key):
                raise UserError(
                    f"corpus.sources: the {key} of {self.name} is {quoted(value)}, but the kind "
                    f"{GENERATED} has none: leave it out"
                )
        if self.role in (TASK, SHIFT):
            raise UserError(
                f"corpus.sources: the role of {self.name} is {self.role}, but nothing is tested on "
                f"images of the kind {GENERATED}: choose training, memory or both"
            )

    def _check_shift(self) -> None:
        """Raise `UserError` if it has a weight, or a name that no file can have."""
        if self.weight != 1:
            raise UserError(
                f"corpus.sources: the weight of {self.name} is {self.weight:g}, but images of the "
                f"role {SHIFT} are never pretrained on: leave it out"
            )
        if self.name.startswith(".") or len(self.name.encode()) > NAME_BYTES:
            raise UserError(
                f"corpus.sources: the name {quoted(self.name)} is that of a file too, since its "
                f"role is {SHIFT}: it may not begin with a dot, or have over {NAME_BYTES} bytes"
            )


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CorpusParams:
    """The images."""

    sources: Annotated[tuple[SourceParams, ...], Field(max_length=LISTED)]
    """each: kind, and if need be path, name, label, image, split, role, limit, weight
    (docs/sources.md)"""
    image_size: Annotated[int, Field(ge=8, le=512)]
    """side of the square images in pixels, 8 to 512"""
    resize: Literal["crop", "squash", "pad"]
    """images that are not square: crop (keep the centre) | squash | pad"""
    background: Literal["white", "grey", "black"]
    """behind transparent images and beside padded ones: white | grey | black"""
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)]
    """larger images (width times height) are not decoded"""
    depth: Annotated[int, Field(ge=8, le=16)]
    """bits of greyscale that is stored with more than 8: 16, or 10, 12, 14 as many cameras have"""
    on_error: Literal["stop", "skip"]
    """at an image that cannot be used: stop | skip (leave it out, list it in the card)"""
    merge_classes: bool
    """whether equal class names of several sources are one class, or a mistake"""
    on_conflict: Literal["keep", "drop", "stop"]
    """at equal images of two classes: keep (and say so) | drop (leave all copies out) | stop"""
    download: bool
    """whether to fetch public data sets that are not in data/raw"""
    validation_fraction: HeldOut
    """share of train held out where a source has no validation split"""
    test_fraction: HeldOut
    """share of train held out first where a source has no test split"""

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        twice = {name for name in names if names.count(name) > 1}
        if not names:
            raise UserError("corpus.sources is empty: name at least one source")
        if twice:
            raise UserError(
                f"corpus.sources: the name {quoted(min(twice))} stands twice; give each source a "
                "`name`"
            )
        if all(source.kind == GENERATED for source in self.sources):
            raise UserError(
                f"corpus.sources: all have the kind {GENERATED}; name the images that they are "
                "generated from"
            )
        weights = [source.weight for source in self.sources if source.role != SHIFT]
        if weights and not any(weights):
            raise UserError("corpus.sources: every weight is 0, so there is nothing to pretrain on")
