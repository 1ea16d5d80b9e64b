"""Presets are written over whatever people, DVC and the study make of params.yaml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dvc.utils.serialize import modify_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml.error import YAMLError

from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.errors import UserError

KEY = re.compile(r"(?m)^(?P<indent> *)(?P<key>[a-z_0-9]+):(?P<value>.*)$")
LISTS = {
    "seeds": "[0, 1, 2]",
    "strategies": "[knn, diverse, sampled]",
    "backbones": "[resnet18+pretrained+frozen, alexnet, perceiver+distilled, alexnet+noise]",
    "noise_std": "[0.01, 0.02]",
    "tune": "[batch_size]",
}
"""Values that no preset has."""


@cache
def fresh(name: str) -> tuple[str, Params]:
    """A preset where there was no file, and its parameters."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        presets.write(name, path)
        return path.read_text(encoding="utf-8"), load(path)


def edit_as_dvc(text: str, folder: Path) -> str:
    """What `dvc exp run -S` leaves: block lists, and long inline ones folded."""
    path = folder / "dvc.yaml"
    path.write_bytes(text.encode())
    with modify_yaml(str(path)) as content:
        content["classifiers"]["seeds"] = [0, 1, 2]
        content["evaluate"]["noise_std"] = [0.125] * 40
        content["retrieval"]["k"] = 7
    return path.read_text(encoding="utf-8")


def change_list(text: str, key: str, write: str) -> str:
    """Another list for a key, written as it is drawn: folded, or a block with comments in it."""
    items = LISTS[key].strip("[]").split(", ")
    value = {
        "folded": " [" + ",\n      ".join(items) + "]",
        "broken": " # why\n    [" + " , # one\n    ".join(items) + "\n    ]",
        "block": "".join(f"\n    - {item} # one" for item in items),
        "flush": " # why" + "".join(f"\n  # one\n  - {item}" for item in items) + "\n",
    }[write]
    return re.sub(rf"(?m)^(  {key}:) \[.*?\]", lambda match: match[1] + value, text)


def move_up(text: str, key: str) -> str:
    """The group with this key first in the file, or the key first in its group."""
    group = re.search(rf"(?ms)^{key}:.*?(?=^[a-z]|\Z)", text)
    if not group:
        return text
    return group[0].rstrip("\n") + "\n" + text.replace(group[0], "")


def edits() -> st.SearchStrategy[tuple[str, ...]]:
    """Names of edits, with what they need."""
    key = st.sampled_from(sorted(presets_keys()))
    group = st.sampled_from(["corpus", "pretrain", "retrieval", "classifiers", "train", "evaluate"])
    writing = st.sampled_from(["folded", "broken", "block", "flush"])
    return st.one_of(
        st.tuples(st.sampled_from(["dvc", "study", "deeper", "document", "spaces"])),
        st.tuples(st.just("list"), st.sampled_from(sorted(LISTS)), writing),
        st.tuples(st.just("first"), group),
        st.tuples(st.sampled_from(["without", "quoted", "empty", "remark", "next line"]), key),
        st.tuples(st.sampled_from(["without group", "empty group", "in braces"]), group),
    )


def presets_keys() -> set[str]:
    return {match["key"] for match in KEY.finditer(fresh("digits")[0]) if match["indent"]}


def is_valid(text: str) -> bool:
    """Whether an edit left YAML that the next one can start from."""
    try:
        return isinstance(read_yaml(text), dict)
    except YAMLError:
        return False


def edited(text: str, edit: tuple[str, ...], folder: Path) -> str:
    name, *rest = edit
    key = rest[0] if rest else ""
    content = read_yaml(text)
    if name == "dvc":
        complete = all(isinstance(content.get(g), dict) for g in ("classifiers", "evaluate"))
        return edit_as_dvc(text, folder) if complete and content.get("retrieval") else text
    if name == "study":
        return write_yaml(content)
    if name == "list":
        return change_list(text, *rest)
    if name == "first":
        return move_up(text, key)
    if name in ("without group", "empty group"):
        new = f"{key}: # nothing\n" if name == "empty group" else ""
        return re.sub(rf"(?ms)^{key}:.*?(?=^[a-z]|\Z)", new, text) or "# nothing\n"
    if name == "in braces":
        braces = f"{key}: {{resize: pad}}\n" if key == "corpus" else f"{key}: {{}}\n"
        return re.sub(rf"(?ms)^{key}:.*?(?=^[a-z]|\Z)", braces, text)
    inline = {
        "without": "",
        "quoted": rf'\g<1>"{key}" : \g<2>',
        "empty": rf"\g<1>{key}:",
        "remark": rf"\g<1># mine\n      # mine too\n\g<1>{key}:\g<2>",
        "next line": rf"\g<1>{key}:\n\n       \g<2>",
    }
    if name == "deeper":
        return re.sub(r"(?m)^ +", lambda match: match[0] * 2, text)
    if name == "document":
        return text if text.startswith("---") else f"---\n{text}"
    if name == "spaces":
        return re.sub(r"(?m)$", "  ", text)
    return re.sub(rf"(?m)^(  ){key}:(.*)$", inline[name], text)


