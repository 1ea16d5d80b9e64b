"""Which results differ in what, and what that did to accuracy.

Two results may be joined if they differ in the keys that an ablation is about, and in nothing
else. An artefact that differs, such as the encoder, is a difference of its own unless one of
those keys decides it.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rapipe.errors import ArgumentError
from rapipe.evaluation.results import Row
from rapipe.evaluation.statistics import MIN_SEEDS, Interval, interval_over_seeds
from rapipe.io.provenance import HASH
from rapipe.io.text import quoted

BACKBONE, STRATEGY = "classifiers.backbones", "retrieval.strategies"
CORPUS = "corpus"
ARTEFACTS = ("vectors", "encoder", "initial", "store")
"""Hashes in a setting, but that of the corpus, each before those that are made from it."""
DECIDING = (
    *("classifiers.", "corpus.", "pretrain.", "retrieval.strategies", "seed", "train.image_size"),
    *("train.precision", "train.stem", "train.width"),
)
"""Keys, or their beginnings, that decide an artefact."""
RECORDING = ("classifiers.", "retrieval.backend", "retrieval.index", "retrieval.strategies")
"""Keys, or their beginnings, whose value decides which others are recorded at all."""
NOT_RECORDED = "not recorded"
Value = tuple[Any, ...]
"""Of each key of an ablation."""


@dataclass(frozen=True)
class Trial:
    """One classifier that was trained and evaluated, with all that decided it."""

    name: str
    backbone: str
    retrieval: str
    seed: int
    setting: Mapping[str, Any]
    """By key of the parameters or name of an artefact; backbone and strategy are in it too."""
    parameters: int
    """Numbers in the network."""
    best_epoch: int
    """Chosen on validation; its weights were tested."""
    rows: Sequence[Row]
    """Test scores, one a noise level, the first of clean images."""
    history: Sequence[Row]
    """Measurements, one an epoch."""

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> Trial:
        """A trial from the JSON that `rapipe eval` keeps."""
        first = content["rows"][0]
        names = {BACKBONE: first["backbone"], STRATEGY: first["retrieval"]}
        return cls(
            name,
            first["backbone"],
            first["retrieval"],
            first["seed"],
            {**content["setting"], **names},
            content["parameters"],
            content["best_epoch"],
            content["rows"],
            content["history"],
        )


class Series(NamedTuple):
    """Trials that differ in the keys of an ablation alone, and by seed."""

    name: str
    """Of the classifiers, as a legend has it."""
    trials: Mapping[Value, Sequence[Trial]]
    """By value, in the order of the values; one a seed."""


class Ablation(NamedTuple):
    """What one or several keys did."""

    keys: tuple[str, ...]
    series: Sequence[Series]

    @property
    def values(self) -> list[Value]:
        """Every value of its series, in their order."""
        return in_order({value for series in self.series for value in series.trials})


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> frozenset[str]:
    """The keys that two settings differ in; consequences of these are left out."""
    both = one.keys() & other.keys() - {*ARTEFACTS}
    keys = {key for key in both if one[key] != other[key]}
    if not any(key.startswith(RECORDING) for key in keys):
        keys |= (one.keys() ^ other.keys()) - {*ARTEFACTS}
    if not any(key.startswith(DECIDING) for key in keys):
        keys |= {*[key for key in ARTEFACTS if one.get(key) != other.get(key)][:1]}
    return frozenset(keys)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def of_one_corpus(trials: Sequence[Trial], corpus: str = "") -> tuple[list[Trial], list[str]]:
    """The trials on one corpus, and a sentence on the others.

    Args:
        corpus: its hash; that of most trials unless given.
    """
    if trials and not corpus:
        corpus = Counter(trial.setting[CORPUS] for trial in trials).most_common(1)[0][0]
    others = [trial.name for trial in trials if trial.setting[CORPUS] != corpus]
    notes = [f"left out: {_listed(others)}, of another corpus"] if others else []
    return [trial for trial in trials if trial.setting[CORPUS] == corpus], notes


def find_ablations(
    trials: Sequence[Trial], keys: Sequence[str] = (), present: Mapping[str, Any] | None = None
) -> tuple[list[Ablation], list[str]]:
    """What the trials differ in, an ablation a key; and sentences on what is in none.

    Of each classifier, the settings that are joined differ from one in the middle, that with most
    others around it: in one key, or in the `keys` alone.

    Args:
        trials: on one corpus.
        keys: one ablation of all combinations of their values; unless given, one of each key that
            differs by itself, or of the backbones if there is none.
        present: values by key; of middles that are as good, that which is nearest to them.

    Raises:
        ArgumentError: no trial has one of the `keys`, or all have the same value.
    """
    _check_keys(trials, keys)
    of_keys: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    middles: dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    together: Counter[frozenset[str]] = Counter()
    for name, group in _groups(trials, keys).items():
        settings = _settings(group)
        middle = _middle([group[0].setting for group in settings], keys, present or {})
        for shown, joined in _joined(settings, middle, keys, together).items():
            values = {_value(t[0].setting, shown): t for t in joined}
            if len(values) > 1:
                series = Series(name, {value: values[value] for value in in_order(values)})
                of_keys[shown].append(series)
                middles[shown].append((name, middle))
    ablations = [Ablation(shown, of_keys[shown]) for shown in sorted(of_keys)]
    if not ablations and not keys and len({trial.backbone for trial in trials}) > 1:
        return find_ablations(trials, (BACKBONE,), present)
    notes = [_together(names, count, keys) for names, count in together.most_common()]
    for ablation in ablations:
        notes += _unlike(ablation.keys, middles[ablation.keys]) + _seeds(ablation)
    return ablations, notes


def _groups(trials: Iterable[Trial], keys: Sequence[str]) -> dict[str, list[Trial]]:
    """Trials by the name of what they share: backbone and strategy, if no key is about these."""
    groups: dict[str, list[Trial]] = defaultdict(list)

    def rank(trial: Trial) -> tuple[str, bool, str, str]:
        return trial.backbone, trial.retrieval != "none", trial.retrieval, trial.name

    for trial in sorted(trials, key=rank):
        parts = [] if BACKBONE in keys else [trial.backbone]
        if STRATEGY not in keys and trial.retrieval != "none":
            parts.append(trial.retrieval)
        groups[", ".join(parts) or "no neighbours"].append(trial)
    return groups


def _settings(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials that differ by seed alone, together."""
    settings: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        settings[_json(trial.setting)].append(trial)
    return list(settings.values())


