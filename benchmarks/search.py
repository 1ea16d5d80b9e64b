"""Search of the memory: every backend and index beside plain torch and plain FAISS.

    python -m benchmarks.search [--json] [--rows 50000 200000 1000000]
                                [--vectors FILE.npy] [--graph] [--figure FILE.png]

Vectors have 512 dimensions, k is 32, a query never finds itself. Vectors are
drawn around centres, as embeddings lie; `--vectors` takes real ones instead,
such as `rapipe store export` writes. For each number of rows:

- exact search of 1,024 queries at once, in turns: ours by torch and by
  FAISS; FAISS Flat as its documentation uses it; `torch.cdist` and `topk`; and
  the bare matrix products, as `queries @ bank.T` makes them (into new memory),
  and into memory that is used again;
- up to 50,000 rows the whole table, in which every row of the bank is a query;
- indexes, with the least effort that finds 95 % of the neighbours, for 4,096
  queries at once (Lance: 1,024). The graph (HNSW) is built on one thread, so it takes
  `--graph`.

Each index, and the whole table, has its own process, whose peak
memory is reported (torch and FAISS are 0.4 GB of it). Vectors are mapped from a
file. `build` is all that comes before the search: training, writing, and the
search for the effort.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import clocked, machine, print_result, target

D = 512
K = 32
BATCH = 1024
QUERIES = 1024
INDEX_QUERIES = {"faiss": 4096, "lance": 1024}
LANCE_QUERIES = 32
"""Lance compares every row at milliseconds a query."""
TABLE_ROWS = 50_000
"""Up to here whole tables are made."""
REPEATS = 3
CENTRES = 2000
RECALL = 0.95
INDEXES = {
    "faiss IVF of halves": ("faiss", "IVF{cells},SQfp16"),
    "faiss IVF of codes": ("faiss", "IVF{cells},PQ128x4fs"),
    "faiss codes": ("faiss", "PQ128x4fs"),
    "lance IVF_FLAT": ("lance", "IVF_FLAT"),
    "lance IVF_RQ": ("lance", "IVF_RQ"),
}
GRAPH = {"faiss HNSW32": ("faiss", "HNSW32")}
QUICK = ("faiss codes", "lance IVF_RQ")
"""Indexes at 50,000 rows, where none is needed."""

Measured = dict[str, Any]


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000], help="sizes of the bank")
    parser.add_argument("--vectors", type=Path, help="real vectors (N, D) of unit length, .npy")
    parser.add_argument("--graph", action="store_true", help="HNSW too: minutes")
    parser.add_argument("--figure", type=Path, help="draw time against rows into this PNG")
    options = parser.parse_args()
    if options.vectors:
        options.rows = [len(np.load(options.vectors, mmap_mode="r"))]
    measured = {}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = options.vectors or Path(folder) / "vectors.npy"
            if not options.vectors:
                make_vectors(path, rows)
            measured[rows] = measure(path, rows, options.graph, Path(folder))
    result = {
        "machine": machine("torch", "faiss-cpu", "lancedb", "numpy"),
        "dimension": D,
        "k": K,
        "rows": measured,
    }
    result["targets"] = targets(measured)
    if options.figure:
        draw(measured, options.figure)
    print_result(result, readable(result), options.json)


def make_vectors(path: Path, rows: int) -> None:
    """Write unit vectors (rows, D) around 2,000 centres, which lie around 20 others."""
    from rapipe.io import memory_map

    rng = np.random.default_rng(0)
    high = rng.standard_normal((20, D), np.float32)
    centres = high[rng.integers(0, 20, CENTRES)]
    centres = centres + 0.7 * rng.standard_normal((CENTRES, D), np.float32)

    def blocks() -> Iterator[Any]:
        for start in range(0, rows, 10_000):
            n = min(10_000, rows - start)
            vectors = centres[rng.integers(0, CENTRES, n)]
            vectors = vectors + np.float32(0.9) * rng.standard_normal((n, D), np.float32)
            yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    memory_map.write_array(path, (rows, D), blocks())


def measure(path: Path, rows: int, graph: bool, folder: Path) -> dict[str, Measured]:
    """Everything for one bank, by name."""
    results: dict[str, Measured] = in_process(exact, path, min(QUERIES, rows))
    if rows <= TABLE_ROWS:
        results["torch, whole table"] = in_process(table, path)
        results["bare products, whole table"] = results["torch, whole table"].pop("bare")
    else:
        torch_alone = in_process(search_with, path, QUERIES, "torch", "exact", "")
        results["torch"]["gigabytes"] = torch_alone["gigabytes"]
    cells = 2 ** round(np.log2(4 * rows**0.5))
    indexes = {**INDEXES, **(GRAPH if graph else {})}
    for name, (backend, index) in indexes.items():
        if rows <= TABLE_ROWS and name not in QUICK and not graph:
            continue
        cache = folder / "index"
        result = in_process(
            search_with,
            path,
            min(INDEX_QUERIES[backend], rows),
            backend,
            index.format(cells=cells),
            str(cache),
        )
        size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file())
        results[name] = {**result, "megabytes": round(size / 1e6)}
    results["lance, exact"] = in_process(
        search_with, path, LANCE_QUERIES, "lance", "exact", str(folder / "lance")
    )
    return results


def read_bank(path: Path) -> Any:
    """The vectors, with ids in no order."""
    from rapipe.io import memory_map
    from rapipe.retrieval.search import VectorsWithIds

    vectors = memory_map.map_array(path)
    return VectorsWithIds(np.random.default_rng(1).permutation(len(vectors)), vectors)


def query_rows(rows: int, queries: int) -> Any:
    """Rows of the bank that are queries, evenly spread."""
    return np.linspace(0, rows - 1, queries).astype(int)


def exact(path: Path, count: int) -> dict[str, Measured]:
    """Exact methods in turns, in one process."""
    import faiss
    import torch

    from rapipe.retrieval.search import SearchMethod, VectorsWithIds, search

    bank = read_bank(path)
    bank = VectorsWithIds(bank.ids, np.array(bank.vectors))
    rows = query_rows(len(bank.ids), count)
    queries = bank.vectors[rows]
    tensor, query_tensor = torch.from_numpy(bank.vectors), torch.from_numpy(queries)
    buffer = torch.empty(BATCH // 2, len(tensor))
    start = time.perf_counter()
    flat = faiss.IndexFlatIP(bank.vectors.shape[1])
    flat.add(bank.vectors)
    built = time.perf_counter() - start

    def ours(method: SearchMethod) -> None:
        for first in range(0, count, BATCH):
            part = slice(first, first + BATCH)
            search(queries[part], bank, K, bank.ids[rows[part]], method)

    def batches(run: Callable[[slice], object], size: int = BATCH) -> None:
        for first in range(0, count, size):
            run(slice(first, first + size))

    methods: dict[str, Callable[[], None]] = {
        "bare products, new memory": lambda: batches(lambda part: query_tensor[part] @ tensor.T),
        "bare products": lambda: batches(
            lambda part: torch.mm(
                query_tensor[part], tensor.T, out=buffer[: len(query_tensor[part])]
            ),
            BATCH // 2,
        ),
        "torch": lambda: ours(SearchMethod()),
        "faiss, exact": lambda: ours(SearchMethod("faiss")),
        "plain FAISS Flat": lambda: batches(lambda part: flat.search(queries[part], K + 1)),
        "plain torch.cdist + topk": lambda: batches(
            lambda part: torch.cdist(query_tensor[part], tensor).topk(K + 1, largest=False)
        ),
    }
    results: dict[str, Measured] = {name: {"seconds": [], "queries": count} for name in methods}
    results["plain FAISS Flat"]["build"] = built
    for _ in range(REPEATS):
        for name, run in methods.items():
            if (
                name != "faiss, exact" or not results[name]["seconds"]
            ):  # which builds its index anew
                results[name]["seconds"].append(clocked(run))
    for name in methods:
        if not name.startswith("bare"):
            results[name]["recall"] = 1.0
    return results


def table(path: Path) -> Measured:
    """Every row of the bank asks; between bare products, of some queries, for all."""
    import torch

    from rapipe.retrieval.search import search

    bank = read_bank(path)
    n = len(bank.ids)
    tensor = torch.from_numpy(np.array(bank.vectors[:]))
    buffer = torch.empty(BATCH // 2, n)
    part = min(n, 8 * BATCH)

    def bare() -> float:
        start = time.perf_counter()
        for first in range(0, part, BATCH // 2):
            block = tensor[first : min(part, first + BATCH // 2)]
            torch.mm(block, tensor.T, out=buffer[: len(block)])
        return (time.perf_counter() - start) * n / part

    around = [bare()]
    seconds = clocked(lambda: search(bank.vectors, bank, K, bank.ids))
    around.append(bare())
    return {
        "seconds": [seconds],
        "queries": n,
        "recall": 1.0,
        "bare": {"seconds": around, "queries": n},
    }


def search_with(path: Path, count: int, backend: str, index: str, cache: str) -> Measured:
    """Our search with one method, built first."""
    from rapipe.io import memory_map
    from rapipe.retrieval.search import Exact, SearchMethod, build_index, rank, search

    bank = read_bank(path)
    rows = query_rows(len(bank.ids), count)
    method = SearchMethod(backend, index, RECALL, Path(cache) if cache else None)
    queries = memory_map.take_rows(bank.vectors, rows)
    start = time.perf_counter()
    neighbours = search(queries, bank, K, bank.ids[rows], method)
    first = time.perf_counter() - start
    if not cache:
        return {"seconds": [first], "queries": count, "recall": 1.0}
    with ExitStack() as stack:
        index_ = build_index(bank.vectors, method, stack)
        if not isinstance(index_, Exact):
            for level in range(index_.levels):
                if index_.effort != neighbours.found_by["effort"]:
                    index_.set_effort(level)
        seconds = [
            clocked(lambda: rank(index_, queries, bank, K, bank.ids[rows])) for _ in range(REPEATS)
        ]
    return {
        "seconds": seconds,
        "queries": count,
        "build": first - seconds[0],
        "recall": neighbours.found_by["recall"],
        "effort": neighbours.found_by["effort"],
    }


def in_process(task: Callable[..., Any], *arguments: object) -> Any:
    """A task in its own process; the result of one method gets its peak memory in gigabytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_memory, task, arguments).result()


