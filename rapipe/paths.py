"""Where each artefact lives, relative to the project's folder: constants, not parameters."""

from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
CODE = Path(".rapipe/code")
"""Of a project: fingerprints of the code that stages run."""
PIPELINE_COPY = Path(".rapipe/pipeline.yaml")
"""What dvc.yaml was when the package wrote it, to know whether it was edited."""
SCHEMA = Path(".rapipe/params.schema.json")
"""Of params.yaml, for editors."""
DVC = Path(".dvc")
COPIES = "/.dvc/tmp/exps/"
"""Where in a project `dvc exp run --temp` and `--queue` put copies of it."""
DATA = Path("data")
RAW = Path("data/raw")
"""Public data sets, each in a folder of its own; DVC watches it."""
CACHE = Path("data/cache")
"""Decoded images of each source, and indexes; may be deleted at any time."""
INDEX = CACHE / "index"
QUERIES = CACHE / "queries"
"""Embeddings of noisy test images, by what they were made from."""
VARIANTS_CACHE = CACHE / "variants"
"""Classifiers and evaluations that have been made before, by what they were made from."""
INITIAL_CACHE = CACHE / "initial"
"""Weights to start from that have been made before, by what they were made from."""
GENERATED = Path("data/generated")
"""Images that were generated from the training images; nothing where no source has them."""
GENERATED_CARD = GENERATED / "card.json"
GENERATED_IMAGES = GENERATED / "images.arrow"
GENERATED_SHEET = GENERATED / "sheet.png"
REVERSE = GENERATED / "reverse.png"
"""How images come out of noise; only diffusion has such steps."""
REVERSE_FILM = GENERATED / "reverse.gif"
CORPUS = Path("data/corpus")
CORPUS_CARD = CORPUS / "card.json"
LOCATIONS = CORPUS / "locations.csv"
"""Which file or row each image came from."""
CONTACT_SHEET = CORPUS / "sheet.png"
SHIFTS = CORPUS / "shifts"
"""Images that classifiers are only evaluated on. What stands there is in no other file of the
corpus, so that no training depends on it."""
SHIFTS_CARD = SHIFTS / "card.json"
ENCODER = Path("data/encoder")
ENCODER_EPOCHS = ENCODER / "epochs"
"""Encoders that were kept on the way, in folders by epoch; none where none was."""
ENCODER_PICTURES = ENCODER / "pictures.safetensors"
"""Attention maps and reconstructions of a few validation images; only of some encoders."""
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
BASELINE_ANSWERS = Path("data/baselines")
"""What the encoder's baselines made of every test image."""
RATES = "learning_rate.csv"
"""What the learning rate of a classifier was found on, beside its weights."""
PREDICTIONS = "predictions.arrow"
INFLUENCE = "rows.csv"
MAPS = "maps.arrow"
PRECISION = Path("data/precision.json")
"""How much faster bfloat16 was measured to be here, where the user's cache cannot keep it."""
MADE = Path("data/made")
"""What each classifier, and its evaluation, was made from."""
COSTS = Path("data/costs")
"""What each stage took when it last ran here; no output, since it is never the same twice."""
LOCKS = Path("data/locks")
"""What tells processes of each other that run at the same time."""
CHECKPOINTS = Path("data/checkpoints")
"""Where interrupted training resumes from; not an output, since DVC deletes outputs first."""
SHARED = CHECKPOINTS / "embed"
"""What the nodes of a cluster share while they embed, and resume from."""

RESULTS = Path("results")
PRETRAINING = RESULTS / "pretraining"
RUNS = RESULTS / "runs"
KEPT = RESULTS / "kept"
"""Every result by its setting; no output, since DVC deletes outputs before it makes others."""
DOWNSTREAM = RESULTS / "downstream"
"""Accuracy by epoch of pretraining, a file an encoder; no output, since several are compared."""
ABLATIONS = RESULTS / "ablations"
FIGURES = RESULTS / "figures"
TABLE = RESULTS / "results.csv"
CLAIMS = RESULTS / "claims.csv"
COUNTERFACTUALS = RESULTS / "counterfactuals.csv"
METRICS = RESULTS / "metrics.json"
CURVES = RESULTS / "curves.csv"
PAGE = RESULTS / "index.html"
SUMMARY = RESULTS / "summary.md"
"""The top of the page in Markdown."""
BASELINES = RESULTS / "baselines.json"
"""What the memory's encoder knows by itself."""
LEAKAGE = RESULTS / "leakage.json"
QUALITY = RESULTS / "quality.json"
"""How like the real images the generated ones are."""
MEMORISATION = RESULTS / "memorisation.csv"
"""Generated images, each with the nearest training image."""
DUPLICATES = RESULTS / "duplicates.csv"
"""Test images that are nearly copies of one in the memory."""
LABEL_ERRORS = RESULTS / "label_errors.csv"
"""Images whose label is possibly wrong."""

MAP = Path("data/map")
"""Where each image stands on the explorer's map; only where it was asked for."""

MADE_BY = {
    GENERATED: "generate",
    CORPUS: "corpus",
    ENCODER: "pretrain",
    VECTORS: "store import",
    PRETRAINING: "pretrain",
    NEIGHBOURS: "prefetch",
    LEAKAGE: "audit",
    QUALITY: "audit",
    MEMORISATION: "audit",
    DUPLICATES: "audit",
    LABEL_ERRORS: "audit",
    INITIAL: "initialise",
    MODELS: "train",
    BASELINES: "baselines",
    BASELINE_ANSWERS: "baselines",
    EVIDENCE: "eval",
    RUNS: "eval",
    KEPT: "eval",
    DOWNSTREAM: "downstream",
    MAP: "map",
}
"""The command that makes what lies there."""


def maker(path: Path) -> str:
    """The command that makes this file or folder."""
    return next(command for output, command in MADE_BY.items() if path.is_relative_to(output))


def split(name: str) -> Path:
    """The corpus file of a split: train, validation or test."""
    return CORPUS / f"{name}.arrow"


def shift(name: str) -> Path:
    """The file of the images of a source of the role shift."""
    return SHIFTS / f"{name}.arrow"


def table(strategy: str, split_name: str) -> Path:
    """The neighbour table of a strategy for the queries of a split."""
    return NEIGHBOURS / strategy / f"{split_name}.arrow"


NOISY_TRAIN, COPIED_TRAIN = "train-noisy", "train-copied"
"""Queries that are noisy copies of the training images: for NAME+noise, and for all others."""


def table_card(strategy: str) -> Path:
    """How the tables of a strategy were found, and with what recall."""
    return NEIGHBOURS / strategy / "card.json"
