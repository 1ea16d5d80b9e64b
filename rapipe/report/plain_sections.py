"""The sections of a study without retrieval."""

from __future__ import annotations

from rapipe.report import (
    attribution_maps,
    calibration,
    forest,
    heads,
    leads,
    plain,
    starts,
)
from rapipe.report.parts import Part, Section
from rapipe.report.sections import SECTIONS, setting

SHARED = ("Training curves", "Ablations", "Encoder", "Generated images")
"""Labels of sections that speak of no retrieval."""


PLAIN_SECTIONS = (
    Section(
        "Accuracy",
        "Which is more accurate, beyond chance?",
        leads.plain_accuracy,
        (
            Part("forest", "Differences between classifiers", forest.between_classifiers),
            Part("table", "Test accuracy", plain.accuracy_on_test),
            Part("claims", "Is the difference more than chance?", plain.comparisons),
            Part("starts", "What pretraining is worth", starts.table),
            Part("token-attention", "Graph attention among tokens", heads.table),
        ),
    ),
    Section(
        "Efficiency",
        "Which learns faster?",
        leads.plain_efficiency,
        (
            Part("steps", "Sample efficiency", plain.accuracy_by_step),
            Part("efficiency", "Sample efficiency in numbers", plain.efficiency),
        ),
    ),
    Section(
        "Shift",
        "Which stands noise and corruptions better?",
        leads.plain_shift,
        (
            Part("noise", "Robustness to noise", plain.accuracy_over_noise),
            Part("cells", "What noise in training does", plain.noise_augmentation),
            Part("corruptions", "Robustness to other corruptions", plain.corruptions),
            Part("shifts", "Images from elsewhere", plain.elsewhere),
        ),
    ),
    Section(
        "Pixels",
        "Which pixels matter?",
        leads.pixels,
        (
            Part("maps", "Attribution maps", plain.maps),
            Part("map-sanity", "Do the maps say anything?", attribution_maps.sanity),
        ),
    ),
    Section(
        "Trust",
        "Do they know what they know?",
        leads.plain_trust,
        (
            Part(
                "reliability", "Calibration: does it know what it knows?", calibration.reliability
            ),
            Part("risk", "Risk and coverage: what abstention buys", plain.risk_coverage),
            Part("calibration", "Calibration and abstention in numbers", plain.scores),
        ),
    ),
    *(section for section in SECTIONS if section.label in SHARED),
    Section(
        "Data and setting",
        "What was run on what?",
        leads.data,
        (
            Part("corpus", "The images", plain.contact_sheet),
            Part("setting", "Setting", setting),
            Part("left-out", "Results that are left out", plain.left_out),
        ),
    ),
)
