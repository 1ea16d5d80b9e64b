"""The report put together: the page, its figures, and a summary in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.report import headline, objections, plain, style, verdicts
from rapipe.report.markdown import summary_of
from rapipe.report.material import Material
from rapipe.report.page import Block, Fold, figure, opening, page
from rapipe.report.parts import Part, Section
from rapipe.report.plain_cards import plain_cards
from rapipe.report.plain_sections import PLAIN_SECTIONS
from rapipe.report.sections import SECTIONS
from rapipe.report.tables import Table, count

QUESTION = "What is looking things up worth?"
PLAIN_QUESTION = "How good are the classifiers?"
NO_ANSWER = "No classifier here searches a memory: there is nothing to claim."
EXPLAINED = "How to read it"


class Report(NamedTuple):
    """What the stage writes, beside numbers."""

    page: str
    """HTML."""
    summary: str
    """Markdown."""
    figures: Mapping[str, bytes]
    """PNG, by name."""


def build(material: Material, retrieving: bool) -> Report:
    """Draw every figure, and put the page and its summary together.

    Args:
        retrieving: whether any classifier is shown something; else the page speaks of no memory.
    """
    question = QUESTION if retrieving else PLAIN_QUESTION
    cards_of = verdicts.cards if retrieving else plain_cards
    cards = cards_of(material, material.comparisons)
    caveats = objections.caveats(material)
    answer = (verdicts.answer(cards) or NO_ANSWER) if retrieving else ""
    figures = {
        "headline": style.png(headline.headline(material)),
        "headline-narrow": style.png(headline.narrow_headline(material)),
    }
    first = headline.headline if retrieving else plain.accuracy_by_shift
    words = Part("headline", EXPLAINED, first).words
    picture = Fold(EXPLAINED, words, figure("Test accuracy by shift", *figures.values()))
    top = opening(facts(material), answer, picture, cards, caveats)
    sections = SECTIONS if retrieving else PLAIN_SECTIONS
    blocks = [block for section in sections if (block := _block(section, material, figures))]
    summary = summary_of(question, facts(material), answer, cards, caveats)
    return Report(page(question, top, blocks), summary, figures)


def facts(evidence: Evidence) -> str:
    """What was run, in a line."""
    images = next(iter(evidence.stacks.values())).correct.shape[2]
    seeds = len(next(iter(evidence.runs.values())))
    parts = [count(len(evidence.backbones), "classifier"), count(seeds, "seed")]
    parts.append(count(images, "test image"))
    sizes = {(c.k, c.bank_size) for c in evidence.searching() if c.k}
    parts += [f"k = {k} of {rows:,} images in the memory" for k, rows in sorted(sizes)]
    return ", ".join(parts)


def _block(section: Section, material: Material, figures: dict[str, bytes]) -> Block | None:
    """A section with its first figure, or else table, open; None if it has nothing to show."""
    contents: dict[Part, str] = {}
    open_part: Part | None = None
    for part in section.parts:  # in turn: no two figures need be open at once
        content = part.content(material)
        if isinstance(content, Figure):
            content = figures[part.name] = style.png(content)
        if isinstance(content, Table):
            content = content.html()
        if isinstance(content, bytes) and content:
            open_part = open_part or part
            content = figure(part.heading, content)
        if content:
            contents[part] = str(content)
    if not contents:
        return None
    open_part = open_part or next(iter(contents))
    shown = contents.pop(open_part)
    folds = [Fold(part.heading, part.words, content) for part, content in contents.items()]
    if open_part.words:
        folds.insert(0, Fold(EXPLAINED, open_part.words, ""))
    lead = section.lead(material)
    return Block(section.label, section.heading, shown, lead, folds)
