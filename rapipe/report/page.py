"""The page: one file with its pictures, style and script inside, which needs no network.

It can be read without its script, which makes tables sortable and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rapipe.report.verdicts import BETTER, OPEN, UNTESTED, WORSE, Card, Finding

STYLE = Path(__file__).with_name("page.css").read_text("utf-8")
SCRIPT = Path(__file__).with_name("page.js").read_text("utf-8")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
"""What a browser may load: nothing from elsewhere, and no script but ours, whose hash follows."""
NARROW = "(max-width: 40rem)"
"""Screens for which a figure may have another shape."""


class Fold(NamedTuple):
    """What a reader may open."""

    heading: str
    words: str
    """HTML."""
    content: str
    """HTML."""


class Block(NamedTuple):
    """A section: what stands open, its words, and what is folded."""

    label: str
    """In the sidebar, which leads there."""
    heading: str
    shown: str
    """HTML: a figure, or a table where there is none."""
    lead: str
    """Plain text."""
    folds: Sequence[Fold]

    @property
    def name(self) -> str:
        """Of its anchor."""
        return self.label.lower().replace(" ", "-")


def page(title: str, opening: str, blocks: Sequence[Block]) -> str:
    """The whole page.

    Args:
        opening: HTML between the title and the first section.
    """
    links = "".join(f'<li><a href="#{b.name}">{_text(b.label)}</a></li>' for b in blocks)
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY} 'sha256-{script}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style></head><body>
<nav aria-label="Sections"><ul><li><a href="#top">In short</a></li>{links}</ul></nav>
<main>
<header id="top"><h1>{_text(title)}</h1>
{opening}</header>
{"".join(map(_section, blocks))}</main>
<script>{SCRIPT}</script>
</body></html>
"""


def figure(alt: str, png: bytes, narrow: bytes = b"") -> str:
    """A picture inside the page; on a telephone another one, if there is one."""
    image = f'<img alt="{_text(alt)}" src="{_data(png)}">'
    if narrow:
        source = f'<source media="{NARROW}" srcset="{_data(narrow)}">'
        image = f"<picture>{source}{image}</picture>"
    return f"<figure>{image}</figure>"


def opening(
    facts: str, answer: str, picture: Fold, cards: Sequence[Card], caveats: Iterable[str]
) -> str:
    """What stands above the first section: the answer, its figure, cards, and what speaks against.

    Args:
        facts: what was run, in a line.
        picture: the figure, with the words that explain it.
    """
    said = f'<p class="answer">{_text(answer)}</p>' if answer else ""
    all_cards = "".join(map(_card, cards))
    against = _against("What speaks against all of it", caveats, "h2")
    return (
        f'<p class="facts">{_text(facts)}</p>{said}{picture.content}'
        f"{_fold(picture._replace(content=''))}"
        f'<div class="cards">{all_cards}</div>{against}'
    )


def _section(block: Block) -> str:
    folds = "".join(map(_fold, block.folds))
    return (
        f'<section id="{block.name}"><h2>{_text(block.heading)}</h2>{block.shown}'
        f'<p class="lead">{_text(block.lead)}</p>{folds}</section>\n'
    )


def _fold(fold: Fold) -> str:
    words = f"<p>{fold.words}</p>" if fold.words else ""
    return f"<details><summary>{_text(fold.heading)}</summary>{words}{fold.content}</details>"


def _card(card: Card) -> str:
    strategy = f" <small>with {_text(card.strategy)}</small>" if card.strategy else ""
    rows = "".join(map(_row, card.findings))
    return (
        f'<article class="card"><h3>{_text(card.backbone)}{strategy}</h3>'
        f'<p class="verdict">{_text(card.line)}</p><table>{rows}</table>'
        f"{_against('What speaks against it', card.against, 'h4')}</article>"
    )


def _row(finding: Finding) -> str:
    kinds = {BETTER: "better", WORSE: "worse", OPEN: "open", UNTESTED: "untested"}
    kind = next((kind for word, kind in kinds.items() if finding.verdict.startswith(word)), "open")
    badge = f'<span class="badge {kind}">{_text(finding.verdict)}</span>' if finding.verdict else ""
    seen = f"<br><small>{_text(finding.seen)}</small>" if finding.seen else ""
    interval = f"[{finding.interval}]" if finding.interval else ""
    return (
        f'<tr><th scope="row">{_text(finding.shift)}</th>'
        f"<td>{badge}{seen}</td>"
        f"<td>{_text(finding.points)}</td><td>{_text(interval)}</td></tr>"
    )


def _against(heading: str, sentences: Iterable[str], tag: str) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f"<{tag}>{heading}</{tag}><ul>{items}</ul>" if items else ""


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _text(text: str) -> str:
    return html.escape(text)
