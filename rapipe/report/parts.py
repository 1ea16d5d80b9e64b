"""What sections are made of.

A part is a function of all that the page shows. Its docstring is a line for who reads the code;
what follows that line stands on the page, for any reader.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from rapipe.report.material import Material
from rapipe.report.tables import Table

Content = Figure | Table | str | bytes | None
"""A figure, a table, HTML or a PNG; None or empty where there is nothing to show."""


class Part(NamedTuple):
    """A figure or a table."""

    name: str
    """Of its file in results/figures too, if it is a figure."""
    heading: str
    content: Callable[[Material], Content]

    @property
    def words(self) -> str:
        """HTML, from the docstring."""
        _, _, words = (inspect.getdoc(self.content) or "").partition("\n\n")
        return re.sub(r"`([^`]+)`", r"<code>\1</code>", words.replace("\n", " "))


class Section(NamedTuple):
    """A question, and what answers it."""

    label: str
    """In the sidebar."""
    heading: str
    lead: Callable[[Material], str]
    """Plain text, of at most two sentences."""
    parts: Sequence[Part]
