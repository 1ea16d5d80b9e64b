"""k and the memory at their edges, by the real stages, against slow, obvious references."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from test_strategies import balanced, misleading, orders, relevant, replayed, to_all

from rapipe import paths
from rapipe.batches.transforms import gaussian_noise, noisy_copies
from rapipe.config import deciding, presets
from rapipe.config.loading import load, parse
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.io import checksums
from rapipe.io.checksums import write_checksums
from rapipe.pipeline import corpus, embed, prefetch, pretrain
from rapipe.pipeline.inputs import PARAMS, copied_neighbours_of, labelled, neighbours_of
from rapipe.pipeline.requests import request_of
from rapipe.pipeline.running.check_names import check, check_memory
from rapipe.records import SPLITS, Embeddings, Images, Neighbours
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.store import Store

SOURCES = """sources:
    - {kind: folder, path: pets, name: pets}
    - {kind: folder, path: more, name: more, role: memory}
    - {kind: folder, path: lone, name: lone, role: memory}"""
TRAIN, MORE = 15, 4
"""Images to learn from, and of a source that is memory only; another has one."""
ALL = TRAIN + MORE + 1


def make(folder: Path) -> Params:
    """A memory of noise, embedded by an encoder that has learned nothing."""
    rng = np.random.default_rng(0)

    def noise(where: str, count: int) -> None:
        for i in range(count):
            path = folder / where / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    for split, count in (("train", TRAIN // 3), ("validation", 2), ("test", 2)):
        for name in "abc":
            noise(f"pets/{split}/{name}", count)
    noise("more/x", MORE)
    noise("lone/x", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        presets.write("tiny", Path("params.yaml"))
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(re.sub(r"sources:.*\n.*", SOURCES, text, count=1))
        params = load(Path("params.yaml"))
        corpus.run(params)
        torch.manual_seed(0)
        source = pretrain.Source.of(params)
        Encoder(source.spec).write(paths.ENCODER, {PARAMS: pretrain.facts_of(params, source)})
        write_checksums(paths.ENCODER)
        embed.run(params)
    return params


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    return shared(tmp_path_factory, "edges", make)


@pytest.fixture
def project(memory: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(memory[0])
    return memory[1]


def with_retrieval(params: Params, **retrieval: Any) -> Params:
    """Parameters that a file may hold."""
    params = replace(params, retrieval=replace(params.retrieval, **retrieval))
    check(params)
    return params


def expected(params: Params, split: str, bank: Embeddings) -> list[list[int]] | None:
    """Rows of the bank for each query of a split, by the reference; None where they are drawn."""
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    vectors = np.concatenate([block for _, block in store.blocks()])
    images = Images.read(paths.split(split))
    images = images.take(np.flatnonzero(images.labels >= 0))
    row_of = {image_id: row for row, image_id in enumerate(store.rows.ids.tolist())}
    queries = VectorsWithIds(
        images.ids, vectors[[row_of[image_id] for image_id in images.ids.tolist()]]
    )
    request, ranked = request_of(params), orders(queries, bank)
    near = to_all(queries.vectors, bank)
    alike = to_all(bank.vectors, bank)
    match params.retrieval.strategies[0]:
        case "knn":
            return [order[: request.k] for order in ranked]
        case "class-balanced":
            return [balanced(order, bank.labels, request.k) for order in ranked]
        case "diverse":
            return [
                relevant(order, similarities, alike, request)
                for order, similarities in zip(ranked, near, strict=True)
            ]
        case "hard":
            return [misleading(order, bank.labels, request.k) for order in ranked]
        case "replay":
            return [
                replayed(query, order, bank, request)
                for query, order in zip(queries.ids.tolist(), ranked, strict=True)
            ]
    return None


def test_noisy_copies_have_the_neighbours_of_their_noisy_selves(project: Params) -> None:
    """Of the noise of NAME+noise, and of noise up to `query_noise` for all others; or of none."""
    params = with_retrieval(project, strategies=("knn", "self"), k=3, query_noise=0.5)
    prefetch.run(params)
    encoder, images = Encoder.read(paths.ENCODER), labelled("train")
    bank, std = Embeddings.read(paths.BANK), params.classifiers.noise_std
    copies = {
        True: gaussian_noise(images.pixels, images.ids, std, params.seed),
        False: noisy_copies(images.pixels, images.ids, 0.5, params.seed),
    }
    change = [np.abs(pixels - images.pixels.astype(float)) for pixels in copies.values()]
    spread = [part.mean(axis=(1, 2, 3)).std() for part in change]
    assert spread[0] < spread[1]  # each image of the others has its own standard deviation
    for noisy, pixels in copies.items():
        table = copied_neighbours_of(images, params, "knn", noisy)
        assert table is not None
        slow = search(encoder.embed(pixels), bank, 3, images.ids)
        np.testing.assert_array_equal(table.indices, slow.indices)
        assert not (bank.ids[table.indices] == images.ids[:, None]).any()
        own = copied_neighbours_of(images, params, "self", noisy)
        assert own is not None
        np.testing.assert_allclose(own.query_vectors, encoder.embed(pixels), atol=1e-5)
    clean = with_retrieval(params, query_noise=0.0)
    assert copied_neighbours_of(images, clean, "knn", True) is None
    with pytest.raises(UserError, match=r"retrieval.query_noise.*run rapipe prefetch"):
        copied_neighbours_of(images, with_retrieval(params, query_noise=0.1), "knn", False)
    prefetch.run(clean)
    assert not paths.table("knn", paths.COPIED_TRAIN).exists()
    plain = replace(params, classifiers=replace(params.classifiers, backbones=("alexnet",)))
    prefetch.run(plain)
    assert paths.table("knn", paths.COPIED_TRAIN).exists()
    assert not paths.table("knn", paths.NOISY_TRAIN).exists()  # nobody learns with it


def test_an_own_vector_needs_no_memory_of_k(project: Params) -> None:
    """It is the encoder's, of every query image; and no parameter of the memory decides it."""
    params = with_retrieval(project, strategies=("self",), k=1000, bank=1)
    check_memory(params)
    prefetch.run(params)
    encoder = Encoder.read(paths.ENCODER)
    for split in SPLITS:
        images = labelled(split)
        table = neighbours_of(images, params, "self", split)
        assert (table.k, table.query_ids.tolist()) == (0, images.ids.tolist())
        np.testing.assert_allclose(table.query_vectors, encoder.embed(images.pixels), atol=1e-5)
    assert json.loads(paths.table_card("self").read_text())["k"] == 0
    neighbours_of(labelled("test"), with_retrieval(params, k=2, backend="auto"), "self", "test")
    vectors = paths.table("self", "test").with_suffix(".npy")
    raw = bytearray(vectors.read_bytes())
    raw[-1] ^= 1
    vectors.write_bytes(raw)
    checksums.watch()  # forget what was verified
    with pytest.raises(UserError, match=r"test\.npy is not what was written there"):
        neighbours_of(labelled("test"), params, "self", "test")
    for more in ("knn", "self+knn"):
        with pytest.raises(UserError, match=r"retrieval\.k is 1000"):
            with_retrieval(project, strategies=("self", more), k=1000, bank=1)
        with pytest.raises(UserError, match=r"`k` is 1000, but the bank offers"):
            check_memory(with_retrieval(project, strategies=("self", more), k=1000))


