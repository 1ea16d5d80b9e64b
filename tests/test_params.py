from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from conftest import ROOT

from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.config import json_schema, presets
from rapipe.config.loading import load, parse
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.config.yaml_text import read_yaml
from rapipe.encoder.encoder import EncoderSpec
from rapipe.errors import UserError
from rapipe.pipeline.running.check_names import check, load_checked
from rapipe.specs import TrainingRecipe, deciding

TEXT = (ROOT / "params.yaml").read_text()


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """The committed parameters with one line's text replaced."""
    assert old in TEXT
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    return path


def test_committed_file_is_the_preset_digits_and_valid() -> None:
    _, _, preset = (ROOT / "rapipe/config/presets/digits.yaml").read_text().partition("\n")
    assert preset == TEXT
    params = load_checked(ROOT / "params.yaml")
    assert params.retrieval.k == 32
    assert params.classifiers.backbones == ("resnet18", "alexnet", "perceiver", "alexnet+noise")


def test_every_key_has_a_comment() -> None:
    for line in TEXT.splitlines():
        if re.match(r"\s*[a-z_]+: *\S|^[a-z_]+: [^#]", line):
            assert "#" in line, line


def test_comments_and_the_json_schema_are_those_of_the_model() -> None:
    """`make schema` writes both anew."""
    assert json_schema.commented(TEXT) == TEXT
    assert json_schema.json_schema() == (ROOT / json_schema.SCHEMA).read_text()
    assert TEXT.startswith(f"# yaml-language-server: $schema={json_schema.SCHEMA}\n")


