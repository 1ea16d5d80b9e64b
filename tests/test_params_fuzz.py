"""What a params file may hold, and who refuses it: examples, and properties on a few more.

`make soak` draws many more.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from typer.testing import CliRunner

from rapipe.cli import app
from rapipe.config import presets
from rapipe.config.loading import load, parse
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.pipeline.running.check_names import load_checked
from tests.faults.params import PROPERTIES, assert_readable

TEXT = (ROOT / "params.yaml").read_text()
BOMB = "x: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RUNS = "!!python/object/apply:os.system ['touch ran']"


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_a_params_file_holds(name: str) -> None:
    examples, promise = PROPERTIES[name]

    @given(examples)
    def holds(example: object) -> None:
        promise(example)

    holds()


def text_with(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


FILES: dict[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "params.yaml is None; it must have the keys seed"),
    "a megabyte": ("x: " + "y" * 2**20, "params.yaml has more than 50,000 bytes"),
    "many entries": (
        text_with("seeds: [0]", f"seeds: [{'0,' * 20_000}]"),
        "classifiers.seeds has 20,000 entries; it may have 100",
    ),
    "a long text": (
        text_with('init: ""', f"init: {'x' * 5000}"),
        "of 5,000 letters; it may have 1,000",
    ),
    "UTF-16": (TEXT.encode("utf-16"), "params.yaml cannot be read: 'utf-8' codec can't decode"),
    "binary": (bytes(range(256)), "params.yaml cannot be read: 'utf-8' codec"),
    "NUL": (text_with("seed: 0", "seed: 0\0"), "is not valid YAML: unacceptable character #x0000"),
    "a tab": (text_with("  k: 32", "\tk: 32"), "is not valid YAML: while scanning for the next"),
    "two documents": (TEXT + "---\n" + TEXT, "expected a single document"),
    "nested deeply": ("[" * 2000, "params.yaml is nested too deeply"),
    "deeply indented": ("- " * 2000, "params.yaml is nested too deeply"),
    "many laughs": (BOMB, "x is no parameter"),
    "laughs for k": (
        BOMB.replace("\n", "\n  ").join(["retrieval:\n  ", ""]) + "\n  k: *i\n",
        "seed is missing",
    ),
    "laughs as k": (
        text_with("seed: 0", "seed: 0\n" + BOMB.replace("x: ", "x: ")).replace("k: 32", "k: *i"),
        "x is no parameter",
    ),
    "laughs inline": (
        text_with("k: 32", "k: [&a [1, 1, 1], &b [*a, *a, *a], &c [*b, *b, *b], [*c, *c, *c]]"),
        "[[...], [...], [...]], [[...], [...], [...]]",
    ),
    "a list of itself": (text_with("k: 32", "k: &k [*k]"), "retrieval.k is [[[[...]]]]"),
    "a group of itself": (
        text_with("evaluate:\n", "evaluate: &e\n  more: *e\n"),
        "evaluate.more is no parameter",
    ),
    "merged keys": (
        text_with("train:\n", "train:\n  <<: {k: 1}\n"),
        "train.'<<' is no parameter",
    ),
    "merged laughs": (BOMB + "k: {!!merge '<<': *i}", "the tag 'tag:yaml.org,2002:merge' is not"),
    "an unknown alias": (text_with("k: 32", "k: *k"), "found undefined alias 'k'"),
    "a key twice": (text_with("  k: 32", "  k: 1\n  k: 32"), "the key 'k' stands twice (line 6"),
    "a list as key": (text_with("seed: 0", "? [1]\n: 0"), "the key [1] is not a name (line 5)"),
    "a key with a bell": (text_with("seed: 0", '"se\\aed": 0'), r"'se\x07ed' is no parameter"),
    "no mapping": (text_with("k: 32", "k: !!map x"), "what is tagged map is no mapping (line 6"),
    "no mapping but a list": (text_with("k: 32", "k: !!map [a]"), "tagged map is no mapping"),
    "no number": (text_with("k: 32", "k: !!int x"), "'x' is tagged int, but is none (line 6"),
    "no time": (text_with("k: 32", "k: !!timestamp x"), "the tag 'tag:yaml.org,2002:timestamp'"),
    "binary text": (text_with("k: 32", "k: !!binary eA=="), "the tag 'tag:yaml.org,2002:binary'"),
    "a set": (text_with("k: 32", "k: !!set {a}"), "the tag 'tag:yaml.org,2002:set' is not read"),
    "an own tag": (text_with("k: 32", "k: !k 32"), "the tag '!k' is not read (line 6"),
    "code": (text_with("k: 32", f"k: {RUNS}"), "os.system' is not read (line 6"),
    "code as a key": (text_with("seed: 0", f"? {RUNS}\n: 0"), "os.system' is not read (line 5"),
    "thousands of digits": (
        text_with("k: 32", f"k: {'9' * 9000}"),
        "99; it must be at least 1, and at most 1,000",
    ),
    "thousands of digits for a share": (
        text_with("dropout: 0.5", f"dropout: {'9' * 9000}"),
        "it must be from 0 to 1",
    ),
    "sixty to the": (text_with("k: 32", "k: 1:30"), "retrieval.k is '1:30'; it must be a whole"),
    "sixteens": (text_with("k: 32", "k: 0x10"), "retrieval.k is '0x10'; it must be a whole num"),
    "yes": (text_with("download: false", "download: yes"), "corpus.download is 'yes'; it must be"),
    "a huge float": (text_with("dropout: 0.5", "dropout: 1e999"), "is inf; it must be a number"),
    "a terminal's escape": (
        text_with('init: ""', 'init: "\\e[31m"'),
        r"init is '\x1b[31m'; it may not contain '\x1b'",
    ),
    "half a letter": (
        text_with('init: ""', 'init: "\\ud800"'),
        r"init is '\ud800'; it may not contain '\ud800'",
    ),
    "an end of a path": (text_with('init: ""', 'init: "a\\0b"'), r"may not contain '\x00'"),
}


@pytest.mark.parametrize("name", FILES)
def test_odd_files_are_refused_in_one_short_sentence(name: str, tmp_path: Path) -> None:
    content, sentence = FILES[name]
    path = tmp_path / "params.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        load_checked(path)
    assert time.process_time() - start < 10
    assert_readable(str(caught.value))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_a_byte_order_mark_and_other_ends_of_lines_hold(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for raw in (b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()):
        path.write_bytes(raw)
        assert load_checked(path) == load(ROOT / "params.yaml")


def test_anchors_of_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = text_with("width: 16 #", "width: &w 24 #")
    path.write_text(
        text.replace("\n  width: 16 # channels of the first", "\n  width: *w # channels")
    )
    params = load(path)
    assert params.pretrain.width == params.train.width == 24


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.mkdir()
    for read in (load, lambda path: presets.write("tiny", path)):
        with pytest.raises(UserError, match=r"params\.yaml is no file"):
            read(path)
    path.rmdir()
    os.mkfifo(path)  # to open it would wait for ever
    with pytest.raises(UserError, match=r"params\.yaml is no file"):
        load(path)


@pytest.mark.parametrize("command", [["corpus"], ["results"], ["preset", "tiny"]])
@pytest.mark.parametrize("name", ["nested deeply", "code", "a list of itself", "UTF-16"])
def test_commands_refuse_with_code_2_and_run_nothing(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, _ = FILES[name]
    raw = content.encode() if isinstance(content, str) else content
    Path("params.yaml").write_bytes(raw)
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert not Path("ran").exists()
    if command[0] == "preset" and result.exit_code == 0:  # which replaces the list
        assert load_checked(Path("params.yaml"))
        return
    assert result.exit_code == 2
    assert result.stderr.startswith("error: params.yaml" if name != "a list of itself" else "err")
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 1000
    assert [path.name for path in Path().iterdir() if path.name != "data"] == ["params.yaml"]
    assert Path("params.yaml").read_bytes() == raw


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("k: 32", "k: 1001", "retrieval.k is 1001; it must be at least 1, and at most 1,000"),
        ("epochs: 18", "epochs: 1000000000000", "pretrain.epochs is 1000000000000; it must be at"),
        ("batch_size: 64", "batch_size: 1", "pretrain.batch_size is 1; it must be at least 2"),
        ("replay: 1000", "replay: 1000000001", "retrieval.replay is 1000000001; it must be at le"),
        ("bank: all", "bank: 1000000001", "retrieval.bank is 1000000001; choose all, a number"),
        ("bank: all", "bank: 31", "retrieval.k is 32, but retrieval.bank is 31: the memory must"),
        ("head: []", "head: [65537]", "pretrain.head[0] is 65537; it must be at least 1"),
        (
            "head: []",
            "head: [8193]",
            "with pretrain.objective: byol no layer may be wider",
        ),
        ("head: []", "head: [8192, 8192, 8192, 8192, 8192, 8192]", "layers of 335,544,320 weights"),
        ("temperature: 0 ", "temperature: 1e-300 ", "it must be 0, or from 0.001 to 100"),
        ("temperature: 1.0", "temperature: 1e-300", "it must be from 0.001 to 100"),
        ("clip: 0", "clip: 1e-300", "train.clip is 1e-300; it must be 0, or from 1e-06 to 1e+06"),
        ("mixup: 0", "mixup: 1e-300", "train.mixup is 1e-300; it must be 0, or from 0.001 to 100"),
        ("accumulate: 1", "accumulate: 1e30", "train.accumulate is 1e+30; it must be a whole num"),
        ("attributed: 250", "attributed: 1000000000000", "evaluate.attributed is 1000000000000;"),
        (
            "kind: digits",
            "{kind: digits, limit: 10000000000}",
            "limit of digits is 10000000000",
        ),
        ("kind: digits", "{kind: digits, name: ../x}", "the name '../x' may not contain '/'"),
        ("kind: digits", r"{kind: digits, name: 'a\b'}", r"'a\\b' may not contain '\\'"),
        (
            "kind: digits",
            '{kind: digits, name: "a\\u202eb"}',
            r"holds '\u202e', which cannot be shown",
        ),
        ("kind: digits", '{kind: digits, path: "a\\nb"}', r"path is 'a\nb'; it may not contain"),
        ("kind: digits", "{kind: digits, name: all}", "retrieval.bank is 'all', which is a sour"),
    ],
)
def test_what_nobody_can_mean_is_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text_with(old, new))
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_checked(path)


def named(name: str, bank: str) -> str:
    return text_with("kind: digits", f"{{kind: digits, name: '{name}'}}").replace(
        "bank: all", f"bank: {bank}"
    )


def test_a_memory_has_a_name_that_files_can_have(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(named("my photos (2024).v1", "my photos (2024).v1"))
    assert "alexnet-knn-k32-my photos (2024).v1-s0" in [v.name for v in variants(load(path))]
    path.write_text(named("ü" * 90, "ü" * 90))
    with pytest.raises(UserError, match="would have a name of 204 bytes, and files can be called"):
        load(path)
    path.write_text(named("300", "'300'"))
    with pytest.raises(UserError, match="bank is '300', which is a source's name and means a numb"):
        load(path)
    path.write_text(named("300", "300"))
    assert load(path).retrieval.bank == 300


def test_numbers_are_those_that_dvc_reads(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for written, read in (("010", 10), ("+9", 9), ("1_0", 10), ("1e1", None), ("1.0", None)):
        path.write_text(text_with("k: 32", f"k: {written}"))
        if read is None:
            with pytest.raises(UserError, match=r"retrieval\.k is 1.*0; it must be a whole numb"):
                load(path)
        else:
            assert load(path).retrieval.k == read
    for written, value in ((".5", 0.5), ("1.", 1.0), ("5e-1", 0.5), ("5.0E-1", 0.5), ("1", 1.0)):
        path.write_text(text_with("dropout: 0.5", f"dropout: {written}"))
        assert load(path).retrieval.dropout == value


def test_presets_are_written_over_what_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for content, sentence in (
        ("[" * 2000, "nested too deeply"),
        ("- " * 2000, "nested too deeply"),
        ("x: !!timestamp y", "is not valid YAML"),
        ("x: \0", "is not valid YAML"),
        (b"\xff", "cannot be read"),
        ("- 1", "holds no parameters"),
        ("x" * 60_000, "more than 50,000 bytes"),
    ):
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(raw)
        with pytest.raises(UserError, match=sentence) as caught:
            presets.write("tiny", path)
        assert_readable(str(caught.value))
        assert path.read_bytes() == raw
        assert list(tmp_path.iterdir()) == [path]


def test_a_message_names_few_of_many_things() -> None:
    with pytest.raises(UserError) as caught:
        parse(dict.fromkeys("x" * 1000, 0))
    assert_readable(str(caught.value))
