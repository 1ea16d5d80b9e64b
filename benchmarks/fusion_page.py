"""What `benchmarks.fusions` measured: results/fusions/, and the table in docs/methods.md.

    python -m benchmarks.fusion_page

The page has a table for each memory and network, and two figures. Nothing is measured here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.figure import Figure

from benchmarks import fusions
from benchmarks.methods import DOCS
from benchmarks.rows import RESULTS, Row, done, percent, rows_of, with_tables
from rapipe.classifier.fusions import FUSIONS
from rapipe.report.style import VOTE, Look, finish, looks, panels_of, png, styled

PAGE = RESULTS.parent / "fusions/README.md"
BEGIN, END = "<!-- fusions -->", "<!-- end of fusions -->"
MEASURES = {
    "neighbour_share": "weight that goes to neighbours",
    "reliance": "change by others' neighbours",
}
"""Columns of the figure of trust, and what they are."""


GROUP = ("memory", "case", "precision")
PRECISIONS = {
    "fp32": "In float32",
    "bf16": "In bfloat16",
}
"""In which classifiers were trained: the first that all rows of a case are there in is shown."""


def main() -> None:
    """Write the tables and the figures."""
    for path, lines in ((PAGE, tables()), (DOCS, overview())):
        path.write_text(with_tables(path.read_text(), BEGIN, END, lines))
    for name, draw in {"accuracy": accuracies, "trust": trust}.items():
        PAGE.with_name(f"{name}.png").write_bytes(png(draw()))


def finished() -> list[Row]:
    """Rows of the cases of which all seeds are there; `SystemExit` if two memories are mixed."""
    rows = rows_of(fusions.ROWS)
    for memory in unique(rows, "memory"):
        fusions.check_memory(memory)
    rows = [row for row in rows if _is_compared(row)]
    return sorted(rows, key=lambda row: [*PRECISIONS].index(row["precision"]))


def _is_compared(row: Row) -> bool:
    """No neighbours are compared with nothing, but corrected when all of theirs are there."""
    case = fusions.CORRECTED if row["case"] == fusions.PLAIN else row["case"]
    key = {name: row[name] for name in (*GROUP, "backbone")}
    return done(fusions.COMPARED, {**key, "case": case})


def shown(rows: list[Row]) -> list[Row]:
    """Of each case the rows in the precision that comes first."""
    by_case: dict[Any, str] = {}
    for row in rows:
        by_case.setdefault(_case(row), row["precision"])
    return [row for row in rows if row["precision"] == by_case[_case(row)]]


def _case(row: Row) -> Any:
    return row["memory"], row["case"], row["backbone"]


def unique(rows: list[Row], column: str) -> list[str]:
    """The values of a column, in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def of(rows: list[Row], **values: str) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def cases(rows: list[Row]) -> list[str]:
    """The cases that have rows, in the order in which they are listed; last what is run no more."""
    there = unique(rows, "case")
    ordered = dict.fromkeys((fusions.PLAIN, fusions.CORRECTED, *fusions.CASES, *there))
    return [case for case in ordered if case in there]


def tables() -> Iterator[str]:
    """Accuracies by memory and classifier, in Markdown."""
    rows = finished()
    if not rows:
        yield "\nNot measured yet."
    for memory in unique(rows, "memory"):
        for backbone in unique(rows, "backbone"):
            if group := of(rows, memory=memory, backbone=backbone):
                yield f"\n## {memory}, {backbone}"
                yield from by_case(group)
    yield from of_new_class()


def overview() -> Iterator[str]:
    """A line a fusion and a column a memory and network: mean accuracy at each level."""
    rows = shown(finished())
    columns = [(memory, name) for memory in unique(rows, "memory") for name in networks(rows)]
    yield f"\n| fusion | {' | '.join(f'{memory}: {name}' for memory, name in columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for case in cases(rows):
        cells = [
            _means(of(rows, case=case, memory=memory, backbone=name)) for memory, name in columns
        ]
        yield f"| {case} | {' | '.join(cells)} |"
    encoders = {column: without_training(*column) for column in columns}
    for name in dict.fromkeys(name for lines in encoders.values() for name in lines):
        cells = [" / ".join(encoders[column].get(name, [])) for column in columns]
        yield f"| {name} | {' | '.join(cells)} |"