def _with_memory(task: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    result = task(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return {**result, "gigabytes": round(peak, 2)} if "seconds" in result else result


def milliseconds(result: Measured) -> float:
    """The median time of a query."""
    return 1000 * float(statistics.median(result["seconds"])) / int(result["queries"])


def targets(measured: dict[int, dict[str, Measured]]) -> list[dict[str, Any]]:
    """The figures that were promised, as far as these sizes show them."""
    goals = []
    for rows, results in measured.items():
        exact_ = milliseconds(results["torch"])
        if rows == TABLE_ROWS:
            ratio = exact_ / milliseconds(results["plain FAISS Flat"])
            goals.append(target(f"torch / FAISS Flat at {rows:,}", ratio, 1.0))
            table_ms = milliseconds(results["torch, whole table"])
            for name in ("bare products, new memory", "bare products, whole table"):
                ratio = table_ms / milliseconds(results[name])
                goals.append(target(f"whole table / {name} at {rows:,}", ratio, 1.25))
        if rows >= 1_000_000:
            fast = {
                name: milliseconds(result) / exact_
                for name, result in results.items()
                if result.get("effort") and result["recall"] >= RECALL
            }
            best = min(fast, key=lambda name: fast[name])
            goals.append(target(f"{best} / torch at {rows:,}", fast[best], 0.1))
            peak = max(result.get("gigabytes", 0) for result in results.values())
            goals.append(target(f"peak gigabytes at {rows:,}", peak, 3.0))
    return goals


def readable(result: dict[str, Any]) -> list[str]:
    """The same as text."""
    lines = []
    for rows, results in result["rows"].items():
        lines.append(f"\n{rows:,} rows of {result['dimension']} dimensions, k = {result['k']}")
        lines.append(f"{'':28}{'ms/query':>18}{'recall':>8}{'build s':>9}{'GB':>7}{'MB disk':>9}")
        for name, measured in results.items():
            times = sorted(1000 * s / measured["queries"] for s in measured["seconds"])
            spread = f"{milliseconds(measured):.3f} ({times[0]:.3f}-{times[-1]:.3f})"
            cells = [
                f"{measured[key]:{width}.{digits}f}" if key in measured else " " * width
                for key, width, digits in (
                    ("recall", 8, 3),
                    ("build", 9, 1),
                    ("gigabytes", 7, 2),
                    ("megabytes", 9, 0),
                )
            ]
            lines.append(f"{name:28}{spread:>18}{''.join(cells)}  {measured.get('effort', '')}")
    return lines


def draw(measured: dict[int, dict[str, Measured]], path: Path) -> None:
    """Time of a query against rows of the bank."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    names = [name for name in next(reversed(measured.values())) if "bare" not in name]
    for name, marker in zip(names, "osD^vP*Xhd<>", strict=False):
        points = [
            (n, milliseconds(results[name])) for n, results in measured.items() if name in results
        ]
        axes.plot(*zip(*points, strict=True), marker=marker, ms=5, lw=1.4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rows of the bank", ylabel="milliseconds a query")
    axes.set_title(f"{K} nearest of vectors of {D} dimensions; indexes find 95 %")
    axes.set_xticks(list(measured), [f"{n:,}" for n in measured], minor=False)
    axes.minorticks_off()
    axes.grid(color="#e6e8eb")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