@settings(max_examples=8, deadline=None)
@given(
    first=st.sampled_from(presets.PRESETS),
    second=st.sampled_from(presets.PRESETS),
    changes=st.lists(edits(), max_size=5),
    ends=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    last=st.sampled_from(["", "\n", "\n\n# the end"]),
)
@example("digits", "digits", [("dvc",)], "\n", "", "\n")
@example("own-images", "tiny", [("dvc",), ("study",)], "\r\n", "\ufeff", "")
def test_a_preset_is_written_over_every_state(
    first: str,
    second: str,
    changes: list[tuple[str, ...]],
    ends: str,
    mark: str,
    last: str,
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "params.yaml"
        text, _ = fresh(first)
        for change in changes:
            new = edited(text, change, folder)
            text = new if is_valid(new) else text
        text = mark + (text.rstrip("\n") + last).replace("\n", ends)
        path.write_bytes(text.encode())
        presets.write(second, path)
        assert load(path) == fresh(second)[1]
        written = path.read_bytes().decode()
        assert written.count("# mine") == text.count("# mine")
        assert written.count("\r\n") == (written.count("\n") if ends == "\r\n" else 0)
        presets.write(second, path)
        assert path.read_bytes().decode() == written


def test_a_preset_over_what_dvc_rewrote_is_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    presets.write("digits", path)
    original = path.read_text(encoding="utf-8")
    path.write_text(edit_as_dvc(original, tmp_path), encoding="utf-8")
    presets.write("digits", path)

    def words(text: str) -> list[str]:
        return text.replace("''", '""').split()

    assert words(path.read_text(encoding="utf-8")) == words(original)


def test_sources_of_another_preset_leave_no_comments_behind(tmp_path: Path) -> None:
    path, fresh = tmp_path / "params.yaml", tmp_path / "fresh.yaml"
    presets.write("own-images", path)
    assert "# images without labels" in path.read_text(encoding="utf-8")
    presets.write("digits", path)
    presets.write("digits", fresh)
    assert path.read_bytes() == fresh.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  k: 32", "  kk: 1\n  k: 32", r"retrieval\.kk is no parameter"),
        ("  stages: last", "  places: last", r"retrieval\.places is called retrieval\.stages now"),
        ("\n  k: 32", "\n  k: &k 32\n  k2: *k", r"retrieval\.k2 is no parameter"),
        ("  width: 16 # channels of its", "  width: &w 24 # channels of its", ""),
        ("\n  k: 32", "\n\tk: 32", "is not valid YAML"),
        ("\n  k: 32", "\n  k: 32\n  k: 32", "stands twice"),
        ("\nevaluate:", "\n...\n---\nevaluate:", "is not valid YAML"),
    ],
)
def test_what_cannot_become_valid_stays_as_it_is(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    path = tmp_path / "params.yaml"
    presets.write("digits", path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    before = path.read_bytes()
    if not sentence:
        presets.write("tiny", path)
        assert load(path).pretrain.width == 4
        return
    with pytest.raises(UserError, match=sentence) as caught:
        presets.write("tiny", path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_an_anchor_that_a_value_needs_is_no_preset(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    presets.write("digits", path)
    text = path.read_text(encoding="utf-8").replace("width: 16 #", "width: &w 24 #", 1)
    text = text.replace("\n  width: 16 #", "\n  width: *w #", 1)
    path.write_text(text, encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(UserError, match="such as with anchors: delete it"):
        presets.write("tiny", path)
    assert path.read_bytes() == before
