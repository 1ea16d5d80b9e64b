"""Pictures of methods that can be drawn in a moment: images before and after, and curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rapipe.batches.transforms import VIEWS
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.records import Pixels
from rapipe.training.schedules import SCHEDULES

SIDE = 64
"""Of the images, in pixels."""


@dataclass(frozen=True)
class Picture:
    """How a picture is drawn into a file, and what it shows."""

    draw: Callable[[Path], None]
    caption: str


def photograph() -> Pixels:
    """The flower of scikit-learn as one square image (1, S, S, 3)."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("flower.jpg")).crop((120, 0, 547, 427))
    return np.asarray(image.resize((SIDE, SIDE)))[None]


def corruptions(path: Path) -> None:
    """Each corruption at the severities 1, 3 and 5."""
    image, ids = photograph(), np.zeros(1, np.int64)
    _grid(
        path,
        {
            name: [image[0], *(corrupt(image, ids, severity, 0)[0] for severity in (1, 3, 5))]
            for name, corrupt in CORRUPTIONS.items()
        },
    )


def views(path: Path) -> None:
    """Three draws of each augmentation, beside the image."""
    image = photograph()
    batch = torch.from_numpy(image.repeat(3, axis=0)).permute(0, 3, 1, 2) / 255  # (3, 3, S, S)
    torch.manual_seed(0)
    rows = {}
    for name, view in VIEWS.items():
        drawn = (view(SIDE)(batch) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        rows[name] = [image[0], *drawn.numpy()]
    _grid(path, rows)


def schedules(path: Path) -> None:
    """The learning rate of each schedule, as a share of its peak."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="share of the steps", ylabel="share of the peak")
    progress = np.linspace(0, 1, 201)
    for name, schedule in SCHEDULES.items():
        axes.plot(progress, [schedule(float(share)) for share in progress], label=name)
    axes.legend()
    figure.savefig(path, dpi=150)


def _grid(path: Path, rows: dict[str, list[Pixels]]) -> None:
    """Two rows of images a line, each behind its name."""
    from matplotlib.figure import Figure

    columns = max(map(len, rows.values()))
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(2 * columns * 1.1, lines * 1.3), layout="constrained")
    grid = figure.subplots(lines, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (name, images) in enumerate(rows.items()):
        line, half = number % lines, number // lines
        for column, image in enumerate(images):
            axes = grid[line, half * columns + column]
            axes.imshow(image, interpolation="nearest")
            if column == 0:
                axes.set_title(name, loc="left", fontsize=9)
    figure.savefig(path, dpi=110)


PICTURES = {
    "corruption": Picture(corruptions, "An image, and each corruption at severity 1, 3 and 5."),
    "views": Picture(views, "An image, and three draws of each augmentation."),
    "schedule": Picture(schedules, "The learning rate by steps, without warmup."),
}
"""By the kind of method."""
