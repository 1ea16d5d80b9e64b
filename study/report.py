"""Makes CSV, figures and tables of what has been run; fills the tables into the study's page.

`results/study/README.md` is written by hand but for what stands between
`<!-- PRESET NAME -->` and `<!-- end -->`: there a table of this name is put.
"""

from __future__ import annotations

import re
from pathlib import Path

from rapipe.io.atomic import atomic_write
from rapipe.io.tables import write_csv
from rapipe.progress import say
from rapipe.report.style import png
from study.comparisons import compare_conditions
from study.figures import FIGURES
from study.results import StudyResults, run_rows
from study.running import Study
from study.tables import blocks

PAGES = ("README.md", "../../README.md")
"""Pages that hold tables: the study's, and the first screen of the project's."""


def run(study: Study) -> None:
    """Write `runs.csv`, `claims.csv`, `tables.md` and `figures/`, and fill the pages."""
    results = StudyResults.read(study.results)
    comparisons = compare_conditions(results)
    write_csv(study.results / "runs.csv", run_rows(results))
    write_csv(study.results / "claims.csv", [comparison.row for comparison in comparisons])
    tables = {name: (heading, text) for name, heading, text in blocks(results, comparisons) if text}
    atomic_write(study.results / "tables.md", _page(study, tables).encode())
    for path in pages(study):
        if path.is_file():
            atomic_write(path, fill(path.read_text(), study.preset, tables).encode())
    for name, draw in FIGURES.items():
        figure = draw(results)
        if figure is not None:
            atomic_write(study.results / "figures" / f"{name}.png", png(figure))
    say(f"{sum(map(len, results.runs.values()))} classifiers; see {study.results}")


def _page(study: Study, tables: dict[str, tuple[str, str]]) -> str:
    """All tables on one page."""
    head = f"# Tables of `{study.preset}`\n\nMade by `{study.command('report')}`.\n"
    return head + "".join(f"\n## {heading}\n\n{text}" for heading, text in tables.values())


def fill(page: str, preset: str, tables: dict[str, tuple[str, str]]) -> str:
    """The page with the present tables of a preset instead of its previous ones."""

    def block(match: re.Match[str]) -> str:
        begin, name, previous = match.groups()
        text = tables[name][1] if name in tables else previous
        return f"{begin}\n{text}<!-- end -->"

    pattern = rf"(<!-- {re.escape(preset)} (\S+) -->)\n(.*?)<!-- end -->"
    return re.sub(pattern, block, page, flags=re.DOTALL)


def pages(study: Study) -> list[Path]:
    """Where tables are put."""
    return [(study.pages / page).resolve() for page in PAGES]
