"""Shared fixtures: small records made by hand, and the tiny pipeline run once in this process."""

from __future__ import annotations

import os

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before numpy and torch count cores
    threads = (os.cpu_count() or 1) // int(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))

import dataclasses
import pickle
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from filelock import FileLock

from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.records import Embeddings, Images

ROOT = Path(__file__).parent.parent
os.environ.setdefault("RAPIPE_JOBS", "1")  # variants run in the process of the test
hypothesis.settings.register_profile(  # the same examples each time; `make soak` draws others
    "default", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile("default")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share what the first process sets
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(home_cache / "matplotlib"))  # its list of fonts
    user_cache = tempfile.TemporaryDirectory(prefix="rapipe-tests-")
    os.environ["XDG_CACHE_HOME"] = user_cache.name  # no test writes into the user's own
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # every test is of the CPU, the same on every machine


def make_images(n: int, seed: int = 0, size: int = 16, classes: int = 3) -> Images:
    """Random images with labels that go round."""
    rng = np.random.default_rng(seed)
    return Images(
        ids=rng.integers(-(2**62), 2**62, n),
        pixels=rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        labels=np.arange(n) % classes,
        sources=np.full(n, "made"),
        classes=tuple(f"class {i}" for i in range(classes)),
    )


def make_embeddings(n: int, d: int = 8, seed: int = 0, split: str = "train") -> Embeddings:
    """Random unit vectors with distinct ids."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    return Embeddings(
        ids=rng.permutation(10 * n)[:n] - n,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        labels=np.arange(n) % 3,
        sources=np.full(n, "made"),
        splits=np.full(n, split),
    )


def make_neighbours(indices: np.ndarray, query_vectors: np.ndarray | None = None) -> Any:
    """Neighbours (Q, K) of the images of `make_images`, with similarities that fall with rank."""
    from rapipe.records import Neighbours

    q, k = indices.shape
    similarities = np.linspace(0.9, 0.1, q * k, dtype=np.float32).reshape(k, q).T.copy()
    ids = make_images(q).ids
    return Neighbours(ids, indices.astype(np.int32), similarities, query_vectors=query_vectors)


def make_spec(
    backbone: str = "alexnet",
    width: int = 4,
    stem: str = "half",
    attend: str = "both",
    dimension: int = 8,
    mean: tuple[float, ...] = (0.5,) * 3,
    std: tuple[float, ...] = (0.3,) * 3,
    dropout: float = 0.5,
    gate: bool = False,
    stages: str = "all",
    fusion: str = "cross-attention",
    **options: Any,
) -> Any:
    """The spec of a classifier of three classes of 16 pixels; without fusion if `attend` is ""."""
    from rapipe.classifier.classifier import ClassifierSpec
    from rapipe.encoder.encoder import EncoderSpec
    from rapipe.specs import FusionSpec

    network = EncoderSpec(backbone, width, stem, 16, mean, std)
    if not attend:
        return ClassifierSpec(network, 3, **options)
    spec = FusionSpec(fusion=fusion, attend=attend, dropout=dropout, gate=gate, stages=stages)
    return ClassifierSpec(network, 3, fusion=spec, dimension=dimension, **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first, so that nobody waits for it in the end.

    Then modules that use `tiny`: one process starts with these, and none waits while it is made.
    """
    tiny = {item.path for item in items if "tiny" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: ("test_e2e" not in item.nodeid, item.path not in tiny))


def shared(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Params]
) -> tuple[Path, Params]:
    """A folder that `make` fills, and its params.

    Where several processes share the tests, the first makes it, and each has a copy.
    """
    folder = factory.mktemp(name)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return folder, make(folder)
    whole, known = (factory.getbasetemp().parent / f"{name}{end}" for end in ("", ".pickle"))
    with FileLock(f"{whole}.lock"):
        if not known.exists():
            whole.mkdir()
            known.write_bytes(pickle.dumps(make(whole)))
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    params: Params = pickle.loads(known.read_bytes())
    return folder, params


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A folder where every stage has run in this process on the preset `tiny`, and its params."""
    return shared(tmp_path_factory, "tiny", make_tiny)


def make_tiny(folder: Path) -> Params:
    """Run every stage on the preset `tiny` in a folder."""
    from rapipe.pipeline.running.whole import run_all

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        presets.write("tiny", Path("params.yaml"))
        params = load(Path("params.yaml"))
        run_all(params)
    return params


@pytest.fixture(scope="session")
def with_generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A folder with a few images of three classes, and a corpus of them and generated ones."""
    return shared(tmp_path_factory, "with_generated", make_generated)


def make_generated(folder: Path) -> Params:
    """Run the stages up to the corpus in a folder."""
    from PIL import Image

    from rapipe.config.corpus_params import SourceParams
    from rapipe.pipeline import corpus, generate

    for image, label in zip(make_images(60).pixels, np.arange(60) % 3, strict=True):
        file = folder / f"images/{'abc'[label]}/{len(list(folder.glob('images/*/*')))}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        presets.write("tiny", Path("params.yaml"))
        params = load(Path("params.yaml"))
        sources = (
            SourceParams(kind="folder", path="images"),
            SourceParams(kind="generated", role="both", weight=0.0),
        )
        made = {"method": "acgan", "images": 4, "width": 4, "epochs": 1, "batch_size": 16}
        params = dataclasses.replace(
            params,
            corpus=dataclasses.replace(params.corpus, sources=sources),
            generate=dataclasses.replace(params.generate, **made),
            train=dataclasses.replace(params.train, precision="fp32"),
        )
        generate.run(params)
        corpus.run(params)
    return params


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and thrown away: to draw them takes most of a report's time."""
    from matplotlib import pyplot

    def thrown_away(figure: Any) -> bytes:
        pyplot.close(figure)
        return b"picture"

    monkeypatch.setattr("rapipe.report.style.png", thrown_away)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's `&` has Ctrl-C ignored, by pytest and by what pytest starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def in_tiny(tiny: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    """Work inside the folder of `tiny`, reading only."""
    monkeypatch.chdir(tiny[0])
    return tiny[1]
