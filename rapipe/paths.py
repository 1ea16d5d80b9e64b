"""Where each artefact lives, relative to the project's folder: constants, not parameters."""

from pathlib import Path

PARAMS = Path("params.yaml")
DVC = Path(".dvc")
DATA = Path("data")
CHECKED = Path("data/checked")
"""Says that params.yaml has been checked."""

RAW = Path("data/raw")
"""Public data sets, each in a folder of its own; DVC watches it."""
CACHE = Path("data/cache")
"""Decoded images of each source, and indexes; may be deleted at any time."""
INDEX = CACHE / "index"
QUERIES = CACHE / "queries"
"""Embeddings of noisy test images, by what they were made from."""
INITIAL_CACHE = CACHE / "initial"
"""Weights to start from that have been made before, by what they were made from."""
CORPUS = Path("data/corpus")
CORPUS_CARD = CORPUS / "card.json"
LOCATIONS = CORPUS / "locations.csv"
"""Which file or row each image came from."""
CONTACT_SHEET = CORPUS / "sheet.png"
ENCODER = Path("data/encoder")
VECTORS = Path("data/vectors")
"""Imported vectors of the images; DVC watches it."""
VECTORS_CARD = VECTORS / "card.json"
STORE = Path("data/store")
STORE_MANIFEST = Path("data/store.json")
NEIGHBOURS = Path("data/neighbours")
BANK = NEIGHBOURS / "bank"
BANK_CARD = BANK / "card.json"
INITIAL = Path("data/initial")
"""For each name in `classifiers.backbones` the weights it starts from, and what it alone needs."""
TEACHER = "teacher"
"""Folder of the same in that of a name that has a teacher."""
LOGS = Path("data/logs")
"""What loggers write; not an output, since what is logged has times in it."""
MODELS = Path("data/models")
EVIDENCE = Path("data/evidence")
"""For each classifier, what it made of every test image, and what each row of memory did."""
BASELINE_ANSWERS = EVIDENCE / "baselines"
"""What the encoder's baselines made of every test image."""
PREDICTIONS = "predictions.arrow"
INFLUENCE = "rows.csv"
PRECISION = Path("data/precision.json")
"""How much faster bfloat16 was measured to be here, where the user's cache cannot keep it."""
COSTS = Path("data/costs")
"""What each stage took when it last ran here; no output, since it is never the same twice."""
LOCKS = Path("data/locks")
"""What tells processes of each other that run at the same time."""
CHECKPOINTS = Path("data/checkpoints")
"""Where interrupted training resumes from; not an output, since DVC deletes outputs first."""

RESULTS = Path("results")
PRETRAINING = RESULTS / "pretraining"
RUNS = RESULTS / "runs"
FIGURES = RESULTS / "figures"
TABLE = RESULTS / "results.csv"
CLAIMS = RESULTS / "claims.csv"
COUNTERFACTUALS = RESULTS / "counterfactuals.csv"
METRICS = RESULTS / "metrics.json"
CURVES = RESULTS / "curves.csv"
PAGE = RESULTS / "index.html"
BASELINES = RESULTS / "baselines.json"
"""What the memory's encoder knows by itself."""
LEAKAGE = RESULTS / "leakage.json"
DUPLICATES = RESULTS / "duplicates.csv"
"""Test images that are nearly copies of one in the memory."""
LABEL_ERRORS = RESULTS / "label_errors.csv"
"""Images whose label is possibly wrong."""

MADE_BY = {
    CORPUS: "corpus",
    ENCODER: "pretrain",
    VECTORS: "store import",
    PRETRAINING: "pretrain",
    NEIGHBOURS: "prefetch",
    LEAKAGE: "audit",
    DUPLICATES: "audit",
    LABEL_ERRORS: "audit",
    INITIAL: "initialise",
    MODELS: "train",
    BASELINES: "baselines",
    BASELINE_ANSWERS: "baselines",
    EVIDENCE: "eval",
    RUNS: "eval",
}
"""The command that makes what lies there."""


def maker(path: Path) -> str:
    """The command that makes this file or folder."""
    return next(command for output, command in MADE_BY.items() if path.is_relative_to(output))


def split(name: str) -> Path:
    """The corpus file of a split: train, validation or test."""
    return CORPUS / f"{name}.arrow"


def table(strategy: str, split_name: str) -> Path:
    """The neighbour table of a strategy for the queries of a split."""
    return NEIGHBOURS / strategy / f"{split_name}.arrow"


def table_card(strategy: str) -> Path:
    """How the tables of a strategy were found, and with what recall."""
    return NEIGHBOURS / strategy / "card.json"
