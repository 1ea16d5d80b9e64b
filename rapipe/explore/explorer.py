"""Answers: what a classifier says of an image, which neighbours it saw, and what each of them did.

Letters: N images, K neighbours, C classes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.corpus.decode import decode, pixel_hash
from rapipe.device import device
from rapipe.encoder.retriever import Retriever
from rapipe.errors import ArgumentError
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.explore.project import Memory, Project, Row, Trained, png
from rapipe.explore.questions import Hidden, Question, choose
from rapipe.explore.reasons import reason
from rapipe.records import UNLABELLED, Embeddings, Images, Neighbours, Pixels
from rapipe.retrieval.search import SearchMethod
from rapipe.retrieval.votes import count_votes

NONE = "none"
UPLOADS = 64
"""Images that users brought and that are kept, the last ones."""
VIEWS, CLASSIFIERS = 3, 8
"""Banks without what is hidden, and classifiers, that are kept in memory."""
TOP = 5
"""Classes that are named, of each prediction."""


class View(NamedTuple):
    """A bank without what is hidden."""

    bank: Embeddings
    on_device: DeviceBank


class Explorer:
    """Answers questions about a project; one at a time, whoever asks.

    >>> explorer = Explorer(project)
    >>> explorer.ask(Question(image=project.test.ids[0], classifier="resnet18-knn-k32-all-s0"))
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.lock = threading.RLock()
        self.uploads: OrderedDict[int, Pixels] = OrderedDict()
        self.classifier = lru_cache(CLASSIFIERS)(self._classifier)
        self.view = lru_cache(VIEWS)(self._view)

    def _classifier(self, name: str) -> Classifier:
        return self.project.classifiers[name].read().to(device())

    def _view(self, hidden: Hidden) -> View:
        memory = self.memory
        bank, mask = memory.bank, visible(memory, hidden)
        if not mask.all():
            bank = bank.take(np.flatnonzero(mask))
        return View(bank, DeviceBank(bank, len(self.project.test.classes), device()))

    @property
    def memory(self) -> Memory:
        """What is looked up; there must be some."""
        assert self.project.memory is not None
        return self.project.memory

    def upload(self, data: bytes) -> int:
        """Keep an image that a user brings; its id.

        Raises:
            ArgumentError: it cannot be decoded.
        """
        pixels = decode(data, "this file", self.project.decoding)
        image_id = pixel_hash(pixels)
        with self.lock:
            self.uploads[image_id] = pixels
            while len(self.uploads) > UPLOADS:
                self.uploads.popitem(last=False)
        return image_id

    def image(self, image_id: int) -> Images:
        """The image of an id, of the corpus or brought, as one.

        Raises:
            ArgumentError: there is none.
        """
        image = self.project.image(image_id)
        if image is not None:
            return image
        pixels = self.uploads.get(image_id)
        if pixels is None:
            raise ArgumentError(f"`image` is {image_id}; no image has this id: bring it again")
        ids, labels = np.array([image_id], np.int64), np.array([UNLABELLED])
        classes = self.project.test.classes
        return Images(ids, pixels[None], labels, np.array(["brought"]), classes)

    def ask(self, question: Question) -> Row:
        """What a classifier says of an image, and why; see `Answering` for the keys.

        Raises:
            ArgumentError: the question names what there is not, or hides too much.
        """
        choose(question.classifier, self.project.classifiers, "classifier")
        start = time.perf_counter()
        with self.lock:
            answer = Answering(self, question).answer()
        return {**answer, "milliseconds": round(1e3 * (time.perf_counter() - start), 1)}

    def retriever(self, trained: Trained, k: int, bank: Embeddings) -> Retriever:
        """How a classifier retrieves: exactly, since one query needs no index."""
        memory = self.memory
        request = replace(memory.request, method=SearchMethod())
        request = replace(request, k=k) if k else request
        classes = len(self.project.test.classes)
        return Retriever(memory.encoder, bank, trained.retrieval, request, classes)

    def plain(self, trained: Trained) -> str:
        """The classifier of the same backbone and seed without retrieval; "" if there is none."""
        for other in self.project.classifiers.values():
            same = (other.backbone, other.seed) == (trained.backbone, trained.seed)
            if same and other.retrieval == NONE:
                return other.name
        return ""