def test_every_key_has_a_description_that_is_its_comment() -> None:
    content = read_yaml(TEXT)
    for group, values in content.items():
        keys = values if isinstance(values, dict) else {group: values}
        kind = get_type_hints(Params)[group] if keys is values else Params
        assert set(keys) == {field.name for field in fields(kind)} or kind is Params
        for key in keys:
            comment = json_schema.description(kind, key)
            assert re.search(rf"^ *{key}:.* # {re.escape(comment)}$", TEXT, re.MULTILINE), key
            assert len(comment) > 5


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("\ntrain:", "\ntrain:\n  seeds: [7]", "train.seeds is called classifiers.seeds now: wri"),
        (
            "stages: last",
            "places: last",
            "retrieval.places is called retrieval.stages now: write 'l",
        ),
        ("alexnet+noise] #", "alexnet+corpus] #", "+corpus is called +pretrained now"),
        ("alexnet+noise] #", "alexnet+elsewhere] #", "+elsewhere is called +checkpoint now"),
        (
            "fusion: trust",
            "fusion: sum",
            "retrieval.fusion is 'sum'; it must be one of",
        ),
        ("k: 32", "k: 0", "retrieval.k is 0; it must be at least 1"),
        ("swap_std: [0]", "swap_std: [0.3]", "evaluate.swap_std has 0.3, which is neither 0 nor"),
        ("poisoned: [0.1, 0.5]", "poisoned: [2]", "evaluate.poisoned[0] is 2; it must be from"),
        ("prune: 0.02", "prune: 2%", "retrieval.prune is '2%'; it must be a number"),
        (
            "alexnet+noise] #",
            "vgg+noise] #",
            "classifiers.backbones[3]: 'vgg' is no backbone; choose from res",
        ),
        ("k: 32", "k: '32'", "retrieval.k is '32'; it must be a whole number"),
        ("k: 32", "k: true", "retrieval.k is True; it must be a whole number"),
        ("k: 32", "kk: 32", "retrieval.kk is no parameter (did you mean k?)"),
        ("  k: 32", "  #", "retrieval.k is missing"),
        ("seed: 0", "seed: -1", "seed is -1; it must be at least 0, and at most 4,294,967,295"),
        ("attend: embedding", "attend: labels", "one of embedding, label, both"),
        ("attend: embedding", "attend: [label]", "retrieval.attend is ['label']"),
        ("dropout: 0.5", "dropout: 1.5", "retrieval.dropout is 1.5; it must be from 0 to 1"),
        ("dropout: 0.5", "dropout: .nan", "retrieval.dropout is nan; it must be a number"),
        ("width: 16", "width: 10", "pretrain.width is 10; it must be a multiple of 4 from 4"),
        ("learning_rate: 0.2", "learning_rate: 0", "more than 0, up to 100"),
        ("bank: all", "bank: 0", "retrieval.bank is 0"),
        ("bank: all", "bank: 1.5", "retrieval.bank is 1.5; it must be a whole number or a text"),
        ("bank: all", "bank: cifar", "no source is named 'cifar'; choose all, a number"),
        ("kind: digits", "kind: digit", "corpus.sources[0].kind is 'digit'; it must be one of d"),
        ("kind: digits", "role: task", "corpus.sources[0].kind is missing"),
        ("kind: digits", "{kind: digits, role: test}", "[0].role is 'test'; it must be one of ta"),
        ("kind: digits", "{kind: digits, limit: 0}", "the limit of digits is 0; it must be a numb"),
        ("kind: digits", "{kind: digits, limit: 1.5}", "the limit of digits is 1.5; it must be a"),
        ("kind: digits", "{kind: digits, limit: .nan}", "the limit of digits is nan; it must be a"),
        ("kind: digits", "{kind: digits, limit: x}", "[0].limit is 'x'; it must be a whole numbe"),
        ("kind: digits", "{kind: digits, weight: -1}", "[0].weight is -1; it must be from 0 to"),
        ("kind: digits", "{kind: digits, weight: 0}", "every weight is 0, so there is nothing to"),
        ("kind: digits", "{kind: digits, name: a+b}", "the name 'a+b' may not contain '+'"),
        ("resize: crop", "resize: fit", "corpus.resize is 'fit'; it must be one of crop, squash, "),
        ("on_error: stop", "on_error: go", "corpus.on_error is 'go'; it must be one of stop, skip"),
        ("background: white", "background: red", "corpus.background is 'red'; it must be one of"),
        ("max_pixels: 100000000", "max_pixels: 1000000000", "corpus.max_pixels is 1000000000; it"),
        ("download: false", "download: 'no'", "corpus.download is 'no'; it must be true or false"),
        ("objective: byol", "objective: mae", "pretrain.encoder: pretrain.objective is mae"),
        ("head: []", "head: [0]", "pretrain.head[0] is 0; it must be at least 1"),
        ("temperature: 0 ", "temperature: 0.3 ", "pretrain.temperature is 0.3, but"),
        ("optimiser: sgd", "optimiser: lamb", "pretrain.optimiser is 'lamb'; it must be one of s"),
        ("alexnet+noise] #", "alexnet+checkpoint] #", "classifiers.init is empty"),
        ('  init: "" # what', "  init: {a: 3} # what", "it must be a text or a mapping of texts"),
        ('  init: "" # what', "  init: [a.pt] # what", "it must be a text or a mapping of texts"),
        ('  init: "" # what', '  init: {"a\\x07": b} # what', "it may not contain '\\x07'"),
        ("seed: 0", "seed: {a: 1}", "seed is {'a': 1}; it must be a whole number"),
        ("alexnet+noise] #", "alexnet+distilled] #", "classifiers.distill names no teacher"),
        (
            "alexnet+noise] #",
            "alexnet+x+y] #",
            "backbones[3]: 'alexnet+x+y' is no name of",
        ),
        (
            "alexnet+noise] #",
            "alexnet+grph] #",
            "must stand one of pretrained, checkpoint, f",
        ),
        ("alexnet+noise] #", "'timm:vit_tny'] #", "classifiers.backbones[3]: 'timm:vit_tny' is no"),
        ("schedule: cosine", "schedule: sine", "train.schedule is 'sine'; it must be one of cos"),
        ("average: none", "average: mean", "train.average is 'mean'; it must be one of none, em"),
        ("tune: []", "tune: [width]", "train.tune[0] is 'width'; it must be one of batch_s"),
        ("loggers: []", "loggers: [aim]", "train.loggers names aim, but there are csv"),
        ("label_fraction: 1.0", "label_fraction: 0", "train.label_fraction is 0; it must be more"),
        ("objective: byol", "objective: dall", "pretrain.objective is 'dall'; it must be one of"),
        (
            "encoder: resnet18",
            "encoder: vgg",
            "pretrain.encoder: 'vgg' is no backbone; choose from res",
        ),
        ("views: affine", "views: none", "pretrain.views is 'none'; it must be one of affine"),
        (
            "alexnet, perc",
            "alex, perc",
            "classifiers.backbones[1]: 'alex' is no backbone; choose from resnet",
        ),
        ("[resnet18, alexnet, perceiver, alexnet+noise]", "[]", "classifiers.backbones is empty"),
        ("[sampled, self, knn]", "[none, knn]", "'none' is always run"),
        ("[sampled, self, knn]", "[knn, knn]", "strategies is ['knn', 'knn']: a value stands"),
        ("[sampled, self, knn]", "[knn, near]", "strategies[1] is 'near'; it must be one of s"),
        ("augment: none", "augment: all", "train.augment is 'all'; it must be one of none"),
        ("seeds: [0]", "seeds: 0", "classifiers.seeds is 0; it must be a list"),
        ("seeds: [0]", "seeds: [0, x]", "classifiers.seeds[1] is 'x'; it must be a whole number"),
        ("0.2] #", "2] #", "evaluate.noise_std[5] is 2"),
        ("pretrain:", "pretrained:", "pretrained is no parameter (did you mean pretrain?)"),
        ("pretrain:", "seed: 1\npretrain:", "the key 'seed' stands twice"),
        ("seed: 0", "seed: [", "is not valid YAML"),
        ("seed: 0", "seed: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_mistakes_are_told_with_key_value_and_choices(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_checked(changed(tmp_path, old, new))


def test_two_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    params = load_checked(changed(tmp_path, "seed: 0", "seed: 0"))
    with pytest.raises(UserError, match=r"pretrain\.head is \[128\], but .*three widths"):
        check(replace(params, pretrain=replace(params.pretrain, objective="dino", head=(128,))))
    with pytest.raises(UserError, match=r"retrieval\.replay is 10, but retrieval\.k is 32"):
        replace(params.retrieval, strategies=("replay",), replay=10)
    grid = replace(params.classifiers, backbones=("alexnet+checkpoint",), init="nowhere.pth")
    starts = {"alexnet": "nowhere.pth"}
    with pytest.raises(UserError, match=r"classifiers\.init is empty for 'alexnet'"):
        replace(grid, init={"alexnot": "nowhere.pth"})
    with pytest.raises(UserError, match=r"classifiers\.init is 'nowhere\.pth', which does not"):
        check(replace(params, classifiers=replace(grid, init=starts)))
    with pytest.raises(
        UserError, match=r"classifiers\.init is 'nowhere\.pth', which does not exist"
    ):
        check(replace(params, classifiers=grid))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .*params.yaml"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_no_mapping(raw: object) -> None:
    with pytest.raises(UserError, match=r"params\.yaml is .* must have the keys seed, corpus"):
        parse(raw)


def test_numbers_may_be_written_with_exponents(tmp_path: Path) -> None:
    params = load(changed(tmp_path, "learning_rate: 0.001", "learning_rate: 1e-3"))
    assert params.train.learning_rate == 0.001


def test_sources_need_distinct_names(tmp_path: Path) -> None:
    twice = "- kind: digits\n    - kind: digits"
    with pytest.raises(UserError, match="'digits' stands twice"):
        load(changed(tmp_path, "- kind: digits", twice))
    named = load(changed(tmp_path, "- kind: digits", twice + "\n      name: more"))
    assert [source.name for source in named.corpus.sources] == ["digits", "more"]


def test_variants() -> None:
    params = load(ROOT / "params.yaml")
    names = [v.name for v in variants(params)]
    assert len(names) == len(set(names)) == 16
    assert names[0] == "resnet18-none-s0"
    assert "perceiver-knn-k32-all-s0" in names


def test_presets_keep_comments_and_go_back(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("# mine\n" + TEXT.replace("k: 32 #", "k: 7 # my own words,"))
    presets.write("tiny", path)
    text = path.read_text()
    assert text.startswith("# mine\n")
    assert re.search(r"k: 4 +# my own words, neighbours an image", text)
    assert load_checked(path).train.epochs == 1
    presets.write("digits", path)
    assert read_yaml(path.read_text()) == read_yaml(TEXT)


def test_networks_of_the_coursework_are_of_its_sizes(tmp_path: Path) -> None:
    """Weights of the published classifiers: 293 thousand, 1.15 and 4.4 million."""
    path = tmp_path / "params.yaml"
    for name, classes in (("cifar10", 10), ("stl10", 10), ("tiny-imagenet", 200)):
        presets.write(f"coursework-{name}", path)
        params = load(path)
        train, size = params.train, params.corpus.image_size
        assert train.epochs == 100
        assert train.augment != "none"
        for backbone, published in (("m", 293e3), ("l", 1.15e6), ("xl", 4.4e6)):
            assert f"perceiver_{backbone}" in params.classifiers.backbones
            with torch.device("meta"):
                network = EncoderSpec(
                    f"perceiver_{backbone}", train.width, train.stem, size, (0.5,) * 3, (0.2,) * 3
                )
                classifier = Classifier(ClassifierSpec(network, classes, "linear", frozen=False))
            weights = sum(tensor.numel() for tensor in classifier.parameters())
            head = weights if classes == 10 else weights - 190 * (classifier.backbone.features + 1)
            assert head == pytest.approx(published, rel=0.04), (name, backbone)


SLOW = tuple(name for name in presets.PRESETS if name.startswith("coursework"))
"""timm's models are made to see which images they take, and that takes seconds each."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in presets.PRESETS
    ],
)
def test_every_preset_is_valid_and_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    presets.write(name, path)
    assert isinstance(load_checked(path), Params)
    first = (ROOT / f"rapipe/config/presets/{name}.yaml").read_text().splitlines()[0]
    assert first == "# " + presets.describe(name)
    assert re.search(r"GPU|CPU", first), "the first comment names the cost"


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no preset 'huge'; choose from digits, tiny, own-images"):
        presets.write("huge", tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())


def test_results_that_differ_in_what_changes_none_may_be_compared() -> None:
    recipe = deciding(
        TrainingRecipe(loggers=("tensorboard",), probe_every=7, compile=True, deterministic=True)
    )
    assert recipe == deciding(TrainingRecipe())
    assert recipe != deciding(TrainingRecipe(epochs=7))