def _means(rows: list[Row]) -> str:
    columns = [f"top1_{level:g}" for level in fusions.LEVELS if rows]
    return " / ".join(f"{100 * _mean(rows, column):.1f}" for column in columns)


def _mean(rows: list[Row], column: str) -> float:
    return statistics.mean(float(row[column]) for row in rows)


def of_new_class() -> Iterator[str]:
    """Accuracy on a class that is in the memory alone, in Markdown."""
    rows = rows_of(fusions.NEW_CLASS)
    if not rows:
        return
    yield "\n## A class that is in the memory alone\n"
    yield "Of the digits; no training had it. Before and after it is added to the memory:\n"
    yield "| fusion | new class, before | after | other classes, before | after |"
    yield "|---|---|---|---|---|"
    columns = ("new_before", "new_after", "others_before", "others_after")
    for fusion in unique(rows, "fusion"):
        group = of(rows, fusion=fusion)
        yield f"| {fusion} | {' | '.join(percent([r[name] for r in group]) for name in columns)} |"


def by_case(rows: list[Row]) -> Iterator[str]:
    """A line a fusion: means over seeds, and where it is shown better or worse, and than what.

    A table a precision, since what is compared has one.
    """
    levels, best = fusions.LEVELS, shown(rows)
    for precision in unique(best, "precision"):
        controls = (fusions.PLAIN, fusions.CORRECTED)
        chosen = [
            row for row in of(rows, precision=precision) if row in best or row["case"] in controls
        ]
        yield f"\n{PRECISIONS[precision]}:\n"
        yield f"| fusion | {' | '.join(levels.values())} | better than | worse than |"
        yield "|---" * (3 + len(levels)) + "|"
        for case in cases(chosen):
            group = of(chosen, case=case)
            cells = [percent([row[f"top1_{level:g}"] for row in group]) for level in levels]
            yield f"| {case} | {' | '.join((*cells, *verdicts(group[0])))} |"
    for name, cells in without_training(rows[0]["memory"], rows[0]["backbone"]).items():
        yield f"| {name} | {' | '.join(cells)} | | |"


def without_training(memory: str, backbone: str) -> dict[str, list[str]]:
    """What the encoder knows alone: cells of the vote of the same neighbours, and of the probe."""
    there = of(rows_of(fusions.ROWS), memory=memory, backbone=backbone)
    rows = [row for row in there if row["vote_-1"]]
    group = {key: rows[0][key] for key in GROUP} if rows else {}
    votes = fusions.masks(group, backbone, "vote_correct") if rows else None
    cells = {}
    if votes is not None:
        shares = [*votes.mean(axis=(0, 2)), float(rows[0]["vote_-1"])]
        cells["best vote, no training"] = [percent([share]) for share in shares]
    for row in of(rows_of(fusions.PROBES), memory=memory):
        cells["linear probe"] = [percent([row[f"top1_{level:g}"]]) for level in fusions.LEVELS]
    return cells


def verdicts(row: Row) -> tuple[str, str]:
    """Than what, and at which levels, the fusion of a row is shown to be better, and worse."""
    key = {name: row[name] for name in (*GROUP, "backbone")}
    mine = of(rows_of(fusions.COMPARED), **key)

    def words(is_shown: Callable[[Row], bool]) -> str:
        by_peer: dict[str, list[str]] = {}
        for row in filter(is_shown, mine):
            level = fusions.LEVELS[float(row["noise_std"])]
            by_peer.setdefault(row["against"], []).append(level.removeprefix("noise "))
        return "; ".join(f"{peer}: {', '.join(levels)}" for peer, levels in by_peer.items())

    return words(lambda row: float(row["low"]) > 0), words(lambda row: float(row["high"]) < 0)


