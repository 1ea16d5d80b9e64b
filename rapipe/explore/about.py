"""What there is to ask: classifiers, classes, images, and what may be hidden or changed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rapipe import __version__
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.explore.project import Project, Row
from rapipe.explore.questions import MOST_NOISE


def about(project: Project) -> Row:
    """All that the page offers; ids are texts, since JavaScript rounds them."""
    test, memory = project.test, project.memory
    facts: Row = {
        "version": __version__,
        "classes": list(test.classes),
        "test": [
            {"id": str(image_id), "class": int(label)}
            for image_id, label in zip(test.ids, test.labels, strict=True)
        ],
        "classifiers": [
            {
                "name": trained.name,
                "backbone": trained.backbone,
                "retrieval": trained.retrieval,
                "fusion": trained.fusion,
                "seed": trained.seed,
            }
            for trained in project.classifiers.values()
        ],
        "noise_std": list(project.noise_std),
        "most_noise": MOST_NOISE,
        "corruptions": list(CORRUPTIONS),
        "memory": None,
    }
    if memory:
        labels, counts = np.unique(memory.bank.labels, return_counts=True)
        of_class = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        facts["memory"] = {
            "rows": len(memory.bank),
            "dimension": int(memory.bank.vectors.shape[1]),
            "k": memory.request.k,
            "classes": [
                {"name": name, "rows": of_class.get(label, 0)}
                for label, name in enumerate(memory.classes)
            ],
            "sources": [
                {"name": name, "rows": rows}
                for name, rows in sorted(Counter(memory.bank.sources.tolist()).items())
            ],
            "versions": list(memory.versions),
        }
    return facts
