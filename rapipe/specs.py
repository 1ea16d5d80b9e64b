"""Frozen specs: what library functions take, and what groups of params.yaml are made of.

A field, its range, its default and its description stand here once: `params.yaml` has the
same names, and cards and fingerprints are made of the same objects.

    >>> TrainingRecipe(epochs=3).batch_size
    64
    >>> FusionSpec(dropout=2)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: ...

Import rule: nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)
"""No value is converted, no key is ignored, and docstrings of fields are descriptions."""
NO_ENCODER = "none"
"""The encoder of a memory of imported vectors, if there is none."""
MANY = 10**9
"""More than there is of anything: where a number is only a limit."""
LISTED = 100
"""Most entries of a list."""
VECTORS, LABELS, SIMILARITIES = "vectors", "labels", "similarities"
"""What a fusion may see of neighbours."""


def at_least(low: int, most: int = MANY) -> Any:
    """A whole number from `low` on; `most` is only there to refuse what nobody can mean."""
    return Field(ge=low, le=most)


@plain_dataclass(frozen=True)
class ZeroOr(GroupedMetadata):
    """0, which turns something off, or a closed range of what works."""

    low: float
    high: float

    def __iter__(self) -> Iterator[object]:
        extra: dict[str, Any] = {"anyOf": [{"const": 0}, {"minimum": self.low}]}
        yield Field(ge=0, le=self.high, json_schema_extra=extra)
        yield AfterValidator(self.check)

    def check(self, value: float) -> float:
        """Refuse what lies between 0 and the range."""
        if 0 < value < self.low:
            raise PydanticCustomError("zero_or", "Input should be 0 or at least {low}", vars(self))
        return value


def more_than_zero(high: float) -> Any:
    """A number above 0, up to `high`."""
    return Field(gt=0, le=high)


UNCOMPARED = Field(json_schema_extra={"changes_results": False})
"""Marks what changes no result: results that differ in it alone may be compared."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[Finite, Field(ge=0, le=1)]
Rate = Annotated[Finite, more_than_zero(1)]
NoiseStd = Annotated[Finite, more_than_zero(1)]
Epochs = Annotated[int, at_least(1, 100_000)]
BatchSize = Annotated[int, at_least(2, 1_000_000)]
Limit = Annotated[int, at_least(1)]
LimitOrNone = Annotated[int, at_least(0)]
Layer = Annotated[int, at_least(1, 65_536)]
Width = Annotated[int, Field(ge=4, le=512, multiple_of=4)]
Stem = Literal["cifar", "half", "imagenet"]