def test_what_decides_an_own_vector_is_no_parameter_of_the_memory(project: Params) -> None:
    other = with_retrieval(project, k=2, bank=5, backend="auto", strategies=("knn",), prune=0.3)
    other = replace(other, evaluate=replace(other.evaluate, poisoned=(0.5,), attributed=3))
    for name, same in (("self", True), ("self+knn", False)):
        facts = [
            [deciding.of_table(params, name), deciding.of_evaluation(params, variant)]
            for params in (project, other)
            for variant in [Variant.of(params, "alexnet", name, 0)]
        ]
        assert (facts[0] == facts[1]) == same, name
    with pytest.raises(UserError, match=r"\[0\] is 'self\+knn', which shows .* no vector"):
        with_retrieval(project, strategies=("self+knn",), fusion="cross-attention", attend="label")


def check_prefetch(params: Params) -> None:
    """Prefetch; every table is that of the reference, and nobody finds itself."""
    check_memory(params)  # tells no more than prefetch does
    prefetch.run(params)
    bank = Embeddings.read(paths.BANK)
    bank = replace(bank, vectors=np.array(bank.vectors))
    for split in SPLITS:
        table = Neighbours.read(paths.table(params.retrieval.strategies[0], split))
        table.check_against(bank.ids)
        assert table.indices.shape[1] == params.retrieval.k
        assert all(len(set(row)) == len(row) for row in table.indices.tolist())
        rows = expected(params, split, bank)
        assert rows is None or table.indices.tolist() == rows


