"""Tables in HTML and Markdown, and how numbers are written in them."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rapipe.evaluation.statistics import Interval, deviation

NOTHING = "\N{EN DASH}"
NUMBER = re.compile(rf"(< )?[+-]?\.?\d|{NOTHING}")
"""How a cell with a number begins, or one that has none."""


class Table(NamedTuple):
    """Heads and rows of plain text."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without(self, *heads: str) -> Table:
        """The same without the columns of these heads."""
        columns = [i for i, head in enumerate(self.heads) if head not in heads]
        rows = [[row[i] for i in columns] for row in self.rows]
        return Table([self.heads[i] for i in columns], rows)

    def html(self) -> str:
        """HTML, with a rule where the first cell changes; empty without rows.

        Classes of the table number its columns of text. The script of the page makes all sortable.
        """
        if not self.rows:
            return ""
        columns = enumerate(zip(*self.rows, strict=True), start=1)
        text = "".join(f" text-{i}" for i, column in columns if _is_text(column))
        heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in self.heads)
        lines, previous = [], ""
        for cells in self.rows:
            start = ' class="first"' if cells[0] != previous else ""
            previous = cells[0]
            line = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            lines.append(f"<tr{start}>{line}</tr>")
        return (
            f'<div class="scroll"><table class="sortable{text}"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )

    def markdown(self) -> str:
        """Markdown; empty without rows."""
        if not self.rows:
            return ""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _is_text(column: Sequence[str]) -> bool:
    """Whether most cells are no numbers."""
    return sum(not NUMBER.match(cell) for cell in column) > len(column) / 2


def count(number: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def level_words(std: float) -> str:
    """A noise level in words."""
    return "clean" if std == 0 else f"noise {std:g}"


def points(difference: float) -> str:
    """A difference of accuracies, in points."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # 0 is +0.0


def interval_words(interval: Interval) -> str:
    """An interval of a difference, in points."""
    return f"{100 * interval.low:+.1f}, {100 * interval.high:+.1f}"


def percent(values: Sequence[float]) -> str:
    """The mean over seeds in percent, and the sample standard deviation of several."""
    if not len(values):
        return NOTHING
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * deviation(values):.1f}" if len(values) > 1 else mean


def number(values: Sequence[float], digits: int = 3) -> str:
    """The same of numbers that are no shares."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {deviation(values):.{digits}f}" if len(values) > 1 else mean


def p_value(p: float) -> str:
    """A p-value to three digits."""
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"