class Answering:
    """The answer to one question.

    Its keys: `image` (id), `truth`, `picture` (PNG of the changed image, bytes), `predictions`
    (each with `name` and `classes`, the most probable first), `predicted`, `neighbours` (each with
    `id`, `class`, `source`, `similarity`, `attention`, `effect`; the nearest first), `purity`,
    `vote` (share of the neighbours by class, the largest first), `retrieval`, `fusion`, `k`, and
    `why`, in words.

    The effect of a neighbour is what leaving it out takes from the probability of the class that
    is predicted.
    """

    def __init__(self, explorer: Explorer, question: Question) -> None:
        project = explorer.project
        self.explorer, self.question = explorer, question
        self.trained = project.classifiers[question.classifier]
        self.classifier = explorer.classifier(question.classifier)
        self.names = project.test.classes
        self.original = explorer.image(question.image)
        self.pixels = changed(self.original, question, project.seed)

    def answer(self) -> Row:
        """See above."""
        label = int(self.original.labels[0])
        facts: Row = {
            "image": str(self.question.image),
            "truth": self.names[label] if 0 <= label < len(self.names) else "",
            "picture": png(self.pixels[0]),
            "classifier": self.trained.name,
            "retrieval": self.trained.retrieval,
            "fusion": self.trained.fusion,
        }
        facts |= self.alone() if self.trained.retrieval == NONE else self.with_memory()
        return {**facts, "why": reason(facts)}

    def alone(self) -> Row:
        """The answer of a classifier that looks nothing up."""
        logits = self.classifier.predict(self.pixels)
        return {**self.told([("without neighbours", logits)]), "neighbours": [], "k": 0}

    def with_memory(self) -> Row:
        """The answer of a classifier that looks up."""
        explorer, trained = self.explorer, self.trained
        bank, on_device = explorer.view(self.question.hidden)
        retriever = explorer.retriever(trained, self.question.k, bank)
        neighbours = retriever.neighbours(retriever.queries(self.original, self.pixels))
        shown, k = Shown.of(on_device, neighbours), neighbours.k
        nothing = Shown(query_vectors=neighbours.query_vectors if k else None)
        with_all, with_none = self.classifier.predict_with_each(self.pixels, [shown, nothing])
        named = [("with its neighbours" if k else "with its own vector", with_all)]
        named.append(("the same, shown none" if k else "the same, shown nothing", with_none))
        if plain := explorer.plain(trained):
            logits = explorer.classifier(plain).predict(self.pixels)
            named.append(("trained without neighbours", logits))
        facts = self.told(named)
        facts |= {**self.of_neighbours(bank, neighbours), "neighbours": [], "k": k}
        if not k:
            return facts
        label = int(with_all[0].argmax())
        left_out = self.classifier.predict(np.repeat(self.pixels, k, axis=0), *without_each(shown))
        effects = metrics.softmax(with_all)[0, label] - metrics.softmax(left_out)[:, label]
        attention = self.classifier.attention(self.pixels, shown)[0, -k:]
        rows = self.rows(bank, neighbours, attention, effects)
        return {**facts, "neighbours": rows, "bank": len(bank)}

    def told(self, named: Sequence[tuple[str, npt.NDArray[np.float32]]]) -> Row:
        """Predictions by name, and the class of the first."""
        predictions: list[Row] = []
        for name, logits in named:
            probabilities = metrics.softmax(logits)[0]
            top = np.argsort(-probabilities, kind="stable")[:TOP]
            classes = [
                {"class": self.names[c], "probability": float(probabilities[c])} for c in top
            ]
            label = int(self.original.labels[0])
            right = float(probabilities[label]) if 0 <= label < len(self.names) else None
            predictions.append({"name": name, "classes": classes, "of_truth": right})
        return {"predictions": predictions, "predicted": predictions[0]["classes"][0]["class"]}

    def of_neighbours(self, bank: Embeddings, neighbours: Neighbours) -> Row:
        """How many neighbours have each class, and the class of the image."""
        if not neighbours.k:
            return {"vote": [], "purity": None}
        labels = bank.labels[neighbours.indices]
        counts = count_votes(labels, np.ones(labels.shape), len(self.names))[0]
        order = [c for c in np.argsort(-counts, kind="stable") if counts[c]]
        vote = [{"class": self.names[c], "count": int(counts[c])} for c in order]
        label = int(self.original.labels[0])
        purity = float((labels[0] == label).mean()) if label >= 0 else None
        return {"vote": vote, "purity": purity}

    def rows(
        self,
        bank: Embeddings,
        neighbours: Neighbours,
        attention: npt.NDArray[Any],
        effects: npt.NDArray[Any],
    ) -> list[Row]:
        """One a neighbour."""
        classes = self.explorer.memory.classes
        columns = neighbours.indices[0], neighbours.similarities[0], attention, effects
        return [
            {
                "id": str(bank.ids[row]),
                "class": classes[bank.labels[row]] if bank.labels[row] >= 0 else "",
                "source": str(bank.sources[row]),
                "similarity": float(similarity),
                "attention": float(weight),
                "effect": float(effect),
            }
            for row, similarity, weight, effect in zip(*columns, strict=True)
        ]


def without_each(shown: Shown) -> Shown:
    """What K copies of an image are shown, each without another of its K neighbours: (K, K - 1).

    K is at least 1. They are predicted together, since each by itself would be padded to a batch.
    """
    bank, indices, query_vectors, similarities = shown
    assert indices is not None
    k = indices.shape[1]
    columns = np.array([np.delete(np.arange(k), j) for j in range(k)], np.int64).reshape(k, k - 1)
    return Shown(
        bank,
        indices[0][columns],
        None if query_vectors is None else np.repeat(query_vectors, k, axis=0),
        None if similarities is None else similarities[0][columns],
    )


def changed(image: Images, question: Question, seed: int) -> Pixels:
    """The pixels (1, S, S, 3) that encoder and classifier see: corrupted, then noisy.

    They are those of the evaluation, whose random numbers depend on nothing but the image and the
    seed.
    """
    pixels = image.pixels
    if question.corruption:
        pixels = CORRUPTIONS[question.corruption](pixels, image.ids, question.severity, seed)
    if question.noise_std:
        pixels = gaussian_noise(pixels, image.ids, question.noise_std, seed)
    return np.asarray(pixels)


def visible(memory: Memory, hidden: Hidden) -> npt.NDArray[np.bool_]:
    """Mask (N,) of the rows of a bank that are not hidden.

    Raises:
        ArgumentError: a class, a source or a version is named that the bank has not.
    """
    bank = memory.bank
    mask = np.ones(len(bank), np.bool_)
    if hidden.ids:
        mask &= ~np.isin(bank.ids, np.array(sorted(hidden.ids)))
    for name in hidden.classes:
        choose(name, memory.classes, "hidden.classes")
        mask &= bank.labels != list(memory.classes).index(name)
    sources = np.unique(bank.sources).tolist() if hidden.sources else []
    for name in hidden.sources:
        choose(name, sources, "hidden.sources")
        mask &= bank.sources != name
    if hidden.version:
        choose(hidden.version, memory.versions, "hidden.version")
        mask &= np.isin(bank.ids, memory.versions[hidden.version]())
    return mask
