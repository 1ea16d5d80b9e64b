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
from study import figures, tables
from study.results import StudyResults, claim_rows, claims, run_rows
from study.running import Study, command

PAGES = ("README.md", "../../README.md")
"""Pages that hold tables: the study's, and the first screen of the project's."""


def run(study: Study) -> None:
    """Write `runs.csv`, `claims.csv`, `tables.md` and `figures/`, and fill the pages."""
    found = StudyResults.read(study.results)
    made = claims(found)
    write_csv(study.results / "runs.csv", run_rows(found))
    write_csv(study.results / "claims.csv", claim_rows(made))
    blocks = {name: (heading, text) for name, heading, text in tables.blocks(found, made) if text}
    atomic_write(study.results / "tables.md", _page(study, blocks).encode())
    for path in pages(study):
        if path.is_file():
            atomic_write(path, filled(path.read_text(), study.preset, blocks).encode())
    for name, figure in figures.figures(found):
        if figure is not None:
            atomic_write(study.results / "figures" / f"{name}.png", png(figure))
    say(f"{sum(len(own) for own in found.runs.values())} classifiers; see {study.results}")


def _page(study: Study, blocks: dict[str, tuple[str, str]]) -> str:
    """All tables on one page."""
    head = f"# Tables of `{study.preset}`\n\nMade by `{command(study, 'report')}`.\n"
    return head + "".join(f"\n## {heading}\n\n{text}" for heading, text in blocks.values())


def filled(page: str, preset: str, blocks: dict[str, tuple[str, str]]) -> str:
    """The page with the present tables of a preset in the place of its own."""

    def put_in(match: re.Match[str]) -> str:
        begin, name = match[1], match[2]
        text = blocks[name][1] if name in blocks else match[3]
        return f"{begin}\n{text}<!-- end -->"

    pattern = rf"(<!-- {re.escape(preset)} (\S+) -->)\n(.*?)<!-- end -->"
    return re.sub(pattern, put_in, page, flags=re.DOTALL)


def pages(study: Study) -> list[Path]:
    """Where tables are put."""
    return [(study.found / page).resolve() for page in PAGES]
