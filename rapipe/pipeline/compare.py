"""`rapipe compare`: what differs among the kept results, as figures and a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.schema import Params
from rapipe.errors import UserError
from rapipe.evaluation.ablations import (
    Ablation,
    Trial,
    find_ablations,
    of_one_corpus,
    table_rows,
)
from rapipe.io.atomic import atomic_write
from rapipe.io.tables import parse_checksummed, write_csv
from rapipe.io.text import quoted
from rapipe.pipeline.inputs import corpus_card, kept_folder
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.progress import say
from rapipe.report import ablations as drawn
from rapipe.report import style

EXAMPLE = "dvc exp run -S train.learning_rate=0.01"


@argument_keys(keys="rapipe compare")
def run(
    params: Params, keys: Sequence[str], backbones: Sequence[str], folder: Path
) -> list[dict[str, Any]]:
    """Write figures, `ablations.md` and `ablations.csv` into a folder; returns the table's rows.

    Args:
        keys: of params.yaml; all combinations of their values are drawn. None: each key that
            differs by itself.
        backbones: only results of these; none: of all.

    Raises:
        UserError: nothing is kept, or nothing differs.
    """
    trials, notes = read_trials()
    if not trials:
        raise UserError(
            f"{kept_folder()} holds no results: run rapipe train and eval, or dvc repro"
        )
    trials = _of_backbones(trials, backbones)
    ablations, more = find_ablations(trials, keys, deciding.of_params(params))
    for note in (*notes, *more):
        say(note)
    if not ablations:
        raise UserError(
            f"the {len(trials)} results in {kept_folder()} show no key of params.yaml with two "
            f"values and all others alike: change one, such as {EXAMPLE}"
        )
    rows = table_rows(ablations)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "ablations.csv", rows)
    text = "".join(f"{note}\n\n" for note in (*notes, *more))
    atomic_write(
        folder / "ablations.md", (text + drawn.ablation_table(ablations).markdown()).encode()
    )
    for ablation in ablations:
        _draw(ablation, folder)
    say(f"figures and tables are in {folder}")
    return rows


def _draw(ablation: Ablation, folder: Path) -> None:
    """Write the two figures of an ablation."""
    name = re.sub(r"[^\w.]+", "-", "+".join(ablation.keys))
    for what, draw in (("accuracy", drawn.accuracy_by_value), ("curves", drawn.curves_by_value)):
        if figure := draw([ablation]):
            atomic_write(folder / f"{name}-{what}.png", style.png(figure))
    hidden = len(ablation.series) - drawn.MOST_ROWS
    if hidden > 0:
        say(f"{name}-curves.png has no room for {hidden} more; --backbone chooses")


def _of_backbones(trials: Sequence[Trial], backbones: Sequence[str]) -> list[Trial]:
    """Those of these backbones; `UserError` if there are none of one."""
    names = sorted({trial.backbone for trial in trials})
    for backbone in backbones:
        if backbone not in names:
            raise UserError(
                f"--backbone is {quoted(backbone)}; {kept_folder()} has {', '.join(names)}"
            )
    return [trial for trial in trials if not backbones or trial.backbone in backbones]


def read_trials() -> tuple[list[Trial], list[str]]:
    """What is kept of the present corpus, and sentences on what is left out.

    Where there is no corpus, as in a clone, of that which most results are of.
    """
    trials, damaged = [], []
    for path in sorted(kept_folder().glob("*.json")):
        try:
            trials.append(Trial.of(path.stem, parse_checksummed(path.read_text("utf-8"))))
        except (ValueError, LookupError, TypeError):
            damaged.append(path.name)
    corpus = corpus_card()["hash"] if paths.CORPUS_CARD.exists() else ""
    trials, notes = of_one_corpus(trials, corpus)
    if damaged:
        notes.append(f"left out: {', '.join(damaged)}, damaged: run rapipe eval")
    return trials, notes
