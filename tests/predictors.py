"""Predictors for tests: small networks with random weights, and the images in their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from conftest import make_images, make_spec

import rapipe
from rapipe.classifier.classifier import Classifier
from rapipe.corpus.decode import Decoding
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.encoder.retriever import Retriever
from rapipe.prediction.predictor import Predictor
from rapipe.records import Images
from rapipe.retrieval.strategies import RetrievalRequest

K, SIDE = 4, 16
CLASSES = ("ant", "bee", "cat")
STORED = 40


def stored_images() -> Images:
    """The images in the memory, with ids by their pixels; every fifth has no label."""
    images = make_images(STORED, seed=3)
    labels = np.where(np.arange(STORED) % 5, images.labels, -1)
    stored: Images = rapipe.images_of(images.pixels, labels, CLASSES)
    return stored


def predictor_of(
    strategy: str = "knn", backbone: str = "alexnet", side: int = SIDE, **options: Any
) -> Predictor:
    """A predictor of three classes; without retrieval if the strategy is `none`.

    Args:
        side: of the stored images; networks see 16 pixels.
        options: of `make_spec`, such as `fusion`.
    """
    torch.manual_seed(0)
    decoding = Decoding(side)
    if strategy == "none":
        return Predictor(Classifier(make_spec(backbone, 8, attend="")), CLASSES, decoding)
    encoder = Encoder(EncoderSpec("alexnet", 4, "half", 16, (0.5,) * 3, (0.3,) * 3))
    images = stored_images()
    bank = rapipe.embed(encoder, images)
    spec = make_spec(backbone, 8, dimension=encoder.features, **options)
    classifier = Classifier(spec)
    for parameter in classifier.fusions.parameters():  # else the last layers are zeros
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.3)
    retriever = Retriever(encoder, bank, strategy, RetrievalRequest(K, 0, replay=30), 3)
    return Predictor(classifier, CLASSES, decoding, retriever)
