"""rapipe: retrieval-augmented perception, from a corpus of images to evidence.

Names are imported when they are first used, so that `import rapipe` is instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.11.0"

PUBLIC = {
    **dict.fromkeys(
        (
            *("embed", "evaluate", "images_of", "load_images", "load_pixels", "predict"),
            "split_images",
        ),
        "api",
    ),
    "Beside": "classifier.train",
    "Classifier": "classifier.classifier",
    "Decoding": "corpus.decode",
    "Embeddings": "records",
    "Encoder": "encoder.encoder",
    "EncoderSpec": "encoder.encoder",
    "FusionSpec": "specs",
    "Images": "records",
    "Neighbours": "records",
    "Predictor": "prediction.predictor",
    "PretrainingRecipe": "specs",
    "Retriever": "encoder.retriever",
    "Store": "retrieval.store",
    "TrainingRecipe": "specs",
    "export": "prediction.exported",
    "load": "prediction.exported",
    "pretrain": "pretraining.pretrain",
    "search": "retrieval.search",
    "train_classifier": "classifier.train",
}
"""The public names, and the module of each."""

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"rapipe has no {name}; it has {', '.join(PUBLIC)}")
    return getattr(import_module(f"rapipe.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
