"""Which results may be joined, and how what differs is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy import stats

from rapipe.errors import ArgumentError
from rapipe.evaluation.ablations import (
    BACKBONE,
    CURVES,
    STRATEGY,
    Ablation,
    Trial,
    find_ablations,
    of_one_corpus,
    table_rows,
)
from rapipe.evaluation.statistics import interval_over_seeds
from rapipe.report.ablations import ablation_table, accuracy_by_value, curves_by_value

RATE, BATCH = "train.learning_rate", "train.batch_size"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def trial(
    backbone: str = "alexnet",
    retrieval: str = "none",
    seed: int = 0,
    top1: float = 0.5,
    absent: str = "",
    **changed: Any,
) -> Trial:
    """A result of the base setting but for some keys, in which `__` stands for a dot."""
    setting = {"corpus": "c" * 16, "initial": "1" * 16, RATE: 0.001, BATCH: 64, "seed": 0}
    if retrieval != "none":
        setting |= {"encoder": "2" * 16, "store": "3" * 16, "pretrain.epochs": 6}
        setting |= {"retrieval.k": 4, "retrieval.index": "exact"}
    setting |= {key.replace("__", "."): value for key, value in changed.items()}
    setting.pop(absent, None)
    scores = {"top3": 0.9, "nll": 1.5}
    rows = [
        {"backbone": backbone, "retrieval": retrieval, "seed": seed, "noise_std": std, "top1": t}
        for std, t in ((0.0, top1), (0.2, top1 / 2))
    ]
    history = [
        {measure.column: epoch / 10 for measure in CURVES}
        | {"epoch": epoch, "validation_top1": 0.4}
        for epoch in (1, 2)
    ]
    name = f"{backbone}-{retrieval}-{seed}-{changed}"
    content = {"setting": setting, "parameters": 1000, "best_epoch": 2, "history": history}
    return Trial.of(name, {**content, "rows": [{**row, **scores} for row in rows]})


def shown(ablations: list[Ablation]) -> dict[tuple[str, ...], dict[str, list[Any]]]:
    """Values by keys and name of the series."""
    return {
        ablation.keys: {series.name: list(series.trials) for series in ablation.series}
        for ablation in ablations
    }


def rates(*values: float, **others: Any) -> list[Trial]:
    return [trial(train__learning_rate=value, **others) for value in values]


def test_each_key_that_differs_by_itself_is_an_ablation() -> None:
    star = [*rates(0.1, 0.001, 0.01), trial(train__batch_size=256), trial(train__batch_size=16)]
    ablations, notes = find_ablations(star)
    assert shown(ablations) == {
        (BATCH,): {"alexnet": [(16,), (64,), (256,)]},
        (RATE,): {"alexnet": [(0.001,), (0.01,), (0.1,)]},
    }
    assert notes == []


def test_several_keys_at_once_are_said_and_drawn_when_named() -> None:
    grid = [*rates(0.001, 0.01), *rates(0.001, 0.01, train__batch_size=256)]
    ablations, notes = find_ablations(grid, present={BATCH: 256, RATE: 0.01})
    assert shown(ablations)[RATE,] == {"alexnet": [(0.001,), (0.01,)]}
    [series] = ablations[1].series
    assert {t.setting[BATCH] for group in series.trials.values() for t in group} == {256}  # present
    [note] = notes
    assert note == (
        "left out: 1 result differs from the others in several keys at once; each combination is "
        "drawn by rapipe compare train.batch_size train.learning_rate"
    )
    [both], notes = find_ablations(grid, (RATE, BATCH))
    assert both.values == [(0.001, 64), (0.001, 256), (0.01, 64), (0.01, 256)]
    assert notes == []
    [one], notes = find_ablations(grid, (RATE,))
    assert one.values == [(0.001,), (0.01,)]
    assert notes == ["left out: 2 results differ from the others in train.batch_size too"]


def test_an_artefact_that_differs_is_a_difference_unless_a_key_decides_it() -> None:
    first = trial(retrieval="knn")
    rate = trial(retrieval="knn", train__learning_rate=0.01, encoder="4" * 16, store="5" * 16)
    ablations, notes = find_ablations([first, rate])
    assert ablations == []
    assert "in several keys at once" in notes[0]
    longer = trial(retrieval="knn", pretrain__epochs=9, encoder="4" * 16, store="5" * 16)
    ablations, notes = find_ablations([first, longer])
    assert shown(ablations) == {("pretrain.epochs",): {"alexnet, knn": [(6,), (9,)]}}
    edited = trial(retrieval="knn", store="6" * 16)
    [ablation], _ = find_ablations([first, edited])
    assert ablation.keys == ("store",)
    assert ablation.values == [("333333",), ("666666",)]


def test_keys_that_only_one_value_records_are_no_difference() -> None:
    faiss = {"retrieval__index": "IVF4,Flat", "retrieval__backend": "faiss"}
    results = [trial(retrieval="knn"), trial(retrieval="knn", **faiss), trial()]
    [index], _ = find_ablations(results)
    assert shown([index]) == {("retrieval.index",): {"alexnet, knn": [("IVF4,Flat",), ("exact",)]}}
    [strategy], _ = find_ablations(results[::2], (STRATEGY,))
    assert strategy.values == [("knn",), ("none",)]
    older = trial(absent=BATCH)
    [ablation], _ = find_ablations([trial(), older])
    assert [row["value"] for row in table_rows([ablation])] == ["64", "not recorded"]


def test_backbones_share_one_pair_of_axes() -> None:
    sizes = [trial(f"perceiver-{size}", initial=size * 16) for size in "abc"]
    [ablation], notes = find_ablations(sizes)
    assert shown([ablation]) == {
        (BACKBONE,): {"no neighbours": [(f"perceiver-{size}",) for size in "abc"]}
    }
    assert notes == []
    figure = curves_by_value([ablation])
    assert figure is not None
    assert [len(axes.get_lines()) for axes in figure.axes] == [3, 3, 3, 3]


def test_results_of_another_corpus_are_left_out() -> None:
    other = trial(corpus="d" * 16)
    same, notes = of_one_corpus([trial(), trial(seed=1), other])
    assert len(same) == 2
    assert notes == [f"left out: {other.name}, of another corpus"]
    assert of_one_corpus([trial(), other], "d" * 16)[0] == [other]
    assert of_one_corpus([]) == ([], [])


def test_means_are_over_seeds_and_say_which() -> None:
    tops = (0.5, 0.6, 0.7)
    results = [trial(seed=seed, top1=top1) for seed, top1 in enumerate(tops)]
    results += [*rates(0.01, top1=0.8), *rates(0.01, top1=0.8, seed=1)]
    ablations, notes = find_ablations(results)
    assert notes == [f"{RATE}: not all values have the same seeds (alexnet)"]
    first, second = table_rows(ablations)
    assert first["seeds"] == "0 1 2"
    assert first["test_top1"] == pytest.approx(0.6)
    interval = stats.t.interval(0.95, 2, loc=0.6, scale=0.1 / 3**0.5)
    assert interval_over_seeds(tops) == pytest.approx(interval)
    assert (first["low"], first["high"]) == pytest.approx(interval)
    assert (second["seeds"], second["low"], second["noisy_top1"]) == ("0 1", None, 0.4)
    assert second["train_loss"] == 0.2  # of the best epoch
    markdown = ablation_table(ablations).markdown()
    assert "| train.learning_rate | 0.01 | alexnet | none | 0 1 | 1,000 | 2 | 0.200 |" in markdown


def test_lines_that_differ_in_another_key_are_said() -> None:
    results = [*rates(0.001, 0.01), *rates(0.001, 0.01, backbone="net", train__batch_size=256)]
    _, notes = find_ablations(results)
    assert notes == [f"{RATE}: {BATCH} is not the same in all lines: 64 of alexnet, 256 of net"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["train.learning_rat"], r"no result records \(did you mean train.learning_rate\?\); what"),
        ([BATCH], r"which is 64 in all results; what differs: train\.learning_rate$"),
    ],
)
def test_a_key_that_shows_nothing_is_refused(keys: list[str], sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        find_ablations(rates(0.001, 0.01), keys)


def test_nothing_that_differs_is_nothing() -> None:
    assert find_ablations([trial(), trial(seed=1)]) == ([], [])
    assert accuracy_by_value([]) is None
    assert curves_by_value([]) is None
    assert ablation_table([]).html() == ""


def drawn(*values: Any, key: str = "train.learning_rate") -> Figure:
    name = key.replace(".", "__")
    ablations, _ = find_ablations([trial(**{name: value}) for value in values])
    figure = accuracy_by_value(ablations)
    assert figure is not None
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize(
    ("values", "scale", "ticks", "labels"),
    [
        ((0.1, 0.001, 0.003), "log", [0.001, 0.003, 0.1], ["0.001", "0.003", "0.1"]),
        ((6, 12, 18), "linear", [6, 12, 18], ["6", "12", "18"]),
        ((0, 0.2, 1.0), "linear", [0, 0.2, 1.0], ["0", "0.2", "1"]),
        ((0, 0.001, 1.0), "linear", [0, 1, 2], ["0", "0.001", "1"]),  # else labels would overlap
        (("ema", "none", "swa"), "linear", [0, 1, 2], ["ema", "none", "swa"]),
        ((False, True), "linear", [0, 1], ["false", "true"]),
    ],
)
def test_ticks_stand_at_the_values_that_were_run(
    values: tuple[Any, ...], scale: str, ticks: list[float], labels: list[str]
) -> None:
    [axes] = drawn(*values).axes
    assert axes.get_xscale() == scale
    assert list(axes.get_xticks()) == ticks
    assert [text.get_text() for text in axes.get_xticklabels()] == labels
    assert list(axes.xaxis.get_minorticklocs()) == []
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == ticks
    assert (line.get_linestyle() == "None") == isinstance(values[0], str | bool)


def test_learning_curves_are_four_panels_with_a_curve_a_value() -> None:
    ablations, _ = find_ablations([*rates(0.001, 0.01), *rates(0.001, 0.01, retrieval="knn")])
    figure = curves_by_value(ablations)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == [
        f"{name}: {measure}"
        for name in ("alexnet", "alexnet, knn")
        for measure in ("train loss", "test loss", "train accuracy", "test accuracy")
    ]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.get_lines()] == ["0.001", "0.01"]
        assert list(axes.get_lines()[0].get_xdata()) == [1, 2]