def networks(rows: list[Row]) -> list[str]:
    """Those that were trained without noise."""
    return [name for name in unique(rows, "backbone") if "+" not in name]


def looks_of_cases() -> dict[str, Look]:
    """A colour a fusion; broken lines where an image is shown its own vector."""
    look = looks((fusions.PLAIN, *FUSIONS))
    look[fusions.CORRECTED] = {**look[fusions.PLAIN], "ls": "--"}
    look[fusions.RANDOM] = {**look["trust"], "ls": ":"}
    own = {"self": fusions.DEFAULT, fusions.OWN_VECTOR: "trust", fusions.OWN_VECTOR_TOO: "trust"}
    for case, fusion in own.items():
        both = case == fusions.OWN_VECTOR_TOO
        look[case] = {**look[fusion], "ls": "-." if both else "--"}
    for case in cases(finished()):  # FUSION, ... that is run no more
        if case not in look:
            style = "--" if case.endswith("own vector") else "-"
            look[case] = {**look[case.split(",")[0]], "mfc": "white", "ls": style}
    return look


@styled
def accuracies() -> Figure:
    """Test accuracy at each level, a line a fusion."""
    rows, look = shown(finished()), looks_of_cases()
    panels = {
        f"{memory}\n{network}": (memory, network)
        for network in networks(rows)
        for memory in unique(rows, "memory")
    }
    title = "Test accuracy of networks that were trained without noise"
    figure, axes_of = panels_of(list(panels), title, rows=len(networks(rows)))
    for name, (memory, network) in panels.items():
        axes = axes_of[name]
        group = of(rows, memory=memory, backbone=network)
        for case in cases(group):
            part = of(group, case=case)
            heights = [_mean(part, f"top1_{level:g}") for level in fusions.LEVELS]
            width = 2.6 if case == "trust" else 1.2
            axes.plot(range(len(heights)), heights, label=case, ms=4, lw=width, **look[case])
        for label, cells in without_training(memory, network).items():
            dotted = VOTE if "vote" in label else {**VOTE, "marker": "x"}
            axes.plot([float(cell) / 100 for cell in cells], label=label, **dotted)
        axes.set_xticks(range(len(fusions.LEVELS)), list(fusions.LEVELS.values()), rotation=20)
    finish(axes_of, "test accuracy")
    return figure


@styled
def trust() -> Figure:
    """How much neighbours weigh against how good they are: a line a fusion, a point a level."""
    rows = [row for row in shown(finished()) if row["purity_0"]]
    look = looks_of_cases()
    levels = [level for level in fusions.LEVELS if level >= 0]
    panels = {
        f"{memory}\n{network}{' ' * line}": (memory, network, column)
        for line, column in enumerate(MEASURES)
        for network in networks(rows)
        for memory in unique(rows, "memory")
    }
    title = "What neighbours decide, against how good they are: clean, noise .1, noise .2"
    rows_of_panels = len(MEASURES) * len(networks(rows))
    figure, axes_of = panels_of(list(panels), title, rows=rows_of_panels)
    for name, (memory, network, column) in panels.items():
        axes = axes_of[name]
        axes.set_ylim(0, 1)
        group = of(rows, memory=memory, backbone=network)
        for case in cases(group):
            if part := [row for row in of(group, case=case) if row[f"{column}_0"]]:
                purities, weights = (
                    [_mean(part, f"{kind}_{level:g}") for level in levels]
                    for kind in ("purity", column)
                )
                axes.plot(purities, weights, label=case, ms=4, **look[case])
        axes.set_xlabel("label purity of the neighbours")
    finish(axes_of, "")
    for name, (memory, _, column) in panels.items():
        if memory == rows[0]["memory"]:
            axes_of[name].set_ylabel(MEASURES[column])
    return figure


if __name__ == "__main__":
    main()
