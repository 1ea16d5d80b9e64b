"""The sections of the page in their order: name, heading, and words for any reader."""

from __future__ import annotations

SECTIONS = (
    ("setting", "Setting", ""),
    ("short", "In short", ""),
    (
        "corpus",
        "The images",
        "Some training images of each class, drawn at random, and how many there are. Unlabelled "
        "ones come first: they may be looked up, and are neither learned nor tested.",
    ),
    (
        "table",
        "Test accuracy",
        "Percent of the whole test split, mean ± standard deviation over seeds. The first lines "
        "are floors: votes of the same neighbours without any training, each with the number of "
        "neighbours that was best on validation. Each classifier is the epoch that was best on "
        "validation. Noise is Gaussian on images in [0, 1], clipped and rounded; a noisy image "
        "looks up neighbours of its noisy self. The interval is of clean accuracy, over the choice "
        "of test images and, where there are several, of seeds.",
    ),
    (
        "claims",
        "Is the difference more than chance?",
        "Each line compares two classifiers, or one with the best vote of its neighbours, on the "
        "same test images: clean ones, and those with the strongest noise. The interval is a "
        "bootstrap over images and seeds. The first p-value is the largest of McNemar's tests, one "
        "a training, the second also of a t-test over seeds; both are corrected for the number of "
        "lines (Holm). “Better” needs all of them; interval and McNemar's tests alone allow to "
        "say what was seen. “Without lookalikes” leaves out the test images that the audit lists.",
    ),
    (
        "differences",
        "What neighbours add, as noise grows",
        "Accuracy with neighbours minus that of the same classifier without, on the same test "
        "images. Each interval stands for itself: among so many some miss the truth by chance, and "
        "what may be claimed is in the table above.",
    ),
    (
        "steps",
        "Sample efficiency",
        "Test accuracy against optimiser steps, on a log scale; a band is the standard deviation "
        "over seeds, and there is none for one seed. No choice was made on these measurements.",
    ),
    (
        "efficiency",
        "Sample efficiency in numbers",
        "Area: mean test accuracy from the first to the last measurement, over images seen; what "
        "it gains over the same classifier without neighbours, seed by seed; and the first "
        "measured step with a test accuracy.",
    ),
    ("epochs", "Test accuracy by epoch", "The same at the ends of epochs."),
    (
        "noise",
        "Robustness to noise",
        "Test accuracy as noise grows. Classifiers saw no noise in training but for those with "
        "+noise, and for a train.augment that adds it; the encoder that finds neighbours may "
        "have, in its views (affine: noisy). Dotted: the best vote of the neighbours.",
    ),
    (
        "cells",
        "Neighbours, or simply noise in training?",
        "The same classifier in four ways: with neighbours or without, trained on clean images or "
        "with noise on half of them. Robustness that noise in training gives alone is no merit of "
        "retrieval. In training with noise, neighbours are still those of the clean image; in the "
        "test they are those of the noisy one, and worse than it has learned to expect.",
    ),
    (
        "matrix",
        "Trained with one kind of neighbours, tested with another",
        "A classifier without neighbours cannot tell. One that was trained with some may lose "
        "without them because it used what they say, or merely because what it sees is unlike "
        "what it was trained on: one trained on random neighbours, which say nothing, may lose too "
        "when it is shown the nearest. The swaps below tell the two apart.",
    ),
    (
        "swap-dots",
        "Does it use what it looks up?",
        "The trained classifiers with neighbours that are not theirs: drawn at random, none, those "
        "of another image, the nearest of the right class and of a wrong one (oracles, which know "
        "the answer), the image itself as its nearest neighbour (as if it had leaked), a memory "
        "in which a share of the rows, found as before, hold the vector or class of another, and "
        "one without the rows that harmed most on validation. Dashed: with their own. What is "
        "used shows between the right and the wrong class.",
    ),
    (
        "swaps",
        "The same in numbers",
        "“Flips” are images whose predicted class changes; KL and “moved” (total variation, 0 to "
        "1) say how far the predicted probabilities move; “follows” is the share of images "
        "predicted as the class most of the shown neighbours have. “Moved” by another image's "
        "neighbours is the reliance. Classifiers trained on random neighbours are the control.",
    ),
    (
        "drift",
        "What noise does to the neighbours",
        "Of the neighbours that a clean image finds, how many its noisy self still finds; how far "
        "their order stays (rank correlation); and how many of those found have its class.",
    ),
    (
        "losses",
        "Who fails under noise?",
        "The accuracy lost to noise, in two parts. Retrieval failed: what would be saved if the "
        "noisy image had the neighbours of its clean self. Fusion failed: what is lost even then.",
    ),
    (
        "reliability",
        "Does it know what it knows?",
        "How often a prediction of some confidence is right. On the diagonal confidence is honest; "
        "below it a classifier is too sure of itself. Larger points hold more images; bins of "
        "fewer than ten are left out. All seeds together.",
    ),
    (
        "risk",
        "What abstention buys",
        "Errors among the images that are answered, if the least certain are left out first: "
        "certain by the softmax, by the similarity of the neighbours, or by their unanimity. "
        "First seed.",
    ),
    (
        "trust",
        "Calibration and abstention in numbers",
        "ECE is the expected gap between confidence and accuracy. AURC is the mean error rate "
        "over all shares answered; a score that knows nothing has that of answering all.",
    ),
    (
        "attribution",
        "Which neighbours matter?",
        "Measured on validation images by leaving out one neighbour at a time. Attention entropy "
        "is 1 if all neighbours get the same attention, 0 if one gets it all; agreement is the "
        "rank correlation of attention with the size of the effect. The last columns leave out of "
        "the memory what harmed most, or as many rows at random, and test again.",
    ),
    (
        "blamed",
        "Rows of the memory that helped and harmed most",
        "With how many of the validation images looked them up, and the sum of their effects on "
        "the probability of the right class, in the first seed. All rows: <code>rows.csv</code> in "
        "<code>data/evidence</code>.",
    ),
    (
        "blame",
        "Images of the memory that helped and harmed most",
        "The same as pictures. Dashed frames harmed.",
    ),
    (
        "edits",
        "After edits of the memory",
        "The same trained classifiers, each with the memory it was trained with and with edited "
        "ones; nothing was trained again.",
    ),
    ("k", "Number of neighbours", "Clean test accuracy against k; dashed: without retrieval."),
    (
        "bank",
        "Size of the memory",
        "Clean test accuracy against images remembered; dashed: without retrieval.",
    ),
    ("leakage", "Leakage audit", "What must never happen, and how like the memory the test is."),
    (
        "likeness",
        "How like the memory is the test?",
        "Similarity of test images to the nearest of the memory, and of validation images to the "
        "nearest of another class. Beyond the threshold a test image may be nearly a copy; images "
        "of one class may be as much alike without.",
    ),
    (
        "lookalikes",
        "The test images most like the memory",
        "Above the image of the memory that each is like, with the similarity. Look: copies, or "
        "only much alike?",
    ),
    (
        "without",
        "Test accuracy without them",
        "Percent of the test split without the images listed above, all of them, copies or not.",
    ),
    (
        "pretraining",
        "The encoder",
        "Accuracy of a vote of nearest training images for validation images, beside two floors "
        "that needed no pretraining; then the loss, and signs of collapse (rank and spread near "
        "zero).",
    ),
    (
        "gallery",
        "What is looked up",
        "Test images (left) and their nearest neighbours in memory with cosine similarity. Solid "
        "blue frames: same class; dashed orange ones: another.",
    ),
)
