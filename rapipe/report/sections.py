"""The sections of the page in their order; to add a figure or a table is to add one here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from rapipe.report import (
    ablations,
    accuracy,
    calibration,
    claims,
    counterfactuals,
    drift,
    influence,
    leakage,
    learning_curves,
    pictures,
    pretraining,
    robustness,
)
from rapipe.report.material import Material
from rapipe.report.tables import Table

Content = Figure | Table | str | bytes | None
"""A figure, a table, HTML or a PNG; None or empty where there is nothing to show."""


class Section(NamedTuple):
    """A part of the page."""

    name: str
    """Of its file in results/figures too, if it is a figure."""
    heading: str
    words: str
    """HTML for any reader."""
    content: Callable[[Material], Content]


SECTIONS = (
    Section("setting", "Setting", "", lambda material: material.setting),
    Section("short", "In short", "", claims.findings),
    Section(
        "corpus",
        "The images",
        "Some training images of each class, drawn at random, and how many there are. "
        "Unlabelled ones come first: they may be looked up, and are neither learned nor tested.",
        lambda material: material.contact_sheet,
    ),
    Section(
        "table",
        "Test accuracy",
        "Percent of the whole test split, mean ± standard deviation over seeds. The first lines "
        "are baselines: votes of the same neighbours without any training, each with the number "
        "of neighbours that was best on validation. Each classifier is the epoch that was best "
        "on validation. Noise is Gaussian on images in [0, 1], clipped and rounded; a noisy "
        "image looks up neighbours of its noisy self. The interval is of clean accuracy, over "
        "the choice of test images and, where there are several, of seeds.",
        accuracy.accuracy,
    ),
    Section(
        "claims",
        "Is the difference more than chance?",
        "Each line compares two classifiers, or one with the best vote of its neighbours, on "
        "the same test images: clean ones, and those with the strongest noise. The interval is "
        "a bootstrap over images and seeds. The first p-value is the largest of McNemar's "
        "tests, one a training, the second also of a t-test over seeds; both are corrected for "
        "the number of lines (Holm). “Better” needs all of them; interval and McNemar's tests "
        "alone allow to say what was seen. “Without near duplicates” leaves out the test images "
        "that the audit lists.",
        claims.claims,
    ),
    Section(
        "differences",
        "What neighbours add, as noise grows",
        "Accuracy with neighbours minus that of the same classifier without, on the same test "
        "images. Each interval stands for itself: among so many some miss the truth by chance, "
        "and what may be claimed is in the table above.",
        robustness.differences_over_noise,
    ),
    Section(
        "steps",
        "Sample efficiency",
        "Test accuracy against optimiser steps, on a log scale; a band is the standard "
        "deviation over seeds, and there is none for one seed. No choice was made on these "
        "measurements.",
        learning_curves.accuracy_by_step,
    ),
    Section(
        "efficiency",
        "Sample efficiency in numbers",
        "Area: mean test accuracy from the first to the last measurement, over images seen; "
        "what it gains over the same classifier without neighbours, seed by seed; and the first "
        "measured step with a test accuracy.",
        learning_curves.efficiency_table,
    ),
    Section(
        "epochs",
        "Test accuracy by epoch",
        "The same at the ends of epochs.",
        learning_curves.accuracy_by_epoch,
    ),
    Section(
        "noise",
        "Robustness to noise",
        "Test accuracy as noise grows. Classifiers saw no noise in training but for those with "
        "+noise, and for a train.augment that adds it; the encoder that finds neighbours may "
        "have, in its views (affine: noisy). Dotted: the best vote of the neighbours.",
        robustness.accuracy_over_noise,
    ),
    Section(
        "cells",
        "Neighbours, or simply noise augmentation?",
        "The same classifier in four ways: with neighbours or without, trained on clean images "
        "or with noise on half of them. Robustness that noise in training gives alone is no "
        "merit of retrieval. In training with noise, neighbours are still those of the clean "
        "image; in the test they are those of the noisy one, and worse than it has learned to "
        "expect.",
        robustness.noise_augmentation,
    ),
    Section(
        "matrix",
        "Trained with one kind of neighbours, tested with another",
        "A classifier without neighbours cannot tell. One that was trained with some may lose "
        "without them because it used what they say, or merely because what it sees is unlike "
        "what it was trained on: one trained on random neighbours, which say nothing, may lose "
        "too when it is shown the nearest. The counterfactuals below tell the two apart.",
        counterfactuals.transfer_matrix,
    ),
    Section(
        "counterfactuals",
        "Counterfactuals: does it use what it looks up?",
        "The trained classifiers with neighbours that are not theirs: drawn at random, none, "
        "those of another image, the nearest of the right class and of a wrong one (oracles, "
        "which know the answer), the image itself as its nearest neighbour (as if it had "
        "leaked), a memory in which a share of the rows, found as before, hold the vector or "
        "class of another, and one without the rows that harmed most on validation. Dashed: "
        "with their own. What is used shows between the right and the wrong class.",
        counterfactuals.counterfactual_dots,
    ),
    Section(
        "counterfactual-table",
        "The same in numbers",
        "“Flips” are images whose predicted class changes; KL and total variation (0 to 1) say "
        "how far the predicted probabilities change; neighbour agreement is the share of images "
        "predicted as the class most of the shown neighbours have. The total variation with "
        "another image's neighbours is the reliance. Classifiers trained on random neighbours "
        "are the control.",
        counterfactuals.counterfactual_tables,
    ),
    Section(
        "drift",
        "Drift: what noise does to the neighbours",
        "Of the neighbours that a clean image finds, the share that its noisy self still finds "
        "(recall); how far their order stays (rank correlation); and the share of those found "
        "that have its class (label purity).",
        drift.drift_over_noise,
    ),
    Section(
        "losses",
        "Who fails under noise?",
        "The accuracy lost to noise, in two parts. Retrieval failed: what would be saved if the "
        "noisy image had the neighbours of its clean self. Fusion failed: what is lost even "
        "then.",
        drift.losses_over_noise,
    ),
    Section(
        "reliability",
        "Calibration: does it know what it knows?",
        "How often a prediction of some confidence is right. On the diagonal confidence is "
        "honest; below it a classifier is too sure of itself. Larger points hold more images; "
        "bins of fewer than ten are left out. All seeds together.",
        calibration.reliability_diagrams,
    ),
    Section(
        "risk",
        "Risk and coverage: what abstention buys",
        "Errors among the images that are answered, if the least certain are left out first: "
        "certain by the softmax, by the similarity of the neighbours, or by their unanimity. "
        "First seed.",
        calibration.risk_coverage_curves,
    ),
    Section(
        "calibration",
        "Calibration and abstention in numbers",
        "ECE is the expected gap between confidence and accuracy. AURC is the mean error rate "
        "over all shares answered; a score that knows nothing has that of answering all.",
        calibration.calibration_table,
    ),
    Section(
        "attribution",
        "Attribution: which neighbours matter?",
        "Measured on validation images by leaving out one neighbour at a time. Attention "
        "entropy is 1 if all neighbours get the same attention, 0 if one gets it all; agreement "
        "is the rank correlation of attention with the size of the effect. The last columns "
        "leave out of the memory what harmed most, or as many rows at random, and test again.",
        influence.attribution_table,
    ),
    Section(
        "influence-table",
        "Rows of the memory that helped and harmed most",
        "With how many of the validation images looked them up, and the sum of their effects on "
        "the probability of the right class, in the first seed. All rows: <code>rows.csv</code> "
        "in <code>data/evidence</code>.",
        influence.influence_table,
    ),
    Section(
        "influence",
        "Images of the memory that helped and harmed most",
        "The same as pictures. Dashed frames harmed.",
        influence.influence_pictures,
    ),
    Section(
        "edits",
        "After edits of the memory",
        "The same trained classifiers, each with the memory it was trained with and with edited "
        "ones; nothing was trained again.",
        accuracy.edits,
    ),
    Section(
        "k",
        "Number of neighbours",
        "Clean test accuracy against k; dashed: without retrieval.",
        ablations.accuracy_by_k,
    ),
    Section(
        "bank",
        "Size of the memory",
        "Clean test accuracy against images remembered; dashed: without retrieval.",
        ablations.accuracy_by_bank,
    ),
    Section(
        "leakage",
        "Leakage audit",
        "What must never happen, and how like the memory the test is.",
        leakage.leakage_words,
    ),
    Section(
        "similarity",
        "How like the memory is the test?",
        "Similarity of test images to the nearest of the memory, and of validation images to "
        "the nearest of another class. Beyond the threshold a test image may be nearly a copy; "
        "images of one class may be as much alike without.",
        leakage.similarity_histogram,
    ),
    Section(
        "near-duplicates",
        "The test images most like the memory",
        "Above the image of the memory that each is like, with the similarity. Look: copies, or "
        "only much alike?",
        leakage.near_duplicate_pictures,
    ),
    Section(
        "without",
        "Test accuracy without them",
        "Percent of the test split without the images listed above, all of them, copies or not.",
        leakage.accuracy_without_near_duplicates,
    ),
    Section(
        "pretraining",
        "The encoder",
        "Accuracy of a vote of nearest training images for validation images, beside two "
        "baselines that needed no pretraining; then the loss, and signs of collapse (rank and "
        "spread near zero).",
        pretraining.pretraining_curves,
    ),
    Section(
        "gallery",
        "What is looked up",
        "Test images (left) and their nearest neighbours in memory with cosine similarity. "
        "Solid blue frames: same class; dashed orange ones: another.",
        lambda material: pictures.gallery(material.neighbourhoods),
    ),
)
