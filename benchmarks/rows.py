"""What benchmarks share that train classifiers: rows in CSV files, and tables in documents."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from rapipe.io.links import link
from study.work import ROOT, Content, Overrides, override, preset_content

WORK, RESULTS = ROOT / "data/methods", ROOT / "results/methods"
Row = dict[str, Any]
TESTED = 2_000
"""Test images of photographs, where there are many classifiers."""


def content_of(overrides: Overrides) -> Content:
    """The default's parameters, with some of them changed."""
    from rapipe.config import presets

    return override(preset_content(presets.DEFAULT), overrides)


def rows_of(path: Path) -> list[Row]:
    """The rows of a table; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def done(path: Path, key: Row) -> bool:
    """Whether a table has a row with these values."""
    return any(all(row[k] == str(v) for k, v in key.items()) for row in rows_of(path))


def add(path: Path, row: Row) -> None:
    """Add a row to a table."""
    rows = [*rows_of(path), row]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def fewer_tested(folder: str) -> str:
    """A folder with the same training images, and `TESTED` of the test images, spread evenly."""
    source = Path(folder).absolute()
    copy = WORK / "images" / source.name
    copy.mkdir(parents=True, exist_ok=True)
    rows = parquet.read_table(source / "test.parquet")
    spread = np.linspace(0, len(rows) - 1, min(TESTED, len(rows))).round().astype(int)
    rows = rows.take(spread)
    parquet.write_table(rows, copy / "test.parquet")
    link(source / "train.parquet", copy / "train.parquet")
    return str(copy)


def result_of(params: Any, variant: Any) -> Row:
    """Train and test a classifier; what `rapipe eval` wrote of it."""
    return results_of(params, [variant])[0]


def results_of(params: Any, variants: Sequence[Any]) -> list[Row]:
    """The same for those that are trained together."""
    from rapipe.pipeline import evaluate, train

    train.run(params, *variants)
    evaluate.run(params, *variants)
    return [json.loads(Path(f"results/runs/{own.name}.json").read_text()) for own in variants]


def top1_by_noise(result: Row) -> Row:
    """Test accuracies, a column a noise level."""
    return {f"top1_noise_{row['noise_std']:g}": row["top1"] for row in result["rows"]}


def percent(values: Sequence[Any]) -> str:
    """The mean in percent, and the lowest and highest if there are several."""
    numbers = [100 * float(value) for value in values]
    spread = f" ({min(numbers):.1f} to {max(numbers):.1f})" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


def with_tables(text: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """A page with these lines between two marks, instead of its previous ones."""
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return "\n".join((head + begin, *lines, "", end + tail))