@pytest.mark.parametrize("strategy", ["sampled", "knn", "class-balanced", "diverse", "replay"])
@pytest.mark.parametrize(
    ("bank", "k"),
    [
        ("all", 1),
        (ALL, ALL - 1),  # all but itself
        (2, 1),
        ("pets", TRAIN - 1),
        ("more", MORE),  # exactly the bank: nobody who asks is in it
        ("lone", 1),
        ("more+lone", MORE + 1),
    ],
)
def test_k_up_to_all_there_is(project: Params, strategy: str, bank: int | str, k: int) -> None:
    params = with_retrieval(project, strategies=(strategy,), bank=bank, k=k)
    if strategy == "class-balanced" and bank in ("more", "lone", "more+lone"):
        with pytest.raises(UserError, match="no image of the bank has a label"):
            prefetch.run(params)
        return
    check_prefetch(params)


@pytest.mark.parametrize(("bank", "k"), [("all", 1), ("all", TRAIN * 2 // 3 - 1), ("pets", 9)])
def test_hard_up_to_all_of_other_classes(project: Params, bank: str, k: int) -> None:
    check_prefetch(with_retrieval(project, strategies=("hard",), bank=bank, k=k))
    with pytest.raises(UserError, match=r"of other classes; choose at most 9, other strategies"):
        prefetch.run(with_retrieval(project, strategies=("hard",), bank=bank, k=10))


@pytest.mark.parametrize(
    ("bank", "k", "message"),
    [
        ("all", ALL, f"retrieval.k is {ALL}, but the bank offers a query at most {ALL - 1}"),
        ("all", ALL + 1, f"choose from 1 to {ALL - 1}, raise retrieval.bank"),
        ("pets", TRAIN, f"the bank offers a query at most {TRAIN - 1} neighbours"),
        ("more", MORE + 1, f"the bank offers a query at most {MORE} neighbours"),
        ("lone", 2, "the bank offers a query at most 1 neighbours; choose from 1 to 1"),
        (2, 2, "the bank offers a query at most 1 neighbours"),
        (1, 1, "the bank holds no other image than the query itself: raise retrieval.bank"),
        (ALL + 1, 1, f"retrieval.bank is {ALL + 1}, but there are {ALL} training images"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_is_learned(
    project: Params, monkeypatch: pytest.MonkeyPatch, bank: int | str, k: int, message: str
) -> None:
    params = with_retrieval(project, bank=bank, k=k)
    monkeypatch.setattr(pretrain, "pretrained", lambda *_: pytest.fail("it learns"))
    for stage in (pretrain, prefetch):
        with pytest.raises(UserError, match=re.escape(message)):
            stage.run(params)


@pytest.mark.parametrize(
    ("backend", "index"),
    [("faiss", "exact"), ("faiss", "Flat"), ("lance", "exact"), ("auto", "exact")],
)
@pytest.mark.parametrize(("bank", "k"), [("all", ALL - 1), (2, 1), ("lone", 1)])
def test_exact_backends_give_the_same(
    project: Params, backend: str, index: str, bank: int | str, k: int
) -> None:
    check_prefetch(
        with_retrieval(project, strategies=("knn",), bank=bank, k=k, backend=backend, index=index)
    )


@pytest.mark.parametrize(
    ("backend", "index"),
    [
        *(("faiss", "IVF64,Flat"), ("faiss", "PQ4"), ("faiss", "HNSW32"), ("faiss", "IVF2,Flat")),
        *(("lance", "IVF_FLAT"), ("lance", "IVF_RQ"), ("faiss", "nonsense"), ("faiss", "")),
    ],
)
@pytest.mark.parametrize(("bank", "k"), [("all", ALL - 1), (2, 1), ("lone", 1)])
def test_an_index_of_few_rows_finds_all_or_says_why_not(
    project: Params, backend: str, index: str, bank: int | str, k: int
) -> None:
    """Whatever the recall, none finds itself; with a recall of 1 it is the reference."""
    params = with_retrieval(
        project, strategies=("knn",), bank=bank, k=k, backend=backend, index=index, min_recall=1.0
    )
    try:
        check_prefetch(params)
    except UserError as error:
        message = str(error)
        assert message.startswith(("retrieval.index is ", "retrieval.min_recall is "))
        assert "choose" in message or "for example" in message


def test_k_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"retrieval\.k is 0; it must be at least 1"):
        parse_with(k=0)
    with pytest.raises(UserError, match=r"retrieval\.k is 2, but retrieval\.bank is 1"):
        parse_with(k=2, bank=1)


def parse_with(**retrieval: object) -> Params:
    from tests.faults.params import BASE

    return parse({**BASE, "retrieval": {**BASE["retrieval"], **retrieval}})
