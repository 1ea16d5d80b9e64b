"""How well does a classifier do on clean images, and on noisy ones?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapipe import metrics
from rapipe.classifier import Classifier
from rapipe.encoder import Encoder
from rapipe.neighbours import STRATEGIES
from rapipe.progress import track
from rapipe.records import Embeddings, Images, Neighbours, Pixels
from rapipe.retrieved import Bank
from rapipe.search import Keys, Method
from rapipe.views import gaussian_noise


@dataclass(frozen=True)
class Lookup:
    """What a classifier needs to look up neighbours of any image.

    The query is the embedding of the image as the classifier sees it, noise included.
    """

    encoder: Encoder
    bank: Embeddings
    strategy: str
    k: int
    seed: int
    method: Method

    def __call__(self, images: Images, pixels: Pixels) -> Neighbours:
        """Neighbours (N, k) of `images` seen as `pixels`; their own ids are left out."""
        queries = Keys(images.ids, self.encoder.embed(pixels))
        find = STRATEGIES[self.strategy]
        return find(queries, self.bank, self.k, self.seed, self.method)


def evaluate(
    classifier: Classifier,
    images: Images,
    levels: Sequence[float],
    lookup: Lookup | None,
    seed: int,
) -> tuple[list[dict[str, float]], list[float | None]]:
    """Scores at each noise level (0 = clean), and by class at the first, over all images.

    Args:
        levels: standard deviations of Gaussian noise, on [0, 1].
        lookup: how to find neighbours; None for a classifier without retrieval.
        seed: of the noise.

    Returns:
        Rows with noise_std, top1, top3 (0 to 1), nll (nats), ece, n_test and, where
        neighbours were searched, neighbour_recall (1.0 = exact); and
        at the first level the top1 of each class.
    """
    device = classifier.head.weight.device
    bank = Bank(lookup.bank, classifier.spec.classes, device) if lookup else None
    rows: list[dict[str, float]] = []
    by_class: list[float | None] = []
    for std in track(levels, "evaluating", len(levels)):
        pixels = gaussian_noise(images.pixels, images.ids, std, seed)
        found = lookup(images, pixels) if lookup else None
        logits = classifier.predict(pixels, bank, found.indices if found else None)
        scores = metrics.summarise(logits, images.labels)
        if not rows:
            by_class = metrics.by_class(logits, images.labels, len(images.classes))
        rows.append({"noise_std": std, **scores, "n_test": len(images)})
        if found and "recall" in found.found_by:
            rows[-1]["neighbour_recall"] = found.found_by["recall"]
    return rows, by_class