ATTENDING = ("cross-attention", "distance")
"""Fusions that `FusionSpec.attend` and `stages` are of."""
APART = ("trust",)
"""Fusions from which the network learns apart."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class FusionSpec:
    """How neighbours enter a classifier."""

    fusion: str = "trust"
    """how neighbours enter the classifier: cross-attention | distance | tabr | knn-lm |
    tip-adapter | rac | modern-nca | trust"""
    attend: Literal["embedding", "label", "both"] = "embedding"
    """of cross-attention and distance, what neighbours are to them: embedding | label | both"""
    stages: Literal["all", "last"] = "last"
    """of the same, where they enter: all (after each stage of the backbone) | last (of them)"""
    gate: bool = False
    """of cross-attention, whether it may also go to no neighbour at all"""
    dropout: Probability = 0.5
    """share of training images that see no neighbours, drawn anew each step; 0 to 1"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class PretrainingRecipe:
    """How an encoder is pretrained."""

    objective: str = "byol"
    """byol | simclr | simclr-v2 | moco | simsiam | barlow-twins | vicreg | dino | mae |
    supervised | none (as it is) | imported"""
    views: str = "affine"
    """augmentation of the two views: affine (glyphs) | crop (photographs) | noisy-crop | shift |
    flip"""
    head: Annotated[tuple[Layer, ...], Field(max_length=LISTED)] = ()
    """widths of the projection head's layers: [128] is linear, [512, 128] an MLP;
    [] = the objective's own"""
    temperature: Annotated[Finite, ZeroOr(0.001, 100)] = 0.0
    """tau of simclr, simclr-v2 and moco; 0 = the objective's own"""
    local_crops: Annotated[int, Field(ge=0, le=100)] = 0
    """small crops of each image that dino's student sees beside the two views: 8 in its paper"""
    optimiser: str = "sgd"
    """sgd | adam | adamw | lars"""
    epochs: Epochs = 18
    """passes over the training images"""
    batch_size: BatchSize = 64
    """images a step"""
    learning_rate: Annotated[Finite, more_than_zero(100)] = 0.2
    """peak of the one-cycle schedule"""
    keep_every: LimitOrNone = 0
    """epochs between two encoders that are kept, for rapipe downstream; 0 = the last one alone"""
    devices: Annotated[Limit, UNCOMPARED] = 1
    """GPUs of a machine that share each batch, or processes on its CPUs"""
    nodes: Annotated[Limit, UNCOMPARED] = 1
    """machines that share it; more than one are started by torchrun"""
    accumulate: ClassVar[int] = 1
    clip: ClassVar[float] = 0.0
    average: ClassVar[str] = "none"
    patience: ClassVar[int] = 0
    tune: ClassVar[tuple[str, ...]] = ()
    measure_every: ClassVar[int] = 1
    """What `TrainingRecipe` may change, and pretraining never does."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class GenerationRecipe:
    """How a generator of labelled images is trained, and how many it makes."""

    method: str = "ddpm"
    """what the images of the source `generated` are made by: ddpm | acgan"""
    images: Limit = 100
    """of each class"""
    width: Width = 32
    """channels of the generator's first stage, a multiple of 4"""
    epochs: Epochs = 30
    """passes over the labelled training images"""
    batch_size: BatchSize = 32
    """images a step"""
    learning_rate: Annotated[Finite, more_than_zero(1)] = 0.001
    """peak of Adam's one-cycle schedule"""
    guidance: Annotated[Finite, Field(ge=0, le=100)] = 1.0
    """of ddpm: weight w of classifier-free guidance; 0 = none"""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """of ddpm: how the diffusion is reversed: ddpm (each step adds noise) | ddim (none does)"""
    steps: Annotated[int, at_least(1, 1000)] = 25
    """of ddpm: steps of the reverse process; it was trained on 1000"""
    accumulate: ClassVar[int] = 1
    clip: ClassVar[float] = 1.0
    average: ClassVar[str] = "ema"
    patience: ClassVar[int] = 0
    tune: ClassVar[tuple[str, ...]] = ()
    measure_every: ClassVar[int] = 1
    devices: ClassVar[int] = 1
    nodes: ClassVar[int] = 1
    """What `TrainingRecipe` may change, and this training never does."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainingRecipe:
    """How a classifier is trained."""

    augment: str = "none"
    """none | shift (glyphs) | flip (photographs) | affine | crop | noisy-crop | randaugment"""
    mixup: Annotated[Finite, ZeroOr(0.001, 100)] = 0.0
    """alpha of the Beta distribution that pairs of images are mixed by; 0 = not at all"""
    label_smoothing: Annotated[Finite, Field(ge=0, le=0.9)] = 0.0
    """share of the target that is spread over all classes"""
    epochs: Epochs = 6
    """passes over the training images"""
    batch_size: BatchSize = 64
    """images a batch"""
    accumulate: Limit = 1
    """batches whose gradients are added up before a step"""
    learning_rate: Rate = 0.001
    """of AdamW, at its highest"""
    schedule: str = "cosine"
    """how it falls: cosine | linear | step | constant"""
    warmup: Probability = 0.0
    """share of the steps in which it rises from 0"""
    weight_decay: Probability = 0.01
    """of AdamW"""
    clip: Annotated[Finite, ZeroOr(1e-6, 1e6)] = 0.0
    """largest norm of the gradient; 0 = any"""
    average: str = "none"
    """of the weights, over steps or epochs: none | ema | swa"""
    patience: LimitOrNone = 0
    """epochs without a better validation accuracy after which training stops; 0 = never"""
    tune: Annotated[tuple[str, ...], Field(max_length=LISTED)] = ()
    """found before training: learning_rate, batch_size"""
    loggers: Annotated[tuple[str, ...], Field(max_length=LISTED), UNCOMPARED] = ()
    """beside history.csv: csv, tensorboard, wandb, wandb-offline, trackio, mlflow"""
    measure_every: Limit = 1
    """epochs between two measurements, of which the best epoch is one; 1 = after each"""
    probe_every: Annotated[LimitOrNone, UNCOMPARED] = 0
    """steps between two measurements in the first two epochs; 0 = after each epoch only"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """of pretraining too: auto (bf16 where it is faster) | bf16 | fp32"""
    compile: Annotated[bool, UNCOMPARED] = False
    """whether torch compiles the networks, of pretraining too: minutes before the first step"""
    deterministic: Annotated[bool, UNCOMPARED] = False
    """whether a GPU gives the same bits each time, in pretraining too; slower"""
    devices: Annotated[Limit, UNCOMPARED] = 1
    """GPUs of a machine that share each batch, or processes on its CPUs"""
    nodes: Annotated[Limit, UNCOMPARED] = 1
    """machines that share it; more than one are started by torchrun"""


def deciding(spec: Any) -> dict[str, Any]:
    """The fields of a spec that results compared with each other must share, by name."""
    uncompared = {
        name
        for name, field in type(spec).__pydantic_fields__.items()
        if (field.json_schema_extra or {}).get("changes_results") is False
    }
    return {name: value for name, value in asdict(spec).items() if name not in uncompared}
