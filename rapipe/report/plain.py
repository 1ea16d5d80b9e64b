"""What the page of a study without retrieval shows in other words, or otherwise.

Each function is a section, as in `report.sections`.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.report import (
    accuracy,
    attribution_maps,
    calibration,
    claims,
    headline,
    learning_curves,
    robustness,
    shifts,
)
from rapipe.report.material import Material
from rapipe.report.style import (
    Line,
    band,
    curves_over_noise,
    finish,
    log_axis,
    looks,
    panels_of,
    points_of,
    styled,
)
from rapipe.report.tables import Table


def contact_sheet(material: Material) -> bytes:
    """Images of the corpus.

    Some training images of each class, drawn at random, and how many there are.
    """
    return material.contact_sheet


def accuracy_by_shift(evidence: Evidence) -> Figure:
    """The first figure of the page.

    Test accuracy in percent of each classifier: on clean images, at the strongest noise, and the
    mean over corruptions. Bars are 95 % intervals over the choice of test images and, where there
    are several, of seeds; of corruptions over three seeds or more, and else there are none. Each
    panel has a scale of its own.
    """
    return headline.headline(evidence)


def accuracy_on_test(material: Material) -> Table:
    """The first table of the page.

    Percent of the whole test split, mean ± standard deviation over seeds. Each classifier is the
    epoch that was best on validation. Noise is Gaussian on images in [0, 1], clipped and rounded.
    The interval is of clean accuracy, over the choice of test images and, where there are several,
    of seeds.
    """
    return accuracy.accuracy(material).without("retrieval", "k", "memory")


def comparisons(material: Material) -> Table:
    """Every two classifiers.

    Each line compares two classifiers on the same test images: clean ones, and those with the
    strongest noise. The interval is a bootstrap over images and seeds. The first p-value is the
    largest of McNemar's tests, one a training, the second also of a t-test over seeds; both are
    corrected for the number of lines (Holm). “Better” needs all of them, and three seeds; interval
    and McNemar's tests alone allow to say what was seen.
    """
    return claims.comparison_table(material.comparisons).without("without near duplicates")


@styled
def accuracy_by_step(evidence: Evidence) -> Figure | None:
    """Test accuracy of all classifiers on one pair of axes.

    Test accuracy against optimiser steps, on a log scale; a band is the standard deviation
    over seeds, and there is none for one seed. No choice was made on these measurements.
    """
    look, title = looks(evidence.backbones), "Test accuracy against optimiser steps"
    figure, panels = panels_of([""], title)
    axes = panels[""]
    for condition, histories in evidence.histories.items():
        points = learning_curves.accuracy_points(histories)
        band(axes, points, condition.backbone, look[condition.backbone])
    log_axis(axes)
    axes.set_xlabel("optimiser step")
    finish(panels, "test accuracy")
    return figure


def efficiency(evidence: Evidence) -> Table:
    """A line a classifier.

    Area: mean test accuracy from the first to the last measurement, over images seen; and the
    first measured step with a test accuracy.
    """
    return learning_curves.efficiency(evidence).without("retrieval", "minus none [95 %]")


def accuracy_over_noise(evidence: Evidence) -> Figure | None:
    """Test accuracy of all classifiers on one pair of axes.

    Test accuracy as noise grows. Classifiers saw no noise in training but for those with +noise,
    and for a train.augment that adds it.
    """
    if len(evidence.levels) < 2:
        return None
    look = looks(evidence.backbones)
    lines = {
        condition.backbone: Line(points_of(evidence, stack.correct), look[condition.backbone])
        for condition, stack in evidence.stacks.items()
    }
    title = "Test accuracy against noise, with 95 % intervals"
    return curves_over_noise({"": lines}, title, "test accuracy")


def noise_augmentation(evidence: Evidence) -> Figure | None:
    """{noise in training or not}, for backbones that have both.

    The same classifier trained on clean images, and with noise on half of them.
    """
    return robustness.noise_augmentation(evidence)


def risk_coverage(evidence: Evidence) -> Figure:
    """Share of errors among the images answered, against the share answered.

    Errors among the images that are answered, if those of the least confidence are left out
    first. First seed.
    """
    return calibration.risk_coverage(evidence)


def scores(evidence: Evidence) -> Table:
    """ECE and area under risk-coverage at each noise level.

    ECE is the expected gap between confidence and accuracy. AURC is the mean error rate over
    all shares answered; confidence that knows nothing has that of answering all.
    """
    return calibration.scores(evidence).without("retrieval")


def corruptions(evidence: Evidence) -> Table:
    """Test accuracy on corrupted images.

    Percent of the test split, mean over seeds. The corruptions are those of CIFAR-10-C, by name
    and severity (Hendrycks and Dietterich, ICLR 2019).
    """
    return shifts.corruptions(evidence).without("retrieval", "mean CE", "relative CE")


def elsewhere(evidence: Evidence) -> Table:
    """Accuracy on images from elsewhere.

    Sources with `role: shift`, of which nothing was learned: percent of their images of classes
    that the task has, mean over seeds.
    """
    return shifts.elsewhere(evidence).without("retrieval")


def maps(material: Material) -> Figure | None:
    """Attribution maps of test images by every classifier.

    Orange pixels speak for the class that the classifier predicts, blue ones against it. Above
    each image the class and its probability; dashed frames are wrong. Integrated gradients from
    the mean colour of the training images, of the first seed.
    """
    return attribution_maps.pictures(material)


def left_out(material: Material) -> Table:
    """Results that are not on this page.

    Found in results/runs, but not comparable with the others: made with other parameters, or of
    other images or classifiers.
    """
    rows = [[name, reason] for name, reason in material.results.left_out.items()]
    return Table(["results", "why"], rows)