def _middle(
    settings: Sequence[Mapping[str, Any]], keys: Sequence[str], present: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The setting that most others differ from in one key, or in `keys` alone."""

    def rank(one: Mapping[str, Any]) -> tuple[int, int]:
        around = sum(_fits(differing(one, other), keys) for other in settings)
        near = sum(present.get(key) == value for key, value in one.items())
        return around, near

    return max(settings, key=rank)


def _fits(differences: frozenset[str], keys: Sequence[str]) -> bool:
    return differences <= {*keys} if keys else len(differences) <= 1


def _joined(
    settings: Sequence[list[Trial]],
    middle: Mapping[str, Any],
    keys: Sequence[str],
    together: Counter[frozenset[str]],
) -> dict[tuple[str, ...], list[list[Trial]]]:
    """The settings around the middle by the keys they differ in; counts the others."""
    joined: dict[tuple[str, ...], list[list[Trial]]] = defaultdict(list)
    centre = next(trials for trials in settings if trials[0].setting == middle)
    for trials in settings:
        differences = differing(middle, trials[0].setting)
        if not _fits(differences, keys):
            together[differences - {*keys}] += len(trials)
        elif differences:
            joined[tuple(keys) or tuple(differences)].append(trials)
    return {shown: [centre, *others] for shown, others in joined.items()}


def _value(setting: Mapping[str, Any], keys: Sequence[str]) -> Value:
    """The values of some keys, lists as JSON; of a hash its beginning."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | dict):
            return _json(value)
        return value[:6] if isinstance(value, str) and HASH.fullmatch(value) else value

    return tuple(plain(setting.get(key)) for key in keys)


def in_order(values: Iterable[Value]) -> list[Value]:
    """Numbers by size, before names by the alphabet."""

    def rank(part: Any) -> tuple[bool, float, str]:
        return (not is_number(part), part if is_number(part) else 0.0, str(part))

    return sorted(values, key=lambda value: [rank(part) for part in value])


def is_number(value: Any) -> bool:
    """Whether a value is a point of an axis; true and false are names."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_words(value: Any) -> str:
    """A value as a tick and a table have it."""
    if value is None:
        return NOT_RECORDED
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(keys: Sequence[str], value: Value) -> str:
    """A value of an ablation in words; those of several keys with their names."""
    if len(keys) == 1:
        return value_words(value[0])
    names = (key.rpartition(".")[2] for key in keys)
    return ", ".join(f"{name} {value_words(part)}" for name, part in zip(names, value, strict=True))


def _check_keys(trials: Sequence[Trial], keys: Sequence[str]) -> None:
    values: dict[str, set[str]] = defaultdict(set)
    for trial in trials:
        for key, value in trial.setting.items():
            if key != CORPUS:
                values[key].add(_json(value))
    differ = sorted(key for key, found in values.items() if len(found) > 1 and "." in key)
    choices = f"what differs: {', '.join(differ) or 'nothing'}"
    for key in keys:
        if key not in values:
            close = difflib.get_close_matches(key, values, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ArgumentError(
                f"`keys` has {quoted(key)}, which no result records{hint}; {choices}"
            )
        if len(values[key]) == 1:
            raise ArgumentError(
                f"`keys` has {quoted(key)}, which is {next(iter(values[key]))} in all results; "
                f"{choices}"
            )


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _together(keys: frozenset[str], count: int, asked: Sequence[str]) -> str:
    """What is said of results that differ from the middle in too much."""
    names = sorted(keys)
    results = "1 result differs" if count == 1 else f"{count} results differ"
    if asked:
        return f"left out: {results} from the others in {', '.join(names)} too"
    return (
        f"left out: {results} from the others in several keys at once; each combination is drawn "
        f"by rapipe compare {' '.join(names)}"
    )


def _unlike(keys: Sequence[str], middles: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A sentence for each key that differs between the lines of a figure."""
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for name, middle in middles:
        for key, value in middle.items():
            if key not in (*keys, *ARTEFACTS, BACKBONE, STRATEGY):
                values[key][name] = value_words(value)
    return [
        f"{', '.join(keys)}: {key} is not the same in all lines: "
        + ", ".join(f"{value} of {name}" for name, value in by_name.items())
        for key, by_name in values.items()
        if len(set(by_name.values())) > 1
    ]


def _seeds(ablation: Ablation) -> list[str]:
    """A sentence where means are of different seeds."""
    names = [
        series.name
        for series in ablation.series
        if len({tuple(sorted(t.seed for t in trials)) for trials in series.trials.values()}) > 1
    ]
    if not names:
        return []
    return [f"{', '.join(ablation.keys)}: not all values have the same seeds ({_listed(names)})"]


class Measure(NamedTuple):
    """A measurement by epoch."""

    title: str
    column: str
    """Of the histories."""


CURVES = (
    Measure("train loss", "loss"),
    Measure("test loss", "test_loss_not_for_selection"),
    Measure("train accuracy", "train_top1"),
    Measure("test accuracy", "test_top1_not_for_selection"),
)


def by_epoch(trials: Iterable[Trial], column: str) -> dict[float, list[float]]:
    """Values of a column by epoch, one a seed; empty if it was not measured."""
    points: dict[float, list[float]] = defaultdict(list)
    for trial in trials:
        for row in trial.history:
            if row.get(column) is not None:
                points[row["epoch"]].append(row[column])
    return points


def accuracies(trials: Iterable[Trial]) -> list[float]:
    """Clean test accuracy of each seed."""
    return [trial.rows[0]["top1"] for trial in trials]


def accuracy_interval(trials: Sequence[Trial]) -> Interval | None:
    """95 % of its mean, over seeds; None of too few: of two it would be 13 deviations wide."""
    if len(trials) < MIN_SEEDS:
        return None
    interval = interval_over_seeds(accuracies(trials))
    return Interval(max(0.0, interval.low), min(1.0, interval.high))


def table_rows(ablations: Iterable[Ablation]) -> list[dict[str, Any]]:
    """A row an ablation, classifier and value: means over seeds.

    What is of training and validation is of the epoch that was best on validation; the test
    scores are of the same weights.
    """
    return [
        {
            "key": ", ".join(ablation.keys),
            "value": label(ablation.keys, value),
            "backbone": trials[0].backbone,
            "retrieval": trials[0].retrieval,
            "seeds": " ".join(str(seed) for seed in sorted(trial.seed for trial in trials)),
            **_scores(trials),
        }
        for ablation in ablations
        for series in ablation.series
        for value, trials in series.trials.items()
    ]


def _scores(trials: Sequence[Trial]) -> dict[str, Any]:
    best = [
        next((row for row in trial.history if row["epoch"] == trial.best_epoch), {})
        for trial in trials
    ]

    def mean(values: Iterable[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return float(np.mean(numbers)) if numbers else None

    def of_rows(name: str, rows: Callable[[Trial], Row]) -> float | None:
        return mean(rows(trial)[name] for trial in trials)

    interval = accuracy_interval(trials)
    noisiest = trials[0].rows[-1]
    return {
        "parameters": trials[0].parameters,
        "best_epoch": mean(trial.best_epoch for trial in trials),
        "train_loss": mean(row.get("loss") for row in best),
        "train_top1": mean(row.get("train_top1") for row in best),
        "validation_top1": mean(row.get("validation_top1") for row in best),
        "test_loss": of_rows("nll", lambda trial: trial.rows[0]),
        "test_top1": of_rows("top1", lambda trial: trial.rows[0]),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "test_top3": of_rows("top3", lambda trial: trial.rows[0]),
        "noise_std": noisiest["noise_std"],
        "noisy_top1": of_rows("top1", lambda trial: trial.rows[-1]),
    }
