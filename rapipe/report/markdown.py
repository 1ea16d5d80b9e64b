"""The top of the page in Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapipe.report.tables import NOTHING, Table
from rapipe.report.verdicts import Card

PAGE = "results/index.html"


def summary_of(
    question: str, facts: str, answer: str, cards: Sequence[Card], caveats: Sequence[str]
) -> str:
    """The question, a table of verdicts, and what speaks against them."""
    against = [
        f"{card.backbone}{card.strategy and f' with {card.strategy}'}. {' '.join(card.against)}"
        for card in cards
        if card.against
    ]
    listed = "".join(f"- {_plain(sentence)}\n" for sentence in (*caveats, *against))
    parts = (
        f"## {question}\n",
        f"{_plain(facts)}.{answer and f' **{_plain(answer)}**'}\n",
        _table(cards).markdown(),
        f"**What speaks against it**\n\n{listed}" if listed else "",
        f"Every figure, table and test: [{PAGE}](/{PAGE})\n",
    )
    return "\n".join(part for part in parts if part)


def _table(cards: Sequence[Card]) -> Table:
    """A line a classifier and shift."""
    rows = [
        [
            _plain(card.backbone),
            _plain(card.strategy),
            _plain(finding.shift),
            finding.points,
            finding.interval or NOTHING,
            finding.verdict,
            str(card.seeds),
        ]
        for card in cards
        for finding in card.findings
    ]
    heads = ["classifier", "neighbours", "images", "points", "95 % interval", "verdict", "seeds"]
    if any(card.strategy for card in cards):
        return Table(heads, rows)
    return Table([*heads[:3], "accuracy", *heads[4:]], rows).without("neighbours")


def _plain(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
